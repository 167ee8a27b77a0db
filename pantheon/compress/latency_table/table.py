"""A table of latencies: what operators and some whole nets took on one device, in a JSON file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pantheon.compress import strict
from pantheon.compress.latency_table.calibration import FEWEST, Calibration, calibrated
from pantheon.compress.latency_table.device import Device
from pantheon.compress.latency_table.measuring import Timing
from pantheon.compress.latency_table.operators import Operator
from pantheon.compress.latency_table.precision import REAL, check_precision
from pantheon.errors import ConfigError, StoreError
from pantheon.quote import quoted
from pantheon.saving import whole_file

FORMAT, VERSION = "pantheon latency table", 1

LARGEST = 64 << 20
"""Bytes of a file at most."""

MOST, MOST_NETS = 200_000, 10_000
"""Operators and nets of a table at most."""

LARGEST_NET = 20_000
"""Operators of a whole net at most, repetitions as well."""

SLOWEST = 1e8
"""Milliseconds of anything at most."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what a table holds.

    Args:
        device: where it was measured.
        threads: of a run.
        batch: rows.
        precision: of the numbers, see `PRECISIONS`.
    """

    device: Device
    threads: int = 1
    batch: int = 1
    precision: str = REAL


@dataclass(frozen=True, slots=True)
class Net:
    """A whole net that was measured.

    Args:
        milliseconds: the median of its runs.
        operators: how often it has which.

    Raises:
        ConfigError: no time, no operators, or more of them than a net has.
    """

    milliseconds: float
    operators: Mapping[Operator, int]

    def __post_init__(self) -> None:
        total = sum(self.operators.values())
        if self.milliseconds <= 0 or not 0 < total <= LARGEST_NET:
            raise ConfigError(
                f"a net takes {self.milliseconds} ms for {total} operators; expected more than 0 "
                f"ms, and 1 to {LARGEST_NET} operators"
            )


@dataclass(frozen=True)
class Table:
    """What operators take, and whole nets by which their sum is calibrated.

    Args:
        conditions: under which it holds.
        entries: by operator.
        nets: by name; of all their operators there are entries.
        pace: seconds of the yardstick, see `Pace`, at which all of it holds; 0 if not known.

    Example:
        >>> table = Table(Conditions(Device("a", "avx2", "Linux x86_64", "onnxruntime 1.31")))
        >>> operator = Operator.read("linear 1x512 out=10")
        >>> table = table.extended({operator: Timing(0.25, 0.24, 0.26, 36)})
        >>> Table.from_json(table.to_json()).entries[operator].time
        0.25
        >>> table.calibration is None
        True
    """

    conditions: Conditions
    entries: Mapping[Operator, Timing] = field(default_factory=dict)
    nets: Mapping[str, Net] = field(default_factory=dict)
    pace: float = 0.0

    @cached_property
    def calibration(self) -> Calibration | None:
        """The line to whole nets; None where there are too few of them."""
        if len(self.nets) < FEWEST:
            return None
        every = self.nets.values()
        return calibrated(
            [sum(n * self.entries[op].time for op, n in net.operators.items()) for net in every],
            [sum(net.operators.values()) for net in every],
            [net.milliseconds for net in every],
        )

    @property
    def digest(self) -> str:
        """sha256 of conditions and nets: it stays where operators are added."""
        told = self.to_json()
        told = {name: told[name] for name in ("conditions", "nets")}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def extended(
        self,
        entries: Mapping[Operator, Timing] | None = None,
        nets: Mapping[str, Net] | None = None,
    ) -> Table:
        """A table with more; what it has already stays as it is."""
        return replace(
            self,
            entries={**(entries or {}), **self.entries},
            nets={**(nets or {}), **self.nets},
        )

    def joined(self, timings: Mapping[Operator, Timing]) -> Table:
        """A table with what was measured later, told as at the time of what it has.

        Operators that it has and that were measured again tell by how much the machine is slower
        now; those that are new are divided by that.

        Example:
            >>> table = Table(Conditions(Device("a", "avx2", "Linux x86_64", "onnxruntime 1.31")))
            >>> known, new = Operator.read("relu 1x64"), Operator.read("relu 1x128")
            >>> table = table.extended({known: Timing(1.0, 1.0, 1.0, 9)})
            >>> found = {known: Timing(2.0, 2.0, 2.0, 9), new: Timing(3.0, 3.0, 3.0, 9)}
            >>> joined = table.joined(found).entries
            >>> joined[known].time, joined[new].time
            (1.0, 1.5)
        """
        known = [operator for operator in timings if operator in self.entries]
        now, then = (sum(of[op].time for op in known) for of in (timings, self.entries))
        slower = now / then if now and then else 1.0
        return self.extended({op: _faster(timing, slower) for op, timing in timings.items()})

    def anchor(self) -> tuple[Operator, ...]:
        """The operators of a net that was measured, by which later measurements are told."""
        ordered = sorted(self.nets.values(), key=lambda net: net.milliseconds)
        if not ordered:
            return ()
        counts = ordered[len(ordered) // 2].operators
        return tuple(operator for operator, count in counts.items() for _ in range(count))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "conditions": asdict(self.conditions),
            "pace": self.pace,
            "operators": {
                str(operator): [*_times(timing), timing.runs]
                for operator, timing in self.entries.items()
            },
            "nets": {
                name: {
                    "milliseconds": net.milliseconds,
                    "operators": {str(op): count for op, count in net.operators.items()},
                }
                for name, net in self.nets.items()
            },
        }

    @classmethod
    def from_json(cls, told: Any) -> Table:
        """Read `to_json`'s answer, which may come from anywhere.

        Raises:
            ConfigError: says what cannot be, and where.
        """
        found = strict.keys(
            told, "the table", ("format", "version", "conditions", "pace", "operators", "nets")
        )
        if (found["format"], found["version"]) != (FORMAT, VERSION):
            raise ConfigError(
                f"it is of format {quoted(found['format'])}, version {quoted(found['version'])}; "
                f"expected {FORMAT!r}, version {VERSION}"
            )
        entries = {
            Operator.read(text): _timing(value, text)
            for text, value in _bounded(found["operators"], "operators", MOST).items()
        }
        nets = {
            name: _net(value, f"net {quoted(name)}", entries)
            for name, value in _bounded(found["nets"], "nets", MOST_NETS).items()
        }
        pace = _time(found["pace"], "pace")
        return cls(_conditions(found["conditions"]), entries, nets, pace)

    def save(self, file: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            StoreError: the disk refuses.
        """
        with whole_file.refusals(f"the table {file}", "make room"):
            file.parent.mkdir(parents=True, exist_ok=True)
            whole_file.write(file, json.dumps(self.to_json(), indent=1).encode())

    @classmethod
    def load(cls, file: Path) -> Table:
        """Read a file.

        Raises:
            ConfigError: there is none, or it is no table; says where.
            StoreError: the disk refuses.
        """
        if not file.is_file():
            raise ConfigError(
                f"there is no table {file}; pantheon latency build makes one on this machine"
            )
        try:
            with file.open("rb") as opened:
                data = opened.read(LARGEST + 1)
        except OSError as error:
            raise StoreError(f"cannot read the table {file}: {error}") from error
        if len(data) > LARGEST:
            raise ConfigError(f"{file} has more than {LARGEST >> 20} MB; a table has less")
        try:
            return cls.from_json(json.loads(data))
        except (ValueError, RecursionError) as error:  # ours, and those of JSON and of UTF-8
            raise ConfigError(
                f"{file} is no table of latencies: {error}; remove it, and make one by pantheon "
                "latency build"
            ) from error


