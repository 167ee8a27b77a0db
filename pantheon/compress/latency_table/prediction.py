"""What a model will take, from a table of what its operators took."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pantheon.compress.inputs import rows
from pantheon.compress.latency_table.device import Device, this_device
from pantheon.compress.latency_table.fusing import Operators, operators_of
from pantheon.compress.latency_table.measuring import Timing, measured
from pantheon.compress.latency_table.operators import Operator, answer_of
from pantheon.compress.latency_table.pace import Pace
from pantheon.compress.latency_table.precision import INTEGERS
from pantheon.compress.latency_table.table import Table
from pantheon.compress.quantize.calibrating import met_spots
from pantheon.compress.quantize.scales import activation_scales, dynamic_sites, weight_scales
from pantheon.compress.quantize.simulated import is_quantized, plain
from pantheon.errors import CompressionError, ConfigError, MismatchError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model will take.

    Args:
        milliseconds: of a run.
        error: the relative error that a part of nets stays within, see `Calibration`; None where
            the table has no nets to tell it by.
        operators: how many there are.
        measured: those that the table lacked and that were measured now.
        within: whether it is between the nets that the table was calibrated on.
    """

    milliseconds: float
    error: float | None
    operators: int
    measured: tuple[str, ...] = ()
    within: bool = False


class Predictor:
    """Predicts latencies from a table.

    An operator that the table lacks is measured where that can be: here, if the table is of this
    device. It is kept in the table, and in its file if there is one.

    Args:
        table: of this device, unless `other` is set.
        file: that the table was read from.
        other: take it though it is of another device.

    Raises:
        MismatchError: the table is of another device; says what differs.

    Example:
        >>> from pantheon.compress.latency_table.table import Conditions
        >>> table = Table(Conditions(this_device()))
        >>> table = table.extended({Operator.read("linear 1x4 out=2"): Timing(0.25, 0.2, 0.3, 9)})
        >>> found = Predictor(table).predict(torch.nn.Linear(4, 2), torch.zeros(1, 4))
        >>> found.milliseconds, found.error, found.measured
        (0.25, None, ())
    """

    def __init__(self, table: Table, file: Path | None = None, *, other: bool = False) -> None:
        self.table, self._file = table, file
        self._pace: Pace | None = None
        self._here = _check_device(table.conditions.device, other, file)

    @classmethod
    def load(cls, file: Path, *, other: bool = False) -> Predictor:
        """Of a table's file.

        Raises:
            ConfigError: no such table.
            MismatchError: of another device.
        """
        return cls(Table.load(file), file, other=other)

    def predict(self, model: torch.nn.Module, inputs: Any) -> Prediction:
        """What a model will take.

        Args:
            model: runs once in torch, on the CPU. By a table of integers, what it will take once it
                is quantized by default; or it is so already.
            inputs: of as many rows as the table's batch.

        Raises:
            ConfigError: another number of rows; or it is quantized, and the table of real numbers,
                or in a way that the table does not have: fewer bits, thresholds at run time, or
                layers that stay real.
            CompressionError: operators that are neither known nor can be measured; names them.
        """
        asked = self.table.conditions.batch
        if rows(inputs) != asked:
            raise ConfigError(
                f"the inputs have {rows(inputs)} rows, and the table is of batches of {asked}; "
                "give as many, or build a table with another batch"
            )
        if is_quantized(model):
            precision = self.table.conditions.precision
            if precision != INTEGERS:
                raise ConfigError(
                    f"the {type(model).__name__} is quantized, and the table is of {precision}; "
                    f"build one with --precision {INTEGERS}"
                )
            model = _plain(model, inputs)
        return self.predicted(operators_of(model, inputs))

    def predicted(self, found: Operators) -> Prediction:
        """What operators will take together."""
        if found.unknown:
            raise CompressionError(
                f"no operator is known for {', '.join(found.unknown)}, so that the latency cannot "
                "be predicted; measure the model itself"
            )
        measured = self._grown(found)
        count = len(found.sequence)
        total = sum(map(self._time, found.sequence))
        line = self.table.calibration
        if line is None:
            return Prediction(total, None, count, measured)
        time = max(line.latency(total, count), 0.0)
        within = line.lowest <= time <= line.highest
        return Prediction(time, line.error, count, measured, within)

    def _grown(self, found: Operators) -> tuple[str, ...]:
        """Measure what the table lacks, beside all else that the net has."""
        lacking = [operator for operator in found.counts if self._known(operator) is None]
        if not lacking:
            return ()
        names = tuple(map(str, lacking))
        if not self._here:
            raise CompressionError(
                f"the table lacks {len(lacking)} operators, and it is of another device, so that "
                f"they cannot be measured here: {'; '.join(names[:5])}"
                f"{'; ...' if names[5:] else ''}"
            )
        logger.info("measuring %d operators that the table lacks", len(lacking))
        under = self.table.conditions
        self._pace = self._pace or Pace(under.threads, self.table.pace or None)
        anchor = [self.table.anchor()] if self.table.nets else []
        sets = [found.sequence, *anchor]
        self._keep(measured(sets, under.threads, self._pace, under.precision))
        return names

    def _keep(self, timings: Mapping[Operator, Timing]) -> None:
        self.table = self.table.joined(timings)
        if self._file is None:
            return
        # Others may have added to it meanwhile.
        now = Table.load(self._file)
        if now.digest != self.table.digest:
            logger.warning("%s was built anew meanwhile: new operators are not kept", self._file)
            return
        self.table = now.extended(self.table.entries)
        self.table.save(self._file)

    def _known(self, operator: Operator) -> float | None:
        """What the table says of an operator, by its parts only where it cannot be measured."""
        if operator in self.table.entries:
            return self.table.entries[operator].time
        return None if self._here else _by_parts(self.table, operator)

    def _time(self, operator: Operator) -> float:
        found = self._known(operator)
        assert found is not None  # It was measured otherwise.
        return found


