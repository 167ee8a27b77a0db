"""What a compression run left in its folder, finished or not, as values to show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pantheon.compress import report, run_folder
from pantheon.compress.report import Figures, Likeness, StageReport
from pantheon.compress.run_folder import RunFolder
from pantheon.errors import ConfigError, StoreError
from pantheon.quote import quoted

_STAGE = re.compile(r"([1-9][0-9]{0,3})-.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Run:
    """A run, as its folder tells.

    Args:
        path: the folder.
        name: what to call it; differs from those of the other runs on the page.
        asked: what was asked for, in values of JSON.
        original: the model that went in; None while it is not measured.
        stages: reports of the stages that are done, in order.
        test: the metrics on the test part by model; empty without one.
        exported: how alike files of integers and the last model answer there.
        finished: whether all was done.
        planned: how many stages were asked for; 0 if that is not known.
        begun: the folder of a stage that began and is not done; empty without one.
    """

    path: Path
    name: str
    asked: Mapping[str, Any] = field(default_factory=dict)
    original: Figures | None = None
    stages: Sequence[StageReport] = ()
    test: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    exported: Mapping[str, Likeness] = field(default_factory=dict)
    finished: bool = True
    planned: int = 0
    begun: str = ""

    @property
    def models(self) -> list[tuple[str, Figures]]:
        """The original, where it is measured, and what came out of each stage, by name."""
        first = [("original", self.original)] if self.original else []
        return [*first, *((stage.stage, stage.after) for stage in self.stages)]


def stages_of(runs: Sequence[Run]) -> list[tuple[str, Run, StageReport]]:
    """All stages that are done: what to call each on a page of these runs, its run, its report."""
    return [
        (report.stage if len(runs) == 1 else f"{run.name}: {report.stage}", run, report)
        for run in runs
        for report in run.stages
    ]


def load_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        ConfigError: there is no run in it.
        StoreError: a file of it cannot be read, is too large, or says what no run writes.
    """
    kept = RunFolder(path, [])
    if not kept.run.is_file():
        raise ConfigError(
            f"{path} holds no run.json; expected the folder of a run: the `folder` of the file "
            "that was given to pantheon compress"
        )
    asked = _mapping(_versioned(kept.run, run_folder.VERSION).get("asked", {}), kept.run, "asked")
    plan = asked.get("stages")
    stages, begun = _stages(path)
    figures = kept.original.parent / "figures.json"
    return Run(
        path=path,
        name=path.resolve().name or str(path),
        asked=asked,
        original=_original(figures, stages),
        stages=stages,
        test=_summed(kept.summary, "test", dict[str, dict[str, float]]),
        exported=_summed(kept.summary, "exported", dict[str, Likeness]),
        finished=kept.summary.exists(),
        planned=len(plan) if isinstance(plan, list) else 0,
        begun=begun,
    )


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """Read several runs; those whose folders have the same name are called by their paths.

    Raises:
        ConfigError: no folder, one that is given twice, or one that holds no run.
        StoreError: as `load_run`.
    """
    if not paths:
        raise ConfigError("no run is given; name the folder of at least one")
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ConfigError(f"the run {path} is given twice; name each folder once")
        seen.add(path.resolve())
    runs = [load_run(path) for path in paths]
    names = [run.name for run in runs]
    return [replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]


def _stages(path: Path) -> tuple[list[StageReport], str]:
    """The reports of stages in the order of their numbers, and the folder that has none yet."""
    found = [(int(m[1]), p) for p in path.iterdir() if (m := _STAGE.fullmatch(p.name))]
    folders = [p for _, p in sorted(found) if p.is_dir()]
    done = [p / "report.json" for p in folders if (p / "report.json").exists()]
    begun = [p.name for p in folders if not (p / "report.json").exists()]
    return [_checked(StageReport, _versioned(p, report.VERSION), p) for p in done], begun[
        0
    ] if begun else ""


def _original(path: Path, stages: Sequence[StageReport]) -> Figures | None:
    if path.exists():
        found: Figures = _checked(Figures, _read(path), path)
        return found
    return stages[0].before if stages else None


def _summed(path: Path, key: str, kind: Any) -> Any:
    """What a run came to in the end; empty while it is not finished."""
    return _checked(kind, _read(path).get(key, {}), path) if path.exists() else {}


def _versioned(path: Path, version: int) -> dict[str, Any]:
    values = _read(path)
    if values.get("version") != version:
        raise StoreError(
            f"{path} has version {quoted(values.get('version'))}; this release reads version "
            f"{version} only"
        )
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        return run_folder.read_json(path)
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, or brackets nested as deep.
        raise StoreError(f"cannot read {path}: {error!s:.200}; was it altered?") from error


def _mapping(value: Any, path: Path, key: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise StoreError(f"{path}: {key} is {quoted(value)}; expected a mapping: was it altered?")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _checked(kind: Any, values: Any, path: Path) -> Any:
    """A value of a type, from JSON that may have been altered."""
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise StoreError(
            f"{path}: {where}: {first['msg']}; found {quoted(first['input'])}: was it altered?"
        ) from error
