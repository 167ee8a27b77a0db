"""A checkpoint is whole or is not there, and holds what was put into it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from pantheon.errors import DiskFullError, StoreError
from pantheon.saving import checkpoint, copies, nested

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
STATES = st.dictionaries(
    st.text() | st.integers(),
    st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(inner)
            | st.tuples(inner)
            | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        ),
        max_leaves=10,
    ),
)


@given(STATES)
def test_plain_values_come_back_as_they_were(tmp_path_factory: Any, state: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.safetensors"
    checkpoint.save(path, state)
    assert checkpoint.load(path) == state


def test_an_optimizers_state_comes_back(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / "deep" / "state.safetensors"
    checkpoint.save(path, {"optimizer": optimizer.state_dict()})
    other = torch.optim.Adam(model.parameters())
    other.load_state_dict(checkpoint.load(path)["optimizer"])
    assert str(other.state_dict()) == str(optimizer.state_dict())


def test_tied_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    tensor = torch.arange(6).reshape(2, 3)
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"a": tensor, "b": tensor, "c": tensor.T})
    state = checkpoint.load(path)
    assert torch.equal(state["a"], tensor)
    assert torch.equal(state["b"], tensor)
    assert torch.equal(state["c"], tensor.T)


BITS = torch.tensor([0x7FC00001, 0x3F800000, -0x80000000], dtype=torch.int32)
TENSORS = {
    "nan, with its bits": BITS.view(torch.float32),
    "bfloat16": torch.tensor([1.5, -0.0, torch.inf], dtype=torch.bfloat16),
    "float8": torch.ones(3).to(torch.float8_e4m3fn),
    "bool": torch.tensor([True, False]),
    "uint16": torch.tensor([65535], dtype=torch.uint16),
    "complex, a conjugate": torch.tensor([1 + 2j]).conj(),
    "a negative view": torch.tensor([1 + 2j]).conj().imag,
    "a number": torch.tensor(3.0),
    "empty": torch.ones(0, 3),
    "expanded": torch.ones(1).expand(2, 3),
    "every second": torch.arange(10)[::2],
    "a parameter": nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("name", TENSORS)
def test_every_kind_of_dense_tensor_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    tensor = TENSORS[name]
    checkpoint.save(tmp_path / "state", {"x": tensor})
    found = checkpoint.load(tmp_path / "state")["x"]
    expected = tensor.detach().resolve_conj().resolve_neg()
    expected = expected.clone(memory_format=torch.contiguous_format)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert found.flatten().view(torch.uint8).tolist() == (
        expected.flatten().view(torch.uint8).tolist()
    )


class Wrapped(torch.Tensor):
    """A tensor that is not plain."""


OTHERS: dict[str, tuple[Any, str]] = {
    "meta": (torch.ones(1, device="meta"), "on meta"),
    "sparse": (torch.eye(2).to_sparse(), "torch.sparse_coo, on cpu"),
    "complex128": (torch.ones(1, dtype=torch.complex128), "of torch.complex128"),
    "lazy": (nn.LazyLinear(2).weight, "no values yet"),
    "subclass": (torch.ones(1).as_subclass(Wrapped), "is a Wrapped"),
    "a large number": (10**5000, "cannot be written as JSON"),
    "a set": ({1}, "is a set"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_values_that_would_not_come_back_are_refused(tmp_path: Path, name: str) -> None:
    value, says = OTHERS[name]
    with pytest.raises(StoreError, match=says):
        checkpoint.save(tmp_path / "state", {"x": value})
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_holds_itself_is_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    state["state"] = state
    with pytest.raises(StoreError, match="cannot be written as JSON: maximum recursion"):
        checkpoint.save(tmp_path / "state", state)


def test_tensors_at_one_path_are_not_mixed_up(tmp_path: Path) -> None:
    values = [torch.tensor(i) for i in range(5)]
    state = {
        "a": {"b": values[0], 0: values[1], "0": values[2]},
        "a.b": values[3],
        "a.0": values[4],
    }
    checkpoint.save(tmp_path / "state", state)
    assert checkpoint.load(tmp_path / "state") == state


def test_a_schedules_milestones_come_back_as_they_were(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], 1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    checkpoint.save(tmp_path / "state", schedule.state_dict())
    state = checkpoint.load(tmp_path / "state")
    assert state == schedule.state_dict()
    assert isinstance(state["milestones"], Counter)


def test_what_cannot_be_saved_is_named_and_the_old_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"step": 1})
    with pytest.raises(StoreError, match=r"state\.model\.f is a function"):
        checkpoint.save(path, {"model": {"f": lambda: None}})
    with pytest.raises(StoreError, match="a key of type float"):
        checkpoint.save(path, {1.5: 0})
    assert checkpoint.load(path) == {"step": 1}


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"step": 1})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="the previous checkpoint is kept"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def steps(path: Path) -> list[int]:
    """What the files at `path` hold, the newest first."""
    return [checkpoint.load(copies.older(path, age))["step"] for age in copies.ages(path)]


def test_older_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    for step in range(6):
        checkpoint.save(path, {"step": step}, keep=3)
        assert steps(path) == list(range(step, -1, -1))[:3]
    checkpoint.forget(path, 2)
    assert steps(path) == [5, 4]
    assert len(list(tmp_path.iterdir())) == 2


def test_other_files_of_a_like_name_are_no_copies(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for name in ("state.01", "state.x", "state.-1", "state.1.bak", "astate.1", "state."):
        (tmp_path / name).write_text("other")
    assert copies.ages(path) == []
    checkpoint.forget(path, 0)
    assert len(list(tmp_path.iterdir())) == 6


def test_older_files_are_kept_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    test_older_files_are_kept(tmp_path)


def test_a_link_stays_a_link_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    file, path = tmp_path / "disk" / "state", tmp_path / "state"
    path.symlink_to(file)
    for step in range(2):
        checkpoint.save(path, {"step": step}, keep=2)
    assert path.is_symlink()
    assert steps(file) == [1, 0]


def test_a_folder_or_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir()
    with pytest.raises(StoreError, match=r"cannot write the checkpoint .*Is a directory"):
        checkpoint.save(path, {"step": 1})
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write the checkpoint"):
        checkpoint.save(tmp_path / "file" / "state", {"step": 1})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file", "state"]


def test_what_killed_writers_left_is_swept_and_nothing_of_their_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "state"
    ours = (".state.12ab34cd.partial", ".state.12ab34cd.held.partial")
    others = (
        ".other.12ab34cd.partial",
        ".state.b.12ab34cd.partial",
        ".state.12ab34cd.12ab34cd.partial",
        ".state.b.safetensors",
        ".state.notes.partial",
    )
    for name in ours + others:
        (tmp_path / name).touch()
    checkpoint.sweep(path)
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(others)


SAVES = """
import sys
from pathlib import Path
import torch
from pantheon.saving import checkpoint

