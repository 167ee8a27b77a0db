"""What the command line shows: lines, JSON, tables and progress."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from pantheon.training.history import Step

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say_json(value: Any) -> None:
    """One line of JSON on standard output, there as soon as it is written.

    JSON has no numbers for what is not finite: they are the texts NaN, Infinity and -Infinity.
    """
    typer.echo(json.dumps(_finite(value), allow_nan=False))
    stdout.file.flush()


def _finite(value: Any) -> Any:
    """Plain values with numbers that are not finite as text, as ``float`` reads it back."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


class Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        """The rate of the last seconds."""
        return Text(f"{task.speed:.0f}/s" if task.speed else "", style="progress.data.speed")


def progress(*, hidden: bool = False) -> Progress:
    """A progress bar on standard error with rate and remaining time; not drawn without a terminal.

    Tasks have a field ``note``: the unit, and what else there is to say.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        Rate(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        console=stderr,
        disable=hidden or not stderr.is_terminal,
        refresh_per_second=5,
    )


def size(count: float) -> str:
    """Bytes in the unit that fits.

    Example:
        >>> size(512), size(53_880), size(3.2e9)
        ('512 B', '53.9 kB', '3.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def numbers(values: Mapping[str, float], form: str = ".4g") -> str:
    """Names and numbers in a row.

    Example:
        >>> numbers({"kl": 0.25, "labels": 1.5}, ".3f")
        'kl 0.250  labels 1.500'
    """
    return "  ".join(f"{name} {value:{form}}" for name, value in values.items())


def how_far(step: Step) -> tuple[int, int, str]:
    """The steps of a training that are done, all of them, and a note with loss and waiting."""
    done, total = step.epoch * step.steps + step.step + 1, step.epochs * step.steps
    share = step.wait / step.seconds if step.seconds else 0.0
    return done, total, f"steps  loss {float(step.loss):.3f}  waiting {share:.0%}"


def facts(title: str, values: Mapping[str, Any]) -> None:
    """A title and aligned names and values; absent values are left out."""
    stdout.print(title, style="bold", markup=False)
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if value is not None:
            stdout.print(f"  {name:<{width}}  {value}", markup=False)
