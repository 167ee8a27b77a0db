"""``pantheon report``: a page about compression runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pantheon.cli.output import say_json, stdout
from pantheon.cli.serve import Json


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of compression runs.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page; by default the first run's.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What models are judged by; by default their first metric.")
    ] = None,
    lower: Annotated[
        bool, typer.Option("--lower-is-better", help="Less of the metric is better, as of a loss.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a page with figures and pictures of compression runs, finished or not."""
    from pantheon.compress.report_page import Choice, load_runs, write_page

    found = load_runs(runs)
    page, pictures = write_page(found, out or runs[0], Choice(metric, lower))
    if json:
        told = [
            {"path": str(run.path), "finished": run.finished, "stages": len(run.stages)}
            for run in found
        ]
        say_json({"page": str(page), "pictures": [str(p) for p in pictures], "runs": told})
    else:
        stdout.print(str(page), markup=False)
