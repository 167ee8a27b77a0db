"""The teachers of the cluster's example: ``python -m pantheon.demo.teach FOLDER``.

Trains both of the demo's teachers, once, so that all replicas of one serve the same weights.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from pantheon.demo import models
from pantheon.demo.recipe import TEACHER_EPOCHS, train_teacher

KINDS = {"teacher-a": "conv_net", "teacher-b": "wide_mlp"}
"""The weights' names, and the functions of `pantheon.demo.models` whose weights they are."""


def teach(folder: Path, epochs: int = TEACHER_EPOCHS) -> list[Path]:
    """Train what is not there yet; answers the files of weights, each written atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, kind in KINDS.items():
        file = folder / f"{name}.safetensors"
        files.append(file)
        if not file.exists():
            torch.manual_seed(0)
            partial = file.with_suffix(".partial")
            model = train_teacher(getattr(models, kind)(), epochs=epochs)
            save_file(model.state_dict(), partial)
            os.replace(partial, file)
    return files


if __name__ == "__main__":
    torch.set_num_threads(1)
    for path in teach(Path(sys.argv[1])):
        print(path)