def _faster(timing: Timing, times: float) -> Timing:
    time, lower, upper = (each / times for each in _times(timing))
    return Timing(time, lower, upper, timing.runs)


def _times(timing: Timing) -> tuple[float, float, float]:
    return timing.time, timing.lower, timing.upper


def _bounded(value: Any, where: str, most: int) -> Mapping[str, Any]:
    found = strict.mapping(value, where)
    if len(found) > most:
        raise ConfigError(f"{where} has {len(found)} entries; expected at most {most}")
    return found


def _conditions(value: Any) -> Conditions:
    found = strict.keys(value, "conditions", [each.name for each in fields(Conditions)])
    names = [each.name for each in fields(Device)]
    device = strict.keys(found["device"], "conditions.device", names)
    whole = {name: strict.whole(found[name], f"conditions.{name}") for name in ("threads", "batch")}
    if 0 in whole.values():
        raise ConfigError(f"conditions has {whole}; expected 1 or more")
    precision = strict.text(found["precision"], "conditions.precision")
    check_precision(precision)
    return Conditions(
        Device(**{name: strict.text(device[name], f"device.{name}") for name in names}),
        precision=precision,
        **whole,
    )


def _timing(value: Any, where: str) -> Timing:
    if not isinstance(value, list) or len(value) != 4:
        raise ConfigError(
            f"{quoted(where)} has {quoted(value)}; expected [time, lower, upper, runs]"
        )
    time, lower, upper = (_time(each, where) for each in value[:3])
    return Timing(time, lower, upper, strict.whole(value[3], where))


def _time(value: Any, where: str) -> float:
    """Milliseconds."""
    number = type(value) in (int, float)
    if not number or not math.isfinite(value) or not 0 <= value <= SLOWEST:
        raise ConfigError(
            f"{quoted(where)} takes {quoted(value)}; expected milliseconds from 0 to {SLOWEST:g}"
        )
    return float(value)


def _net(value: Any, where: str, entries: Mapping[Operator, Timing]) -> Net:
    found = strict.keys(value, where, ("milliseconds", "operators"))
    time = _time(found["milliseconds"], where)
    counts = {
        Operator.read(text): strict.whole(count, where)
        for text, count in _bounded(found["operators"], where, MOST).items()
    }
    if lacking := [str(operator) for operator in counts if operator not in entries]:
        raise ConfigError(f"{where} has {quoted(lacking[0])}, which the table does not")
    try:
        return Net(time, counts)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
