"""What the command line prints for scripts is JSON, whatever the values are."""

from __future__ import annotations

import json
import math
from typing import NoReturn

import pytest

from pantheon.cli.output import say_json


def test_numbers_that_are_not_finite_are_printed_as_json_that_any_parser_reads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say_json({"first": [math.nan, -math.inf, 0.5], "loss": (math.inf, None, 3, "x")})

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"first": ["NaN", "-Infinity", 0.5], "loss": ["Infinity", None, 3, "x"]}
    assert math.isnan(float(found["first"][0]))