def _by_parts(table: Table, operator: Operator) -> float | None:
    """What an operator takes with those that are fused with it, each by itself."""
    if not operator.after or operator.kind not in ("conv", "linear"):
        return None
    times = [table.entries.get(part) for part in _parts(operator)]
    known = [timing.time for timing in times if timing is not None]
    return sum(known) if len(known) == len(times) else None


def _parts(operator: Operator) -> Iterable[Operator]:
    """An operator without what is fused with it, and that."""
    yield replace(operator, after=())
    given = operator.shapes[0]
    shape = answer_of(operator) if operator.kind == "conv" else (given[0], operator.of("out"))
    for kind in operator.after:
        yield Operator(kind, (shape, shape) if kind == "add" else (shape,), {})


def _check_device(device: Device, other: bool, file: Path | None) -> bool:
    """Whether a table is of this device."""
    differences = device.differences(this_device())
    if not differences:
        return True
    if not other:
        told = "; ".join(f"{k}: {theirs!r} there, {ours!r} here" for k, (theirs, ours) in
                         differences.items())  # fmt: skip
        raise MismatchError(
            f"the table{f' {file}' if file else ''} is of another device ({told}); build one here "
            "with pantheon latency build, or say that another device's is meant "
            "(--other-device, other_device: true)"
        )
    return False


def _plain(model: torch.nn.Module, inputs: Any) -> torch.nn.Module:
    """A quantized model with real numbers.

    Raises:
        ConfigError: it has fewer bits than integers have, thresholds that are found at run time, or
            layers that stay real, though they need not.
    """
    weights, _ = weight_scales(model), activation_scales(model)
    if late := [str(site) for site in dynamic_sites(model)]:
        raise ConfigError(
            f"the {type(model).__name__} finds thresholds at run time, as of {late[0]}, which the "
            "table has no times of; quantize it with thresholds that are fixed"
        )
    made = plain(model)
    if real := [path for path in met_spots(made, inputs).weights if path not in weights]:
        raise ConfigError(
            f"the {type(model).__name__} keeps {', '.join(real[:5])} real, and the table has "
            "integers for what can have them; predict the model with real numbers, or measure it"
        )
    return made
