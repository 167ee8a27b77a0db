"""``pantheon distill``: train a student on its teachers' stream."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pantheon.cli.output import how_far, numbers, progress, say_json, stdout
from pantheon.cli.serve import Json
from pantheon.config import StudentConfig, load

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pantheon.training.history import Epoch, Step


def distill(
    student: Annotated[Path, typer.Argument(metavar="STUDENT.YAML")],
    fresh: Annotated[
        bool, typer.Option(help="Start anew, and remove the checkpoint that is there.")
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT for metrics and health by HTTP, such as 127.0.0.1:9464; "
            "rank r of a machine takes PORT + r."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train a student on what its teachers know, online, dumped or mixed.

    With a `checkpoint` in the file, the state is kept after every epoch, and the same command goes
    on from there. Under torchrun the ranks train one student together; the first one speaks.
    """
    config = load(student, StudentConfig)
    from pantheon.cli.loader import stream_from
    from pantheon.cli.results import check_outputs, write_results
    from pantheon.cli.streams import brought_about
    from pantheon.cli.student import training_from
    from pantheon.ranks import joined
    from student_client import KnowledgeLoader

    check_outputs(config)
    with (
        joined(config.patience or 60.0) as ranks,
        brought_about(config, ranks) as teachers,
        stream_from(config, teachers, http=http) as loader,
    ):
        assert isinstance(loader, KnowledgeLoader)  # The configuration has a teacher at least.
        if loader.http is not None:
            log.info("rank %d: metrics and health at %s", ranks.rank, loader.http)
        with progress(hidden=json or not ranks.first) as bar:
            shown = _Shown(bar, loader.stats, json)
            told = {"on_step": shown.step, "on_epoch": shown.epoch} if ranks.first else {}
            training = training_from(config, loader, ranks, **told)
            if fresh:
                training.discard()
            elif training.resume() and ranks.first and not json:
                stdout.print(f"resumed after epoch {len(training.history)}", markup=False)
            history = training.run()
        if ranks.first:
            write_results(config, training, loader.stats().as_dict())
            if json:
                say_json({"epochs": [asdict(epoch) for epoch in history]})


class _Shown:
    """Progress as a bar and a line for each epoch, or as a line of JSON for each.

    The bar says the loss, the share of the time spent waiting for the stream, and for each teacher
    how many rows it is behind the one that is furthest.
    """

    def __init__(self, bar: Progress, stats: Callable[[], Any], json: bool) -> None:
        self._bar, self._stats, self._json = bar, stats, json
        self._task: TaskID = bar.add_task("distill", total=None, note="")

    def step(self, step: Step) -> None:
        """Move the bar; what it says is looked up only when it is drawn anew."""
        if step.done % 10 == 0 or step.step == step.steps - 1:
            done, total, note = how_far(step)
            self._bar.update(self._task, completed=done, total=total, note=note + self._behind())

    def _behind(self) -> str:
        lags = {name: t.lag for name, t in self._stats().teachers.items() if t.lag}
        return "".join(f"  {name} {lag} behind" for name, lag in lags.items())

    def epoch(self, epoch: Epoch) -> None:
        """Say what an epoch came to."""
        if self._json:
            say_json(asdict(epoch))
            return
        losses, metrics = numbers(epoch.losses, ".4f"), numbers(epoch.metrics)
        rate = epoch.samples / epoch.seconds if epoch.seconds else 0.0
        stdout.print(
            f"epoch {epoch.epoch + 1}  {losses}  {metrics}  {rate:.0f} samples/s, "
            f"waited {epoch.wait:.2f} s of {epoch.seconds:.2f}",
            markup=False,
        )
