"""Building a table here: nets by chance are measured whole, operators by themselves."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pantheon.compress.inputs import fed, tensors
from pantheon.compress.latency_table.device import this_device
from pantheon.compress.latency_table.files import write_net
from pantheon.compress.latency_table.fusing import Operators, operators_of
from pantheon.compress.latency_table.measuring import SESSIONS, measured
from pantheon.compress.latency_table.operators import Operator
from pantheon.compress.latency_table.pace import Pace
from pantheon.compress.latency_table.precision import REAL, check_precision
from pantheon.compress.latency_table.table import Conditions, Net, Table
from pantheon.compress.onnx_model import onnx_session
from pantheon.compress.search.space import Space, digest_of, values_of
from pantheon.errors import CompressionError, MismatchError

LONGEST_WAIT = 40
"""Points in a row that bring nothing new, after which a space is taken for known."""

MOST_POINTS = 1500
"""Points that are looked at."""


@dataclass(frozen=True, slots=True)
class Named:
    """A model to measure whole.

    Args:
        name: unique in its table.
        model: what makes it.
        inputs: of as many rows as the batch.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    inputs: Any


def points(space: Space, name: str, inputs: Any, seed: int = 0) -> Iterator[Named]:
    """Points of a space by chance, `MOST_POINTS` of them."""
    chance = np.random.default_rng(seed)
    for _ in range(MOST_POINTS):
        point = {c.name: int(chance.integers(len(c.values))) for c in space.choices}
        yield Named(f"{name} {_digest(space, point, inputs)}", partial(_made, space, point), inputs)


def _digest(space: Space, point: dict[str, int], inputs: Any) -> str:
    """What tells a point from those of other spaces, and from the same with other inputs."""
    shapes = [list(tensor.shape) for tensor in tensors(inputs)]
    told = json.dumps([digest_of(space), values_of(space, point), shapes], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:10]


def _made(space: Space, point: dict[str, int]) -> torch.nn.Module:
    return space.artifact(point).model


def whole(
    nets: Sequence[Named], threads: int, pace: Pace, precision: str = REAL
) -> Mapping[str, float]:
    """Export nets and time them in turns: medians in milliseconds at a pace, by name."""
    calls = []
    with tempfile.TemporaryDirectory() as folder:
        for number, net in enumerate(nets):
            file = Path(folder, f"{number}.onnx")
            write_net(net.model(), net.inputs, file, precision)
            session = onnx_session(file, threads)
            feed = fed(net.inputs, [each.name for each in session.get_inputs()])
            calls.append(partial(session.run, None, feed))
        turns = pace.turns(calls)
    return {
        net.name: 1000 * float(np.median([t / turn.slower for turn in own for t in turn.times]))
        for net, own in zip(nets, turns, strict=True)
    }


class Builder:
    """Builds a table in a file, and goes on with one that is half built.

    Args:
        file: of the table.
        threads, batch, precision: of the table.
        said: told what is being done, how much of it is done, and how much there is.

    Raises:
        ConfigError: there is no such precision.
        MismatchError: the file is of other conditions.
    """

    def __init__(
        self,
        file: Path,
        threads: int = 1,
        batch: int = 1,
        said: Callable[[str, int, int], None] = lambda what, done, of: None,
        precision: str = REAL,
    ) -> None:
        check_precision(precision)
        self.file, self._said = file, said
        conditions = Conditions(this_device(), threads, batch, precision)
        self.table = Table.load(file) if file.exists() else Table(conditions)
        if self.table.conditions != conditions:
            raise MismatchError(
                f"the table {file} is of {self.table.conditions}, and this one would be of "
                f"{conditions}; give it another name"
            )
        self.pace = Pace(threads, self.table.pace or None)
        self.table = replace(self.table, pace=self.pace.best)

    def calibrate(self, nets: Sequence[Named]) -> None:
        """Measure whole nets, and their operators.

        Raises:
            CompressionError: a net with operators that are not known.
        """
        left = [net for net in nets if net.name not in self.table.nets]
        conditions = self.table.conditions
        for start in range(0, len(left), SESSIONS):
            self._said("nets", len(nets) - len(left) + start, len(nets))
            some = left[start : start + SESSIONS]
            found = {net.name: _operators(net) for net in some}
            self._measure([each.sequence for each in found.values()])
            times = whole(some, conditions.threads, self.pace, conditions.precision)
            taken = {name: Net(times[name], found[name].counts) for name in found}
            self._save(self.table.extended(nets=taken))
        self._said("nets", len(nets), len(nets))

    def cover(self, nets: Iterable[Named], most: int = MOST_POINTS) -> None:
        """Measure the operators of nets until more nets bring no new ones."""
        new: set[Operator] = set()
        held: list[Sequence[Operator]] = []
        waited = 0
        for net in islice(nets, most):
            found = _operators(net)
            fresh = set(found.sequence) - new - set(self.table.entries)
            waited = 0 if fresh else waited + 1
            if fresh:
                new |= fresh
                held.append(found.sequence)
            self._said("operators", len(self.table.entries) + len(new), 0)
            if len(held) == SESSIONS:
                self._measure(held)
                held, new = [], set()
            if waited >= LONGEST_WAIT:
                break
        self._measure(held)

    def _measure(self, sets: Sequence[Sequence[Operator]]) -> None:
        lacking = {op for some in sets for op in some} - set(self.table.entries)
        wanted = [some for some in sets if lacking.intersection(some)]
        if wanted:
            under = self.table.conditions
            found = measured(wanted, under.threads, self.pace, under.precision)
            self._save(self.table.extended(found))

    def _save(self, table: Table) -> None:
        self.table = table
        table.save(self.file)


def _operators(net: Named) -> Operators:
    found = operators_of(net.model(), net.inputs)
    if found.unknown:
        raise CompressionError(
            f"{net.name}: no operator is known for {', '.join(found.unknown)}; its latency cannot "
            "be predicted"
        )
    return found
