"""``pantheon compress``: a pipeline of stages, from a YAML file."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pantheon.cli.output import how_far, numbers, progress, say_json, size, stdout
from pantheon.cli.serve import Json
from pantheon.compress.config import PipelineConfig
from pantheon.compress.watcher import Watcher
from pantheon.config import load

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pantheon.compress.pipeline import Summary
    from pantheon.ranks import Ranks
    from pantheon.training.history import Epoch, Step


def compress(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE.YAML")],
    resume: Annotated[
        bool, typer.Option(help="Go on with the run that the folder holds, if it does.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Show the plan and what it will cost, and do nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Compress a model by stages that read the teachers' stream.

    The pipelines that the file `needs` are run first, unless they are finished. What a run leaves
    is in the file's `folder`; a run that was stopped anywhere goes on with --resume and ends with
    the same bits. Under torchrun the processes train together; the first one speaks.
    """
    config = load(pipeline, PipelineConfig)
    from pantheon.compress.building import needed
    from pantheon.ranks import joined

    before = needed(config.needs, (pipeline.resolve(),))
    if dry_run:
        _show_plan([*before, (pipeline, config)], json)
        return
    with joined(config.stream.patience or 60.0) as ranks:
        run_pipelines(before, ranks, json)
        _run(pipeline, config, resume, json, ranks)


def run_pipelines(pipelines: list[tuple[Path, PipelineConfig]], ranks: Ranks, json: bool) -> None:
    """Run what something else needs; what another run left of them is gone on with."""
    for path, config in pipelines:
        _run(path, config, True, json, ranks)


def _run(path: Path, config: PipelineConfig, resume: bool, json: bool, ranks: Ranks) -> None:
    from pantheon.compress.pipeline import Pipeline, left_of

    summary = left_of(config, resume, ranks)
    if summary is None:
        quiet = json or not ranks.first
        with progress(hidden=quiet) as bar:
            shown = _Shown(bar, path.stem, quiet)
            with Pipeline.from_config(config, ranks=ranks, watcher=shown) as pipeline:
                summary = pipeline.run(resume=resume)
    if ranks.first:
        _tell(path, config, summary, json)


class _Shown(Watcher):
    """Progress as a bar for the training at hand, and a line for each stage and epoch."""

    def __init__(self, bar: Progress, title: str, quiet: bool) -> None:
        self._bar, self._title, self._quiet = bar, title, quiet
        self._task: TaskID | None = None
        self._name = ""

    def stage(self, index: int, name: str, of: int) -> None:
        """A line for the stage."""
        self._name = name
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self.say(f"stage {index + 1} of {of}")

    def step(self, step: Step) -> None:
        """Move the bar; what it says is looked up only when it is drawn anew."""
        if self._task is None:
            self._task = self._bar.add_task(self._name, total=step.epochs * step.steps, note="")
        if step.done % 10 == 0 or step.step == step.steps - 1:
            done, _, note = how_far(step)
            self._bar.update(self._task, completed=done, note=note)

    def epoch(self, epoch: Epoch) -> None:
        """A line for the epoch."""
        losses, metrics = numbers(epoch.losses, ".4f"), numbers(epoch.metrics)
        self.say(f"epoch {epoch.epoch + 1}  {losses}  {metrics}  {epoch.seconds:.1f} s")

    def say(self, text: str) -> None:
        """A line."""
        if not self._quiet:
            name = f"{self._title}, {self._name}" if self._name else self._title
            stdout.print(f"{name}: {text}", markup=False)
            stdout.file.flush()  # Into a file too it is to be read while the run goes on.


def _tell(path: Path, config: PipelineConfig, summary: Summary, json: bool) -> None:
    if json:
        told = {"stages": [r.as_json() for r in summary.reports], "test": summary.test}
        told["exported"] = {name: asdict(alike) for name, alike in summary.exported.items()}
        say_json({"pipeline": str(path), "artifact": str(summary.artifact)} | told)
        return
    first = summary.original
    stdout.print(_line("original", first, first), markup=False)
    for report in summary.reports:
        stdout.print(_line(report.stage, report.after, first), markup=False)
    for name, found in summary.test.items():
        stdout.print(f"test part, {name}: {numbers(found)}", markup=False)
    for name, alike in summary.exported.items():
        said = f"agrees with the result on {alike.agreement:.2%} of {alike.samples:,} samples"
        stdout.print(f"test part, {name}: {said}", markup=False)
    stdout.print(f"wrote {summary.artifact}; {_page(config.folder)}", markup=False)


def _page(run: Path) -> str:
    """Where the report's page is, or how to have it."""
    if missing := undrawn():
        return f"pantheon report {run} draws it, with {missing} installed"
    from pantheon.compress.report_page import load_run, write_page

    return f"{write_page([load_run(run)], run)[0]} shows it"


def undrawn() -> str:
    """What is missing to draw pages, by name; empty where nothing is."""
    return " and ".join(name for name in ("jinja2", "matplotlib") if find_spec(name) is None)


def _line(name: str, figures: Any, first: Any) -> str:
    """One model in numbers."""
    timed, whole = figures.latency.get("median"), first.latency.get("median")
    ms = "simulates integers" if timed is None else f"{timed:7.2f} ms"
    ratio = f" ({timed / whole:.2f}x)" if timed and whole else ""
    return (
        f"{name:<16} {figures.macs / 1e6:8.2f} M MACs  {figures.parameters / 1e6:7.3f} M parameters"
        f"  {size(figures.bytes):>9}  {ms + ratio:<18}  {numbers(figures.metric)}"
    ).rstrip()


def _show_plan(pipelines: list[tuple[Path, PipelineConfig]], json: bool) -> None:
    from pantheon.compress.plan import plan_of

    plans = [plan_of(path, config) for path, config in pipelines]
    if json:
        say_json({"pipelines": [asdict(plan) for plan in plans]})
        return
    for plan in plans:
        for line in plan.lines(size):
            stdout.print(line, markup=False)
