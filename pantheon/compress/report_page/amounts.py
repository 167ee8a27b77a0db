"""Numbers as people read them: three digits, prefixes and units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def number(value: Any) -> float | None:
    """A finite number of JSON as a float; None for everything else.

    Example:
        >>> number(3), number(True), number("3"), number(float("nan")), number(10**400)
        (3.0, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping of JSON as it is; an empty one for everything else.

    Example:
        >>> mapping({"bits": 8}), mapping([8])
        ({'bits': 8}, {})
    """
    return value if isinstance(value, Mapping) else {}


def numbers(values: Any) -> dict[str, float]:
    """The finite numbers of a mapping by name; empty for what is none.

    Example:
        >>> numbers({"top1": 71, "note": "good"}), numbers(None)
        ({'top1': 71.0}, {})
    """
    if not isinstance(values, Mapping):
        return {}
    found = {str(name): number(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def digits(value: float, count: int = 3) -> str:
    """A number with `count` significant digits, never as many digits as a page is wide.

    Example:
        >>> digits(15.0708), digits(0.00012), digits(200.0), digits(1234.5), digits(0)
        ('15.1', '0.00012', '200', '1234', '0')
    """
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{count}g}"
    places = max(0, count - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if value == round(value) and "." in text else text


def amount(value: float, unit: str = "") -> str:
    """A number with the decimal prefix that fits, and its unit.

    Example:
        >>> amount(833_152), amount(53_880, "B"), amount(999), amount(11_200_000, "MACs")
        ('833 k', '53.9 kB', '999', '11.2 MMACs')
    """
    size = abs(value)
    power = 0
    while power + 1 < len(PREFIXES) and float(f"{size / 1000**power:.3g}") >= 1000:
        power += 1
    return f"{digits(value / 1000**power)} {PREFIXES[power]}{unit}".rstrip()


def ratio(value: Any, first: Any) -> str:
    """How many times `first` a value is; empty where that cannot be said.

    Example:
        >>> ratio(52, 100), ratio(52, 0), ratio(None, 3)
        ('0.52x', '', '')
    """
    now, then = number(value), number(first)
    if now is None or not then:
        return ""
    return f"{digits(now / then, 3 if now >= then else 2)}x"


def difference(value: Any, first: Any) -> str:
    """How much more than `first` a value is, with its sign; empty where that cannot be said.

    Example:
        >>> difference(71.25, 72), difference(3, 1), difference(1, 1), difference(1, None)
        ('-0.75', '+2', '±0', '')
    """
    now, then = number(value), number(first)
    if now is None or then is None:
        return ""
    return f"{now - then:+.3g}" if now != then else "±0"
