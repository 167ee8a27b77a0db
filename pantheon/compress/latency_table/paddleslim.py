"""Tables of latencies in PaddleSlim's text format.

A line of the engine, the device and the time, separated by tabs (as its code reads them) or by
commas (as its documentation has it, the device first); then a line for each operator: its name and
arguments, separated by commas, a tab, and its latency.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pantheon.compress.latency_table.device import Device
from pantheon.compress.latency_table.measuring import Timing
from pantheon.compress.latency_table.operators import Operator
from pantheon.compress.latency_table.table import LARGEST, MOST, SLOWEST, Conditions, Table
from pantheon.errors import ConfigError
from pantheon.quote import printable, quoted

LONGEST_LINE = 500
"""Characters of a line at most."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A table, and what of its file has no place in it.

    Args:
        table: of one thread; the text does not say of how many.
        left: how many lines were left out, by the operator's name.
    """

    table: Table
    left: Mapping[str, int]


def read_paddleslim(file: Path, threads: int = 1) -> Imported:
    """Read a file.

    Args:
        threads: that it was measured with, which it does not say.

    Raises:
        ConfigError: there is no such file, or a line is no line of such a table; says which.
    """
    if not file.is_file():
        raise ConfigError(f"there is no file {file}; expected a table of latencies")
    if file.stat().st_size > LARGEST:
        raise ConfigError(f"{file} has more than {LARGEST >> 20} MB; expected less")
    try:
        return parsed(file.read_text(encoding="utf-8").splitlines(), threads)
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error


def parsed(lines: Sequence[str], threads: int = 1) -> Imported:
    """A table from its lines.

    Example:
        >>> found = parsed(["lite\\tphone\\t2020", "relu,1,8,4,4\\t0.5", "prelu,1,8,4,4\\t0.5"])
        >>> [str(operator) for operator in found.table.entries], found.left
        (['relu 1x8x4x4'], {'prelu': 1})
    """
    if not lines:
        raise ConfigError("it is empty; expected a line of engine, device and time")
    if len(lines) > MOST:
        raise ConfigError(f"it has {len(lines)} lines; expected at most {MOST}")
    device = _device(lines[0])
    entries: dict[Operator, Timing] = {}
    left: Counter[str] = Counter()
    batches: Counter[int] = Counter()
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, arguments, time = _row(line, number)
        found = _operators(name, arguments, number)
        if not found:
            left[name] += 1
        for operator in found:
            entries[operator] = Timing(time, time, time, 0)
            batches[operator.shapes[0][0]] += 1
    batch = max(batches, key=lambda each: batches[each], default=1)
    return Imported(Table(Conditions(device, threads, batch), entries), dict(left))


def _device(line: str) -> Device:
    parts = line.strip().split("\t")
    engine, device, *when = parts if len(parts) == 3 else _documented(line)
    told = [printable(each.strip())[:200] for each in (device, engine, *when)]
    return Device(told[0], "", "not told", f"{told[1]}, {told[2]}")


def _documented(line: str) -> tuple[str, str, str]:
    parts = line.strip().split(",")
    if len(parts) != 3:
        raise ConfigError(
            f"line 1 is {quoted(line)}; expected engine, device and time, separated by tabs, or "
            "device, engine and time, separated by commas"
        )
    device, engine, when = parts
    return engine, device, when


def _row(line: str, number: int) -> tuple[str, Sequence[str], float]:
    told, separator, time = line.strip().rpartition("\t")
    if not separator or len(line) > LONGEST_LINE:
        raise ConfigError(
            f"line {number} is {quoted(line)}; expected an operator, a tab and its latency"
        )
    try:
        found = float(time)
    except ValueError:
        found = math.nan
    if not 0 <= found <= SLOWEST:
        raise ConfigError(f"line {number}: the latency is {quoted(time)}; expected milliseconds")
    name, *arguments = (part.strip() for part in told.split(","))
    return printable(name), arguments, found


def _operators(name: str, arguments: Sequence[str], number: int) -> Iterable[Operator]:
    """What a line stands for: two operators where it is a product written as a convolution."""
    if name not in _READERS and name not in _ACTIVATIONS:
        return ()
    try:
        if name in _ACTIVATIONS:
            return [Operator(_ACTIVATIONS[name], (_shape(arguments),), {})]
        return _READERS[name]([int(part) for part in arguments if part != "None"])
    except (ValueError, IndexError) as error:  # ours too
        raise ConfigError(
            f"line {number}: {name} has the arguments {quoted(','.join(arguments))}, which cannot "
            f"be: {error}"
        ) from error


def _shape(arguments: Sequence[str | int]) -> tuple[int, ...]:
    """Batch, channels, height and width."""
    if len(arguments) != 4:
        raise ConfigError(f"expected 4 numbers of its input, found {len(arguments)}")
    found = tuple(int(each) for each in arguments)
    if min(found) < 1:
        raise ConfigError(f"expected numbers of 1 or more, found {found}")
    return found


def _conv(values: Sequence[int]) -> Iterable[Operator]:
    # More than these are of kernels that are not square, whose order its code does not keep.
    if len(values) != 12:
        return ()
    _, relu, *given = values
    shape = _shape(given[:4])
    out, groups, kernel, pad, stride, dilation = given[4:]
    if min(out, groups, kernel, stride, dilation) < 1 or pad < 0:
        raise ConfigError(f"found {given[4:]}; expected sizes of 1 or more")
    pairs = {"kernel": kernel, "pad": pad, "stride": stride, "dilation": dilation}
    attributes = {name: (value, value) for name, value in pairs.items()}
    after = ("relu",) if relu else ()
    whole = Operator("conv", (shape,), attributes | {"out": (out,), "groups": (groups,)}, after)
    if shape[2:] == (1, 1) and (groups, kernel, pad, stride) == (1, 1, 0, 1):
        return [whole, Operator("linear", (shape[:2],), {"out": (out,)}, after)]
    return [whole]


def _eltwise(values: Sequence[int]) -> Iterable[Operator]:
    kind = {1: "mul", 2: "add"}.get(values[0])
    shape = _shape(values[1:])
    return [Operator(kind, (shape, shape), {})] if kind else ()


def _pooling(values: Sequence[int]) -> Iterable[Operator]:
    if len(values) != 10:
        return ()
    everywhere, *given = values
    shape = _shape(given[:4])
    kernel, pad, stride, ceil, kind = given[4:]
    if everywhere:
        # Of the maximum over all places there is no operator.
        return [Operator("mean", (shape,), {"axes": (2, 3)})] if kind != 1 else ()
    if ceil or min(kernel, stride) < 1:
        return ()
    pairs = {"kernel": (kernel, kernel), "pad": (pad, pad), "stride": (stride, stride)}
    return [Operator("max_pool" if kind == 1 else "average_pool", (shape,), pairs)]


def _norm(values: Sequence[int]) -> Iterable[Operator]:
    return [Operator("batch_norm", (_shape(values),), {})]


def _softmax(values: Sequence[int]) -> Iterable[Operator]:
    axis, *given = values
    shape = _shape(given)
    return [Operator("softmax", (shape,), {"axis": (axis % len(shape),)})]


_ACTIVATIONS = {
    "relu": "relu",
    "relu6": "clip",
    "brelu": "clip",
    "sigmoid": "sigmoid",
    "elu": "elu",
    "leaky_relu": "leaky_relu",
}

_READERS: Mapping[str, Callable[[Sequence[int]], Iterable[Operator]]] = {
    "conv": _conv,
    "eltwise": _eltwise,
    "pooling": _pooling,
    "batch_norm": _norm,
    "softmax": _softmax,
}
