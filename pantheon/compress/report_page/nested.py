"""Nested values of JSON as rows of a table: a dotted name, and a short text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pantheon.compress.report_page.amounts import amount, digits, number
from pantheon.compress.report_page.section import Cell
from pantheon.quote import quoted, shortened

DEEPEST = 8
LONGEST = 160
MOST = 400
"""Levels that are unfolded, characters of a text and rows that are shown."""


def rows_of(
    values: Mapping[str, Any], *, absent: bool = True, most: int = MOST
) -> list[list[Cell]]:
    """A row of name and value for each number and text in a nested value.

    Args:
        absent: whether what is None, or empty, has a row too.
        most: rows; a last one says how many more there are.

    Example:
        >>> for name, value in rows_of({"bytes": 53880, "kept": {"a": [1, 2], "b": None}}):
        ...     print(name.text, value.text)
        bytes 53.9 kB
        kept.a 1, 2
        kept.b none
    """
    leaves = _leaves(values, "", 0) if values else iter(())
    found = [row for row in leaves if absent or row[1].text not in ("none", "")]
    more = len(found) - most
    return found[:most] + ([[Cell("…"), Cell(f"and {more} more")]] if more > 0 else [])


def _leaves(value: Any, name: str, depth: int) -> Iterator[list[Cell]]:
    """Rows of what is in a value."""
    if isinstance(value, Mapping) and _timed(value):
        yield [Cell(name), _latency(value)]
    elif isinstance(value, Mapping) and value and depth < DEEPEST:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(value, list) and depth < DEEPEST and not _flat(value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{index}]", depth + 1)
    else:
        yield [Cell(name), _leaf(value, name.rpartition(".")[2])]


def _leaf(value: Any, key: str) -> Cell:
    found = number(value)
    if found is not None:
        if key == "bytes" or key.endswith("_bytes"):
            return Cell(amount(found, "B"), exact=f"{value} B")
        return Cell(str(value) if isinstance(value, int) else digits(found, 4), exact=repr(value))
    match value:
        case None:
            return Cell("none", muted=True)
        case str():
            return Cell(shortened(value, LONGEST))
        case bool():
            return Cell("yes" if value else "no")
        case list():
            return Cell(shortened(", ".join(_leaf(v, "").text for v in value), LONGEST))
    return Cell("" if value == {} else quoted(value))


def _flat(value: list[Any]) -> bool:
    return not any(isinstance(inner, Mapping | list) for inner in value)


def _timed(value: Mapping[str, Any]) -> bool:
    return number(value.get("median")) is not None and {"lower", "upper", "runtime"} <= set(value)


def _latency(value: Mapping[str, Any]) -> Cell:
    spread = [number(value.get(key)) for key in ("lower", "upper")]
    note = " to ".join(digits(v) for v in spread if v is not None)
    where = circumstances(value)
    return Cell(f"{digits(float(value['median']))} ms", f"{note}; {where}", repr(value["median"]))


def circumstances(latency: Mapping[str, Any]) -> str:
    """Where a latency was measured.

    Example:
        >>> circumstances({"device": "cpu", "runtime": "torch", "threads": 1, "rows": 8})
        'cpu, torch, 1 thread, 8 rows'
        >>> circumstances({})
        ''
    """
    parts = [shortened(str(latency[k]), 40) for k in ("device", "runtime") if latency.get(k)]
    for key in ("thread", "row"):
        count = number(latency.get(f"{key}s"))
        if count is not None:
            parts.append(f"{count:.0f} {key}{'' if count == 1 else 's'}")
    return ", ".join(parts)
