"""``pantheon latency``: tables of what operators take, and what models will."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pantheon.cli.compress import run_pipelines
from pantheon.cli.guard import guarded
from pantheon.cli.output import facts, progress, say_json, stdout
from pantheon.cli.serve import Json
from pantheon.config import load
from pantheon.errors import ConfigError

if TYPE_CHECKING:
    from pantheon.compress.latency_table.prediction import Prediction
    from pantheon.compress.latency_table.table import Table
    from pantheon.compress.search.space import Space

latency = typer.Typer(
    no_args_is_help=True,
    help="Predict what models will take on a device, from what their operators took there.",
)

TableFile = Annotated[Path, typer.Argument(metavar="TABLE.JSON")]
Input = Annotated[
    str | None,
    typer.Option("--input", metavar="CxHxW", help="Shape of one sample, such as 3x224x224."),
]
Other = Annotated[
    bool, typer.Option("--other-device", help="Take a table that is of another device.")
]


@latency.command("build")
@guarded
def build(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="SEARCH.YAML", help="A search whose space the table is for."),
    ] = None,
    net: Annotated[
        list[str] | None,
        typer.Option(help="A ready-made space in place of a search's; may be repeated."),
    ] = None,
    shape: Input = None,
    out: Annotated[
        Path | None, typer.Option(help="Where it goes; by default what the search names.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a run.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a run.")] = 1,
    precision: Annotated[
        str, typer.Option(help="Of the numbers: float32, or int8 for models once quantized.")
    ] = "float32",
    nets: Annotated[
        int, typer.Option(min=4, help="How many nets of each space are measured whole.")
    ] = 12,
    points: Annotated[
        int,
        typer.Option(min=0, help="How many nets are looked at, at most, for what they consist of."),
    ] = 1500,
    json: Json = False,
) -> None:
    """Measure operators on this machine, and some nets by which their sum is calibrated.

    Nets are points by chance of a search's space, or of ready-made ones. A table that is half built
    goes on; one that is built gets what it lacks. Let nothing else run meanwhile.
    """
    from pantheon.compress.latency_table.building import Builder
    from pantheon.compress.latency_table.building import points as points_of
    from pantheon.compress.latency_table.precision import check_precision

    check_precision(precision)
    spaces, target = _asked(file, net, shape, out, batch, json)
    with _told(target, json) as said:
        builder = Builder(target, threads, batch, said, precision)
        for name, space, inputs in spaces:
            builder.calibrate(list(islice(points_of(space, name, inputs, 1), nets)))
            builder.cover(points_of(space, name, inputs, 2), points)
    _show(target, builder.table, json)


Asked = tuple[str, "Space", Any]
"""The name of a space, the space, and inputs."""


def _asked(
    file: Path | None,
    nets: list[str] | None,
    shape: str | None,
    out: Path | None,
    batch: int,
    json: bool,
) -> tuple[list[Asked], Path]:
    """The spaces that a table is for, and where it goes."""
    if (file is None) == (not nets):
        raise ConfigError("name a search, or spaces by --net: one of the two")
    if file is None:
        if out is None:
            raise ConfigError("say where the table goes: --out TABLE.json")
        return [_ready(name, _sample(shape, batch)) for name in nets or ()], out
    return _searched(file, out, batch, json)


def _ready(name: str, inputs: Any) -> Asked:
    from pantheon.compress.search.factory_space import ready_made

    return name, ready_made(name, {}, 0, "--net"), inputs


def _searched(file: Path, out: Path | None, batch: int, json: bool) -> tuple[list[Asked], Path]:
    from pantheon.compress.building import needed
    from pantheon.compress.search.config import SearchConfig
    from pantheon.compress.search.search import space_and_inputs
    from pantheon.ranks import Ranks

    config = load(file, SearchConfig)
    if config.space.bits is not None:
        raise ConfigError(
            f"{config.space.where('bits')}: a table has no times of fewer bits than 8, so that "
            "all points would take as long; build the table by a search of nets"
        )
    target = out or (config.latency.table if config.latency else None)
    if target is None:
        raise ConfigError(
            f"{file} names no table; say latency: {{table: FILE}} there, or --out TABLE.json"
        )
    run_pipelines(needed(config.needs), Ranks(), json)
    return [(config.name, *space_and_inputs(config, batch))], target


@latency.command("show")
@guarded
def show(table: TableFile, json: Json = False) -> None:
    """Show what a table is of, and how far its predictions are from the truth."""
    from pantheon.compress.latency_table.table import Table

    _show(table, Table.load(table), json)


@latency.command("predict")
@guarded
def predict(
    table: TableFile,
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Folders of saved models.")
    ],
    shape: Input = None,
    other_device: Other = False,
    json: Json = False,
) -> None:
    """Predict what models will take. Operators that the table lacks are measured and kept in it."""
    from pantheon.compress.artifact import Artifact
    from pantheon.compress.latency_table.prediction import Predictor

    predictor = Predictor.load(table, other=other_device)
    inputs = _sample(shape, predictor.table.conditions.batch)
    for folder in models:
        found = predictor.predict(Artifact.load(folder).model, inputs)
        if json:
            say_json({"model": str(folder), **asdict(found)})
        else:
            stdout.print(f"{folder}: {_line(found)}", markup=False)


@latency.command("import")
@guarded
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A table in PaddleSlim's format.")],
    out: Annotated[Path, typer.Option(help="Where the table goes, as JSON.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads that it was measured with.")] = 1,
    json: Json = False,
) -> None:
    """Import a table of another device that PaddleSlim's tools wrote, latencies in milliseconds."""
    from pantheon.compress.latency_table.paddleslim import read_paddleslim

    found = read_paddleslim(file, threads)
    if out.exists():
        raise ConfigError(f"{out} is there already; remove it, or give another name")
    found.table.save(out)
    if not json:
        told = ", ".join(f"{count} of {name}" for name, count in sorted(found.left.items()))
        stdout.print(f"lines that have no place in a table: {told or 'none'}", markup=False)
    _show(out, found.table, json, left=dict(found.left))


