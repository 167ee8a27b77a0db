"""What training through the rounding wins back of the teacher's answers, at 8 bits and at 4.

Run ``python -m benchmarks.low_bits [--seeds 3] [--epochs 3] [--only 0 2]``. The table's
MobileNetV1 x 0.5 (`benchmarks.table`'s B, trained here where it is not yet) is quantized after
training, and then learns from the table's ResNet-18 through the rounding, without labels, with
steps that learn (LSQ) at 4 bits. Printed, for each number of bits and seed, are the fraction of the
5,000 validation views on which model and teacher give the same answer and the divergence from the
teacher, before and after. Every finished seed leaves a record in ``benchmarks/results/low_bits``;
with ``--only`` some seeds are run and the others' records read. Exit status 1 if training loses
agreement at 8 bits, or does not win any at 4, in the mean over seeds, or a seed is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.table_cells import PARTS, RUNS, Table, digest_of
from pantheon.compress.pipeline import Pipeline
from pantheon.compress.run_folder import write_json

TEACHER = "resnet"
LEARNED = {8: {}, 4: {"thresholds": "lsq", "weight_thresholds": "lsq"}}
"""Bits, and what else they ask of the quantize stage."""

OPTIMIZERS = {
    8: {"name": "sgd", "lr": 0.0001, "momentum": 0.9},
    4: {"name": "adamw", "lr": 0.001},
}
"""By bits: what did best in `examples/vision/pipeline.yaml`, on its validation part."""


def pipeline(table: Table, bits: int, seed: int, epochs: int) -> dict[str, Any]:
    """Quantize a cell of B, and train it through the rounding."""
    made = table.pipeline("distil-1", seed)
    made["stream"]["teachers"] = {TEACHER: made["stream"]["teachers"][TEACHER]}
    made["stream"]["parts"] = {n: PARTS[n] for n in ("train", "validation")}
    del made["test_metric"]
    quantize = {"stage": "quantize", "bits": bits, "weight_bits": bits, **LEARNED[bits]}
    learned = {
        "stage": "distil",
        "epochs": epochs,
        "validate_every": 0,
        "losses": [{"loss": "kl", "field": "logits", "temperature": 4}],
        "optimizer": {**OPTIMIZERS[bits], "schedule": "cosine"},
    }
    folder = RUNS.parent / "low_bits" / f"{bits}-{seed}-{epochs}"
    return made | {"folder": str(folder), "stages": [quantize, learned]}


def measured(table: Table, bits: int, seed: int, epochs: int) -> dict[str, Any]:
    """How alike model and teacher are after quantization, and after training; as it is kept."""
    made = pipeline(table, bits, seed, epochs)
    path = Path(f"{made['folder']}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    with Pipeline.from_file(path) as ready:
        reports = ready.run(resume=True).reports
    before, after = (report.after.teacher for report in reports)
    assert before is not None
    assert after is not None
    return {
        "asked": asked(table, bits, seed, epochs),
        "before": {"agreement": before.agreement, "kl": before.kl},
        "after": {"agreement": after.agreement, "kl": after.kl},
        "from": {cell[0]: table.weights(*cell) for cell in (("B", seed), (TEACHER, 0))},
        "torch": str(torch.__version__),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {table.device}",
    }


def asked(table: Table, bits: int, seed: int, epochs: int) -> str:
    """A digest of what decides a seed's outcome."""
    made = pipeline(table, bits, seed, epochs)
    return digest_of([made["stages"], table.digest("B", seed), table.digest(TEACHER, 0)])


def record(table: Table, bits: int, seed: int, epochs: int) -> Path:
    """Where a seed's record is."""
    return table.home / "benchmarks/results/low_bits" / f"{bits}-{seed}-{epochs}.json"


def found(table: Table, bits: int, seed: int, epochs: int) -> dict[str, Any] | None:
    """A seed's record; None if there is none.

    Raises:
        SystemExit: one of other settings.
    """
    path = record(table, bits, seed, epochs)
    if not path.exists():
        return None
    held: dict[str, Any] = json.loads(path.read_text())
    if held["asked"] != asked(table, bits, seed, epochs):
        raise SystemExit(f"{path} is of other settings than this file has; remove it")
    return held


def run(table: Table, seed: int, epochs: int) -> None:
    """Measure what a seed has no record of."""
    missing = [bits for bits in LEARNED if found(table, bits, seed, epochs) is None]
    for cell in ((TEACHER, 0), ("B", seed)):
        if missing and not table.is_here(*cell):
            table.run(*cell)
    for bits in missing:
        path = record(table, bits, seed, epochs)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measured(table, bits, seed, epochs))


def told(table: Table, bits: int, seeds: int, epochs: int) -> float:
    """Print what a number of bits comes to; answers the points won in the mean, NaN without all."""
    every = [found(table, bits, seed, epochs) for seed in range(seeds)]
    gains = []
    for seed, each in enumerate(every):
        if each is None:
            print(f"{bits} bits, seed {seed}: not run yet")
            continue
        before, after = each["before"], each["after"]
        gains.append(100 * (after["agreement"] - before["agreement"]))
        print(
            f"{bits} bits, seed {seed}: agrees with the teacher on {before['agreement']:.2%} -> "
            f"{after['agreement']:.2%}, divergence {before['kl']:.4f} -> {after['kl']:.4f} nats"
        )
    if len(gains) < seeds:
        return math.nan
    sd = f" ± {np.std(gains, ddof=1):.2f}" if len(gains) > 1 else ""
    print(f"{bits} bits: {np.mean(gains):+.2f}{sd} points of agreement by training")
    return float(np.mean(gains))


def main() -> None:
    """Measure, and judge."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="+", help="seeds to run; all by default")
    given = parser.parse_args()
    table = Table()
    for seed in range(given.seeds) if given.only is None else given.only:
        run(table, seed, given.epochs)
    won = {bits: told(table, bits, given.seeds, given.epochs) for bits in LEARNED}
    sys.exit(not (won[8] >= 0 and won[4] > 0))


if __name__ == "__main__":
    main()
