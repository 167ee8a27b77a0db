"""The numbers that operators and nets are measured with: real ones, or integers of 8 bits."""

from __future__ import annotations

from pantheon.errors import ConfigError
from pantheon.quote import near, quoted

REAL, INTEGERS = "float32", "int8"

PRECISIONS = (REAL, INTEGERS)


def check_precision(precision: str) -> None:
    """Make sure that there is something to measure with it.

    Raises:
        ConfigError: there is not.

    Example:
        >>> check_precision("int8")
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"nothing can be measured in {quoted(precision)}{near(precision, PRECISIONS)}; "
            f"expected one of {', '.join(PRECISIONS)}"
        )
