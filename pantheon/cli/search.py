"""``pantheon search``: works on a search, and shows how it is doing."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from pantheon.cli.compress import run_pipelines, undrawn
from pantheon.cli.guard import guarded
from pantheon.cli.output import numbers, progress, say_json, size, stdout
from pantheon.cli.search_workers import ENDING, STORAGE, workers_beside
from pantheon.cli.serve import Json
from pantheon.cli.stdin import stop_with_stdin
from pantheon.compress.search.config import SearchConfig
from pantheon.config import load

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from pantheon.compress.search.findings import Finding
    from pantheon.compress.search.trials import Fate


class _Runs(TyperGroup):
    """A group whose command is ``run`` where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name in."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args.insert(0, "run")
        return super().parse_args(ctx, args)


search = typer.Typer(
    cls=_Runs,
    no_args_is_help=True,
    help="Look for models by scoring many: pantheon search SEARCH.YAML works on it.",
)

File = Annotated[Path, typer.Argument(metavar="SEARCH.YAML")]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar=STORAGE,
        help="Database that workers share, as SQLAlchemy writes addresses.",
    ),
]


@search.command("run")
@guarded
def run(
    context: typer.Context,
    file: File,
    storage: Storage = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many points are trained, in place of the file's.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="How many processes work on it here, in place of the file's."),
    ] = None,
    beside: Annotated[
        bool,
        typer.Option("--beside", hidden=True, help="Be one of another process's workers."),
    ] = False,
    json: Json = False,
) -> None:
    """Work on a search until its budget is spent; goes on with what is there.

    Any number of workers may share a database, on any machines, and join or leave at any time.
    """
    config = _loaded(file, storage, trials=trials, workers=workers)
    if beside:
        _work_beside(config)
        return
    from pantheon.compress.building import needed
    from pantheon.compress.search.findings import best_of
    from pantheon.compress.search.keeping import keep
    from pantheon.compress.search.search import searching
    from pantheon.ranks import Ranks

    run_pipelines(needed(config.needs), Ranks(), json)
    with progress(hidden=json) as bar:
        task = bar.add_task(config.name, total=config.trials, note="trials")

        def said(told: str) -> None:
            from pantheon.compress.search.trials import Tally

            trials = worker.study.get_trials(deepcopy=False)
            bar.update(task, completed=Tally.of(trials).told)
            if not json:
                stdout.print(f"{config.name}: {told}", markup=False)
                stdout.file.flush()

        with searching(config, said=lambda trial: said(line(trial))) as worker:
            with workers_beside(file, config, context.find_root().params, said):
                tally = worker.run()
            best = best_of(worker.study)
            kept = keep(worker.task.space, best, config.folder)
    _tell(config.name, tally.fates, dict(zip(kept, best, strict=True)), json)
    if not json:
        stdout.print(_page(file, config, worker.study), markup=False)


def _tell(name: str, fates: Mapping[Fate, int], best: Mapping[Path, Finding], json: bool) -> None:
    """Say what a search came to, and where the best points' models are."""
    if json:
        told = {fate.value: count for fate, count in fates.items()}
        found = [{**asdict(each), "artifact": str(path)} for path, each in best.items()]
        say_json({"study": name, "trials": told, "best": found})
        return
    stdout.print(f"{name}: {counted(fates)}", markup=False)
    for path, finding in best.items():
        stdout.print(f"best: {_finding(finding)}  {path}", markup=False)


def _work_beside(config: SearchConfig) -> None:
    """Be one of another process's workers, and print nothing but a line for each trial."""
    from pantheon.compress.search.search import searching

    stop_with_stdin(signal.SIGINT, ENDING)
    # Metrics and health are the first one's, which has the port.
    config = config.model_copy(update={"stream": config.stream.model_copy(update={"http": None})})
    with searching(config, said=lambda trial: print(line(trial), flush=True)) as worker:
        worker.run()


def _page(file: Path, config: SearchConfig, study: Study) -> str:
    """Where the report's page is, or how to have it."""
    if missing := undrawn():
        return f"pantheon search report {file} draws it, with {missing} installed"
    from pantheon.compress.search.page import write_search_page

    return f"{write_search_page(config, study, config.folder)} shows it"


@search.command("report")
@guarded
def report(
    file: File,
    storage: Storage = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page; by default the search's.")
    ] = None,
) -> None:
    """Make a page with pictures of a search, finished or not: front, history, importance."""
    config = _loaded(file, storage)
    from pantheon.compress.search.page import write_search_page
    from pantheon.compress.search.storage import study_named

    study = study_named(config.url, config.name)
    stdout.print(str(write_search_page(config, study, out or config.folder)), markup=False)


