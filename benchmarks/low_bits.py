"""What training through the rounding wins back of the teacher's answers, at 8 bits and at 4.

Run ``python -m benchmarks.low_bits [--seeds 3] [--epochs 3]``. The table's MobileNetV1 x 0.5
(`benchmarks.table`'s B, trained here where it is not yet) is quantized after training, and then
learns from the table's ResNet-18 through the rounding, without labels, with steps that learn (LSQ)
at 4 bits. Printed, for each number of bits and seed, are the fraction of the 5,000 validation views
on which model and teacher give the same answer and the divergence from the teacher, before and
after. Exit status 1 if training loses agreement at 8 bits, or does not win any at 4, in the mean
over seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.table_cells import PARTS, RUNS, Table
from pantheon.compress.pipeline import Pipeline
from pantheon.compress.report import Likeness

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


def measured(table: Table, bits: int, seed: int, epochs: int) -> tuple[Likeness, Likeness]:
    """How alike model and teacher are after quantization, and after training."""
    made = pipeline(table, bits, seed, epochs)
    path = Path(f"{made['folder']}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    with Pipeline.from_file(path) as ready:
        before, after = (report.after.teacher for report in ready.run(resume=True).reports)
    assert before is not None
    assert after is not None
    return before, after


def main() -> None:
    """Measure, and judge."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    table, won = Table(), {}
    for cell in ((TEACHER, 0), *(("B", seed) for seed in range(given.seeds))):
        if not table.is_here(*cell):
            table.run(*cell)
    for bits in LEARNED:
        gains = []
        for seed in range(given.seeds):
            before, after = measured(table, bits, seed, given.epochs)
            gains.append(100 * (after.agreement - before.agreement))
            print(
                f"{bits} bits, seed {seed}: agrees with the teacher on {before.agreement:.2%} -> "
                f"{after.agreement:.2%}, divergence {before.kl:.4f} -> {after.kl:.4f} nats",
                flush=True,
            )
        won[bits] = float(np.mean(gains))
        sd = f" ± {np.std(gains, ddof=1):.2f}" if len(gains) > 1 else ""
        print(f"{bits} bits: {won[bits]:+.2f}{sd} points of agreement by training", flush=True)
    sys.exit(won[8] < 0 or won[4] <= 0)


if __name__ == "__main__":
    main()
