"""Whether sensitivity without labels ranks layers as sensitivity with labels does.

Run ``python -m benchmarks.sensitivities [--seeds 3] [--samples 4000]`` after ``benchmarks.table``
has trained B (in ``runs/table``). Of each seed's B every layer loses 10 to 90 % of its channels by
L1, and what that costs is measured on validation views by top-1, and by the divergence from the
unpruned model's answers; layers are ranked by the area under that curve. Tables stay in
``runs/sensitivities`` and are gone on with. Exit status 1 if Spearman's rho is below 0.7.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from scipy import stats

from benchmarks.table_cells import PARTS, ROOT, Table
from pantheon.compress.prune.curves import Sensitivity
from pantheon.compress.run_folder import read_json

RUNS = Path("runs/sensitivities")
BY = ("top1", "kl")
ASKED = 0.7


def measured(table: Table, seed: int, samples: int) -> dict[str, Sensitivity]:
    """The tables of one B, by what was measured."""
    folder = RUNS / f"{seed}-{samples}-{table.digest('B', seed)[:8]}"
    spec = {
        "folder": str(folder),
        "artifact": str(table.folder("B", seed)),
        "threads": 1,
        "seed": seed,
        "stream": {
            "dataset": "examples.vision.data:patches",
            "dataset_args": table.spec["data"],
            "parts": {name: PARTS[name] for name in ("train", "validation")},
            "batch_size": 250,
        },
        "metric": "examples.vision.metrics:accuracy",
        "stages": [
            {"stage": "sensitivity", "name": by, "by": by, "validation": samples} for by in BY
        ],
    }
    path = table.home / f"{folder}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pantheon", "compress", str(path), "--resume"]
    subprocess.run(command, cwd=table.home, env=environment, check=True)
    found = {}
    for number, by in enumerate(BY, 1):
        file = table.home / folder / f"{number}-{by}" / "sensitivity.json"
        found[by] = Sensitivity.from_json(read_json(file))
    return found


def main() -> None:
    """Measure and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=4000)
    given = parser.parse_args()
    table, found = Table(), []
    for seed in range(given.seeds):
        with_labels, without = measured(table, seed, given.samples).values()
        layers = list(with_labels.points)
        areas = [[each.area(layer) for layer in layers] for each in (with_labels, without)]
        rho = float(stats.spearmanr(*areas).statistic)
        found.append(rho)
        print(f"seed {seed}: Spearman's rho over {len(layers)} layers {rho:.3f}", flush=True)
    spread = f" (sd {np.std(found, ddof=1):.3f})" if len(found) > 1 else ""
    print(f"mean {np.mean(found):.3f}{spread}; at least {ASKED} is asked for")
    sys.exit(bool(np.mean(found) < ASKED))


if __name__ == "__main__":
    main()
