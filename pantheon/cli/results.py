"""What a training leaves behind: weights, a report and a picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors.torch import save

from pantheon.config import StudentConfig
from pantheon.errors import ConfigError
from pantheon.saving import whole_file
from pantheon.training.history import Epoch
from pantheon.training.loop import Training

KEYS = ("output", "report", "curves")
"""The keys that name files to be written at the end."""


def check_outputs(config: StudentConfig) -> None:
    """Find out before the training, not after it, that its results cannot be written.

    Raises:
        ConfigError: a folder that cannot be made, or no matplotlib for the picture.
    """
    for key in KEYS:
        path: Path | None = getattr(config, key)
        if path is not None:
            _make_folder(path.parent, config.where(key))
    if config.curves and find_spec("matplotlib") is None:
        raise ConfigError(
            f"{config.where('curves')}: the picture is drawn by matplotlib, which is not "
            "installed; install pantheon-kd[demo], or leave the key out"
        )


def _make_folder(folder: Path, where: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{where}: cannot make the folder {folder}: {error.strerror}; give one that can be "
            "written"
        ) from error


def write_results(config: StudentConfig, training: Training, stream: Mapping[str, Any]) -> None:
    """Write the files that a configuration names; `stream` is what the loader has counted."""
    state = training.final_model.state_dict()
    weights = save({k: v.detach().cpu().contiguous() for k, v in state.items()})
    if config.output:
        whole_file.write(config.output, weights)
    if config.curves:
        draw_curves(training.history, config.curves)
    if config.report:
        report = {
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "ids_sha256": training.ids,
            "ranks": training.ranks.world,
            "epochs": [asdict(epoch) for epoch in training.history],
            "stream": stream,
        }
        whole_file.write(config.report, (json.dumps(report, indent=2) + "\n").encode())


def draw_curves(history: Sequence[Epoch], path: Path) -> None:
    """Draw the losses over the epochs and, where there are any, the metrics beside them."""
    # The object interface, so that no display is looked for and no global state is left.
    from matplotlib.figure import Figure

    sides = [{k: [e.losses[k] for e in history] for k in history[0].losses}]
    if history[0].metrics:
        sides.append({k: [e.metrics[k] for e in history] for k in history[0].metrics})
    figure = Figure(figsize=(5 * len(sides), 3.6), dpi=130, layout="constrained")
    for index, (curves, what) in enumerate(zip(sides, ("loss", "metric"), strict=False)):
        axes = figure.add_subplot(1, len(sides), index + 1)
        for name, values in curves.items():
            axes.plot(range(1, len(values) + 1), values, label=name)
        axes.set(xlabel="epoch", ylabel=what)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, format="png")