@search.command("status")
@guarded
def status(
    file: File,
    storage: Storage = None,
    watch: Annotated[
        bool | None,
        typer.Option("--watch/--once", help="Go on until Ctrl-C; the default on a terminal."),
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    json: Json = False,
) -> None:
    """Show how a search is doing: its trials by what became of them, and the best so far."""
    config = _loaded(file, storage)
    from pantheon.compress.search.storage import study_named

    study = study_named(config.url, config.name)
    live = (stdout.is_terminal and not json) if watch is None else watch
    if json or not live:
        while True:
            if json:
                say_json(_plain(study, config))
            else:
                stdout.print(_table(study, config))
            if not live:
                return
            time.sleep(every)
    with Live(console=stdout, auto_refresh=False, transient=False) as shown:
        while True:
            shown.update(_table(study, config), refresh=True)
            time.sleep(every)


def _loaded(file: Path, storage: str | None, **other: int | None) -> SearchConfig:
    """What a file says, with what the command line gives in its place."""
    config = load(file, SearchConfig)
    given: dict[str, Any] = {"storage": storage, **other}
    return config.model_copy(update={name: value for name, value in given.items() if value})


def line(trial: FrozenTrial) -> str:
    """A trial in one line."""
    from pantheon.compress.search.trials import COSTS, FOUND, WHY, fate_of

    told = trial.user_attrs
    took = trial.duration.total_seconds() if trial.duration else 0.0
    parts = [
        f"trial {trial.number} {fate_of(trial).value}",
        told.get(WHY, ""),
        numbers(told.get(FOUND, {})),
        costs_line(told.get(COSTS, {})),
        f"{took:.1f} s",
    ]
    return "  ".join(part for part in parts if part)


def costs_line(costs: Mapping[str, float]) -> str:
    """Costs in units that people read.

    Example:
        >>> costs_line({"macs": 9_100_000, "bytes": 3_500_000})
        'macs 9.10 M  bytes 3.5 MB'
    """
    made = []
    for name, value in costs.items():
        shown = size(value) if name == "bytes" else f"{value:.4g}"
        shown = f"{value / 1e6:.2f} M" if name != "bytes" and value >= 1e5 else shown
        made.append(f"{name} {shown}")
    return "  ".join(made)


def counted(fates: Mapping[Any, int]) -> str:
    """How many trials met with which fate, those that did.

    Example:
        >>> counted({"scored": 3, "infeasible": 0})
        '3 scored'
    """
    return ", ".join(f"{count} {fate}" for fate, count in fates.items() if count)


def _finding(finding: Finding) -> str:
    chosen = ", ".join(f"{name}: {value}" for name, value in finding.chosen.items())
    told = f"{numbers(finding.found)}  {costs_line(finding.costs)}"
    return f"trial {finding.number}  {told}  {{{chosen}}}"


def _plain(study: Study, config: SearchConfig) -> dict[str, Any]:
    from pantheon.compress.search.findings import best_of
    from pantheon.compress.search.trials import Tally

    tally = Tally.of(study.get_trials(deepcopy=False))
    return {
        "study": config.name,
        "budget": config.trials,
        "told": tally.told,
        "trials": {fate.value: count for fate, count in tally.fates.items()},
        "best": [asdict(finding) for finding in best_of(study)],
    }


def _table(study: Study, config: SearchConfig) -> RenderableType:
    from pantheon.compress.search.findings import best_of
    from pantheon.compress.search.trials import Tally

    tally = Tally.of(study.get_trials(deepcopy=False))
    head = Text(f"{config.name}: {tally.told} of {config.trials}; {counted(tally.fates)}")
    best: Sequence[Finding] = best_of(study)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("best")
    for name in (*(best[0].found if best else ()), *(best[0].costs if best else ())):
        table.add_column(name, justify="right")
    table.add_column("chosen", overflow="fold")
    for finding in best:
        costs = [costs_line({name: value}).removeprefix(f"{name} ") for name, value in
                 finding.costs.items()]  # fmt: skip
        chosen = "  ".join(f"{name} {value}" for name, value in finding.chosen.items())
        found = [f"{value:.4g}" for value in finding.found.values()]
        table.add_row(str(finding.number), *found, *costs, chosen)
    return Group(head, table)
