"""The files that a pipeline's run leaves, and what it takes to go on with one.

::

    FOLDER/
      run.json               what was asked for, by whom it can be gone on with
      0-original/artifact/   the model as it went in
      1-distil/              a stage: its own files while it works, and then
        artifact/              the model that came out
        report.json            what it came to; a stage that has one is done
      summary.json           all reports in short; a run that has one is finished
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pantheon.errors import CompressionError, ConfigError, ResumeMismatch, StoreError
from pantheon.saving import whole_file

VERSION = 1
MAX_JSON = 64 << 20
"""Bytes of a JSON file that are read."""

ELSEWHERE = ("folder", "needs", "stream.patience", "stream.http", "stream.cache_bytes")
"""Settings that may change when a run is gone on with: the result is the same."""


GIVEN = "given"
"""Where a run is told apart by its artifact and stages, among what it was asked for."""


def write_json(path: Path, value: Any) -> None:
    """Write a file so that there is always a whole one, the old or the new.

    Raises:
        CompressionError: a value that JSON cannot hold.
        StoreError: the disk refuses.
    """
    whole_file.sweep(path.parent, path.name)
    try:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise CompressionError(
            f"{path} cannot be written: {error}; figures are finite numbers, texts, lists and "
            "mappings, no arrays or tensors"
        ) from error
    with whole_file.refusals(str(path), "free space and go on with --resume"):
        whole_file.write(path, text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """A file's mapping.

    Raises:
        StoreError: it cannot be read, is too large, or is no JSON mapping.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise StoreError(f"{path} has {size} bytes; expected at most {MAX_JSON}")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot read {path}: {error}; was it altered?") from error
    if not isinstance(found, dict):
        raise StoreError(f"{path} holds a {type(found).__name__}; expected a JSON mapping")
    return found


class RunFolder:
    """The folder of one run.

    Args:
        path: the folder.
        names: the names of the stages, in order.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.names = path, names

    @property
    def run(self) -> Path:
        return self.path / "run.json"

    @property
    def summary(self) -> Path:
        """Written when everything is done."""
        return self.path / "summary.json"

    @property
    def original(self) -> Path:
        """The artifact that went in."""
        return self.path / "0-original" / "artifact"

    def stage(self, index: int) -> Path:
        """The folder of a stage, from 0."""
        return self.path / f"{index + 1}-{self.names[index]}"

    def artifact(self, index: int) -> Path:
        """The artifact that came out of a stage; that went in at -1."""
        return self.original if index < 0 else self.stage(index) / "artifact"

    def report(self, index: int) -> Path:
        """The report of a stage."""
        return self.stage(index) / "report.json"

    def done(self, index: int) -> bool:
        """Whether a stage came to its end."""
        return self.report(index).exists()

    def begin(self, asked: Mapping[str, Any], resume: bool) -> None:
        """Make the folder, or make sure that the run in it is the one that is asked for.

        Raises:
            ConfigError: there is a run already, and it is not to be gone on with.
            ResumeMismatch: it is another one; says what differs.
            StoreError: the folder cannot be used.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {self.path}: {error.strerror}") from error
        whole_file.sweep(self.path, self.run.name, self.summary.name)
        if self.run.exists() and not self._begun():
            # Nothing was learned yet: whatever was wrong with it, this is another run.
            shutil.rmtree(self.original.parent, ignore_errors=True)
            self.run.unlink()
        if not self.run.exists():
            if stranger := next(
                (p.name for p in self.path.iterdir() if p.is_file() or any(p.iterdir())), None
            ):
                raise ConfigError(
                    f"the folder {self.path} holds {stranger!r} and no run.json; give a folder of "
                    "its own to this pipeline"
                )
            write_json(self.run, {"version": VERSION, "asked": asked})
            return
        if not resume:
            raise ConfigError(
                f"{self.path} holds a run already; go on with it (--resume), or remove it or give "
                "another folder to begin anew"
            )
        self.check(asked)

    def _begun(self) -> bool:
        """Whether any stage has left anything."""
        stages = [p for p in self.path.iterdir() if p.is_dir() and p != self.original.parent]
        return any(any(stage.iterdir()) for stage in stages)

    def check(self, asked: Mapping[str, Any]) -> None:
        """Make sure that the run in the folder was asked for like that.

        Args:
            asked: without what it was given (`GIVEN`), that is not compared.

        Raises:
            ResumeMismatch: says what differs.
        """
        kept = read_json(self.run)
        if kept.get("version") != VERSION:
            raise ResumeMismatch(
                f"{self.run} has version {kept.get('version')!r}; this release goes on with "
                f"version {VERSION} only"
            )
        then = {k: v for k, v in kept.get("asked", {}).items() if k != GIVEN or GIVEN in asked}
        found = list(differences(then, json.loads(json.dumps(asked))))
        if found:
            raise ResumeMismatch(
                f"{self.path} holds a run that was asked for otherwise:\n"
                + "\n".join(f"  {where}: {then!r} then, {now!r} now" for where, then, now in found)
                + "\ngo on with the same settings, or give another folder to begin anew"
            )


def result_of(path: Path) -> Path:
    """The folder of an artifact: of the one that a finished run came to, or `path` itself.

    Raises:
        ConfigError: a run that is not finished.
    """
    summary = path / "summary.json"
    if summary.exists():
        return path / str(read_json(summary).get("artifact", ""))
    if (path / "run.json").exists():
        raise ConfigError(f"{path} holds a run that is not finished; go on with it (--resume)")
    return path


ABSENT = "absent"


def differences(before: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested values differ: the place, and both values.

    Example:
        >>> list(differences({"a": 1, "b": [2, 3]}, {"a": 1, "b": [2, 4], "c": 5}))
        [('b[1]', 3, 4), ('c', 'absent', 5)]
    """
    if where in ELSEWHERE or before == now:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            place = f"{where}.{key}" if where else str(key)
            yield from differences(before.get(key, ABSENT), now.get(key, ABSENT), place)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (a, b) in enumerate(zip(before, now, strict=True)):
            yield from differences(a, b, f"{where}[{index}]")
    else:
        yield where, before, now