def _sample(shape: str | None, batch: int) -> Any:
    import torch

    if shape is None or not re.fullmatch(r"\d{1,6}(x\d{1,6}){0,3}", shape):
        raise ConfigError(f"--input is {shape}; expected one sample's shape, such as 3x224x224")
    return torch.randn(batch, *map(int, shape.split("x")))


def _line(found: Prediction) -> str:
    """A prediction in one line."""
    error = "of unknown error" if found.error is None else f"± {found.error:.1%}"
    beyond = "" if found.within or found.error is None else ", beyond the nets of the calibration"
    new = f", {len(found.measured)} measured now" if found.measured else ""
    return f"{found.milliseconds:.3f} ms {error}, {found.operators} operators{new}{beyond}"


def _show(file: Path, table: Table, json: bool, **more: Any) -> None:
    line = table.calibration
    kinds = Counter(operator.kind for operator in table.entries)
    if json:
        told = {"table": str(file), "conditions": asdict(table.conditions), "operators": kinds}
        say_json(told | {"calibration": None if line is None else asdict(line), **more})
        return
    device = table.conditions.device
    facts(
        str(file),
        {
            "processor": device.processor,
            "instructions": device.instructions or None,
            "system": device.system,
            "runtime": device.runtime,
            "threads": table.conditions.threads,
            "batch": table.conditions.batch,
            "precision": table.conditions.precision,
            "operators": f"{len(table.entries)}: "
            + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
            "error": "not known: no nets were measured"
            if line is None
            else f"{line.kept:.0%} of nets within {line.error:.1%}, half within {line.median:.1%}",
            "calibrated": None
            if line is None
            else f"on {line.nets} nets of {line.lowest:.2f} to {line.highest:.2f} ms",
        },
    )


@contextmanager
def _told(file: Path, json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for what is being measured."""
    with progress(hidden=json) as bar:
        task = bar.add_task(file.name, total=None, note="")

        def said(what: str, done: int, of: int) -> None:
            bar.update(task, completed=done, total=of or None, note=what)

        yield said