while True:
    checkpoint.save(Path(sys.argv[1]), {"x": torch.ones(1 << 24)})
"""


def test_a_process_killed_while_it_writes_leaves_nothing_that_the_next_does_not_remove(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", SAVES, path]) as writer:
        while not (left := [file for file in tmp_path.iterdir() if file != path]):
            time.sleep(0.0005)
        writer.kill()
    assert left
    checkpoint.sweep(path)
    assert [file for file in tmp_path.iterdir() if file != path] == []


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        checkpoint.save(tmp_path / "state", {"x": torch.ones(1)})
    finally:
        os.umask(before)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_safetensors_library_reads_a_checkpoint(tmp_path: Path) -> None:
    tensors = {f"{i}": t.detach().contiguous() for i, t in enumerate(TENSORS.values())}
    checkpoint.save(tmp_path / "state", tensors)
    found = load_file(tmp_path / "state")
    assert sorted(found) == sorted(f"state.{name}" for name in tensors)
    for name, tensor in tensors.items():
        assert str(found[f"state.{name}"]) == str(tensor.resolve_conj().resolve_neg())
    size = int.from_bytes((tmp_path / "state").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "state").read_bytes()[8 : 8 + size])
    del header["__metadata__"]
    for name, entry in header.items():
        assert (8 + size + entry["data_offsets"][0]) % found[name].itemsize == 0


def test_a_large_state_is_written_without_a_second_copy_in_memory() -> None:
    pieces = nested.content({"x": torch.zeros(1 << 20), "y": torch.zeros(1 << 20)}, {})
    tracemalloc.start()
    assert sum(map(len, pieces)) > 1 << 23
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 16


def test_a_file_that_is_replaced_while_it_is_read_stays_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safetensors opens the path that it is given twice."""
    path, opened = tmp_path / "state", checkpoint.safe_open

    def late(file: Any, framework: str) -> Any:
        checkpoint.save(path, {"step": 2, "x": torch.tensor([2])})
        return opened(file, framework)

    checkpoint.save(path, {"step": 1, "x": torch.tensor([1])})
    monkeypatch.setattr(checkpoint, "safe_open", late)
    assert checkpoint.load(path) == {"step": 1, "x": torch.tensor([1])}


def test_every_byte_of_a_file_is_guarded(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state = {"step": 7, "x": torch.arange(3.0), "note": "abc"}
    checkpoint.save(path, state)
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        try:
            found = checkpoint.load(path)
        except StoreError:
            continue
        assert str(found) == str(state), i  # A space of the header became another one.
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(StoreError):
            checkpoint.load(path)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (None, "without 'pantheon.state' in its metadata"),
        ({"pantheon.state": "{"}, "contradicts itself"),
        ({"pantheon.state": json.dumps({"map": [["a", {"tensor": "b"}]]})}, "contradicts itself"),
        ({"pantheon.state": json.dumps({"pickle": "x"})}, "contradicts itself"),
        ({"pantheon.state": "[]"}, "expected a mapping"),
        ({"pantheon.state": json.dumps({"map": []})}, "was altered after it was written"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, metadata: Any, says: str) -> None:
    path = tmp_path / "state.safetensors"
    save_file({"x": torch.ones(1)}, path, metadata)
    with pytest.raises(StoreError, match=says):
        checkpoint.load(path)


def test_absent_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read the weights"):
        checkpoint.load_weights(tmp_path / "absent")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04")
    with pytest.raises(StoreError, match="expected a safetensors file"):
        checkpoint.load_weights(tmp_path / "pickle.pt")
