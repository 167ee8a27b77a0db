"""The predecessor's toy, bit for bit, over every way from teacher to student and every cut."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from student_client import KnowledgeLoader
from teacher_server import start
from tests.integration.pairwise import pairwise
from tests.integration.toy import MERGES, SHIFTS, SIZE, Numbers, toy_teachers

WAYS = ("tcp", "grpc", "ipc", "inproc", "offline", "local")
EPOCHS = 3
MATRIX: dict[str, tuple[Any, ...]] = {
    "minus": WAYS,
    "plus": WAYS,
    "batch": (7, 32, 500),
    "cut": ("part", "one", "several"),
    "shuffle": (False, True),
}
BOUNDS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "int8": 1 / 254}
"""Largest relative error of one element (for int8, of its row's largest)."""


def rows_of(cut: str, batch: int) -> int:
    """Rows of a request that is a part of a batch, a batch, or several."""
    return {"part": batch // 2, "one": batch, "several": 3 * batch}[cut]


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """For every way and model, what to give a loader as the teacher."""
    folder = tmp_path_factory.mktemp("toy")
    teachers = toy_teachers()
    for name, teacher in teachers.items():
        teacher.dump(str(folder / name), shard_rows=300)
    binds = ["tcp://127.0.0.1:0", "grpc://127.0.0.1:0", f"ipc://{folder}/toy.sock"]
    command = [sys.executable, "-m", "tests.integration.toy", *binds]
    root = Path(__file__).parents[2]
    with (
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process,
        start(teachers, "inproc://toy"),
    ):
        assert process.stdout is not None
        tcp, grpc, ipc = json.loads(process.stdout.readline())
        yield {
            "tcp": {m: f"{tcp}/{m}" for m in teachers},
            "grpc": {m: f"{grpc}/{m}" for m in teachers},
            "ipc": {m: f"{ipc}#{m}" for m in teachers},
            "inproc": {m: f"inproc://toy/{m}" for m in teachers},
            "offline": {m: str(folder / m) for m in teachers},
            "local": dict(teachers),
        }
        process.terminate()
        process.wait(10)


def check(ways: dict[str, dict[str, Any]], case: dict[str, Any]) -> None:
    """Three epochs: every id once, in the order of the batches, mean 2x and sum 4x."""
    with KnowledgeLoader(
        Numbers(),
        batch_size=case["batch"],
        shuffle=case["shuffle"],
        seed=5,
        teachers={name: ways[case[name]][name] for name in SHIFTS},
        merge=MERGES,
        request_rows=rows_of(case["cut"], case["batch"]),
        dataset_fingerprint="toy",
    ) as loader:
        orders = [check_epoch(loader, case["batch"]) for _ in range(EPOCHS)]
    in_order = torch.arange(SIZE)
    assert all(torch.equal(o.sort().values, in_order) for o in orders)
    if case["shuffle"]:
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(orders, 2))
    else:
        assert all(torch.equal(o, in_order) for o in orders)


def check_epoch(loader: KnowledgeLoader, size: int) -> torch.Tensor:
    """One epoch's ids, in order, after comparing every value."""
    ids = []
    for batch in loader:
        x = batch.ids.to(torch.float32).unsqueeze(1)
        assert torch.equal(batch.inputs, x)
        assert torch.equal(batch.targets, batch.ids)
        check_values(batch.knowledge.fields, x)
        ids.append(batch.ids.clone())
    assert {len(i) for i in ids[:-1]} <= {size}
    assert len(ids[-1]) == (SIZE % size or size)
    return torch.cat(ids)


def check_values(fields: Mapping[str, Any], x: torch.Tensor) -> None:
    """Bit-equal in float32; within the bound of both teachers together in other codecs."""
    assert torch.equal(fields["mean_float32"], 2 * x)
    assert torch.equal(fields["sum_float32"], 4 * x)
    for codec, bound in BOUNDS.items():
        most = bound * ((2 * x - 1).abs() + (2 * x + 1).abs()) * (1 + 1e-6)
        assert ((fields[f"mean_{codec}"] - 2 * x).abs() <= most / 2).all()
        assert ((fields[f"sum_{codec}"] - 4 * x).abs() <= most).all()


def named(cases: list[dict[str, Any]]) -> list[Any]:
    """Pytest parameters with readable ids."""
    return [pytest.param(case, id="-".join(map(str, case.values()))) for case in cases]


@pytest.mark.parametrize("case", named(pairwise(MATRIX)))
def test_two_teachers_merge_alike_whatever_way_they_take(
    ways: dict[str, dict[str, Any]], case: dict[str, Any]
) -> None:
    check(ways, case)


@pytest.mark.conformance
@pytest.mark.parametrize(
    "case",
    named([dict(zip(MATRIX, v, strict=True)) for v in itertools.product(*MATRIX.values())]),
)
def test_the_whole_matrix_merges_alike(
    ways: dict[str, dict[str, Any]], case: dict[str, Any]
) -> None:
    check(ways, case)
