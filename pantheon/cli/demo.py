"""``pantheon demo``: two teachers and a student on scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pantheon.cli.serve import Json
from pantheon.errors import ConfigError


def demo(
    seeds: Annotated[int, typer.Option(min=1, help="Students of each kind.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each student.")] = 40,
    out: Annotated[Path, typer.Option(help="Folder for teachers, report and pictures.")] = Path(
        "runs/demo"
    ),
    json: Json = False,
) -> None:
    """Show that a student learns from an online teacher, a dumped one, and both.

    Real data, real processes: 1,797 scanned digits; under 3 minutes on two cores.
    """
    try:
        import matplotlib  # noqa: F401  # only to say early that it is missing
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo needs {error.name}; install pantheon-kd[demo], or run make demo"
        ) from error
    from pantheon.cli.demo_run import run

    run(seeds, epochs, out, json)
