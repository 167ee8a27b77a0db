"""A student in a process of its own, for tests: ``python -m tests.integration.student JSON``.

The JSON has the loader's keywords under ``loader``, how many of the toy's numbers to see under
``size``, and

- ``epochs``: how many to read;
- ``save``: a folder for the loader's state after every step;
- ``restore``: a folder whose states are continued, one after another, to the last epoch's end;
- ``out``: a folder for one file per rank: for each run, what each step saw.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from student_client import KnowledgeLoader
from tests.integration.toy import Numbers

RANK = os.environ.get("RANK", "0")


def steps(loader: KnowledgeLoader, epochs: int, save: str | None) -> list[dict[str, Any]]:
    """Read to the end of the last epoch; answers what each step saw."""
    seen = []
    epoch = loader.state_dict()["epoch"]
    while epoch < epochs:
        for batch in loader:
            real = batch.mask
            seen.append(
                {
                    "ids": batch.ids[real].tolist(),
                    "inputs": batch.inputs[real].flatten().tolist(),
                    "knowledge": batch.knowledge["mean_float32"][real].flatten().tolist(),
                }
            )
            if save:
                name = f"state-{len(seen):03d}.json"
                if RANK == "0":
                    Path(save, name).write_text(json.dumps(loader.state_dict()))
        epoch += 1
    return seen


def main() -> None:
    """Do what the JSON says."""
    torch.set_num_threads(1)
    order = json.loads(sys.argv[1])
    runs = {}
    states = sorted(Path(order["restore"]).iterdir()) if "restore" in order else [None]
    for state in states:
        with KnowledgeLoader(Numbers(), ids=range(order["size"]), **order["loader"]) as loader:
            if state:
                loader.load_state_dict(json.loads(state.read_text()))
            runs[state.name if state else "run"] = steps(loader, order["epochs"], order.get("save"))
    Path(order["out"], f"rank-{RANK}.json").write_text(json.dumps(runs))


if __name__ == "__main__":
    main()
