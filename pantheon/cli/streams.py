"""The streams of a configuration, with the teachers that it says to bring about."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pantheon.cli.build import dataset_from
from pantheon.cli.loader import stream_from
from pantheon.cli.teacher import teacher_from
from pantheon.compress.config import PartedStreamConfig
from pantheon.compress.parts import part_ids
from pantheon.config import SourceConfig, StreamConfig, TeacherConfig, load
from pantheon.errors import TeacherUnavailable
from pantheon.ranks import Ranks
from pantheon.stream import Parts

START = 300.0
"""Seconds in which a teacher's process must be ready; a large model is long in loading."""


@contextmanager
def opened(config: PartedStreamConfig, ranks: Ranks) -> Iterator[Parts]:
    """The parts of a pipeline's stream; all ranks share the training part, the first has the rest.

    Raises:
        ConfigError: parts that are none; names the line.
    """
    with brought_about(config, ranks) as teachers:
        dataset = dataset_from(config)
        part = part_ids(config, dataset)
        alone: dict[str, Any] = {"rank": 0, "world": 1, "shuffle": False}
        alone |= {"view": 0} if config.views else {}
        made = {"train": stream_from(config, teachers, dataset=dataset, ids=part.get("train"))}
        try:
            for name in ("validation", "test"):
                if name in part and ranks.first:
                    made[name] = stream_from(
                        config, teachers, dataset=dataset, ids=part[name], http="", **alone
                    )
            yield Parts(**made)
        finally:
            for stream in made.values():
                stream.close()


@contextmanager
def brought_about(config: StreamConfig, ranks: Ranks) -> Iterator[dict[str, Any]]:
    """The teachers as a loader takes them, those that are to be served or dumped included.

    The first rank starts them, and the others are told where they are.
    """
    with ExitStack() as stack:
        found: dict[str, Any] = {}
        for name, given in config.teachers.items():
            if isinstance(given, SourceConfig):
                where = config.where("teachers", name)
                found[name] = _source(name, given, where, ranks, stack)
            else:
                found[name] = given
        yield found


def _source(name: str, source: SourceConfig, where: str, ranks: Ranks, stack: ExitStack) -> Any:
    if source.local is not None:
        return teacher_from(load(source.local, TeacherConfig))
    if source.serve is not None:
        load(source.serve, TeacherConfig)  # Its faults are told by this process.
        address = stack.enter_context(serving(source.serve)) if ranks.first else ""
        return ranks.told(address)
    assert source.dump is not None
    assert source.to is not None
    load(source.dump, TeacherConfig)
    if ranks.first:
        _run([*PANTHEON, "dump", str(source.dump), source.to, "--json"], f"{where}: the dump")
    return ranks.told(source.to)


PANTHEON = (sys.executable, "-m", "pantheon")


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise TeacherUnavailable(
            f"{what} ended with status {done.returncode}; run {' '.join(command)} to see why"
        )


@contextmanager
def serving(config: Path, seconds: float = START) -> Iterator[str]:
    """A teacher in a process of its own, on a free port of this machine; yields its address.

    The process ends with this one, however this one ends.
    """
    command = [*PANTHEON, "serve", str(config), "--json", "--bind", "tcp://127.0.0.1:0"]
    command += ["--until-stdin-ends"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], seconds)
            line = process.stdout.readline() if readable else ""
            if not line:
                raise TeacherUnavailable(
                    f"{' '.join(command[:-1])} was not ready within {seconds:.0f} s; run it to "
                    "see why"
                )
            yield json.loads(line)["addresses"][0]
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
