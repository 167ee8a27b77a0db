"""Search spaces: choices, and the model that each point of them stands for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

from pantheon.errors import ConfigError
from pantheon.quote import near, quoted

if TYPE_CHECKING:
    from pantheon.compress.artifact import Artifact

Point = dict[str, int]
"""The place of what was chosen among the values of each choice, by the choice's name."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values.

    Args:
        name: of the choice, unique in its space.
        values: JSON values, no two alike. Ordered ones from the smallest on.
        ordered: whether neighbours in `values` are alike, as widths are and activations are not.

    Raises:
        ConfigError: no values, two alike, or such as JSON cannot hold.

    Example:
        >>> Choice("width", (0.5, 0.75, 1.0)).values[2]
        1.0
    """

    name: str
    values: tuple[Any, ...]
    ordered: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"a choice is named {quoted(self.name)}; expected a text")
        try:
            told = [json.dumps(value, allow_nan=False, sort_keys=True) for value in self.values]
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"choice {self.name!r}: its values are no JSON: {error}") from error
        if not told:
            raise ConfigError(f"choice {self.name!r} has no values; expected at least one")
        if len(set(told)) < len(told):
            twice = next(each for each in told if told.count(each) > 1)
            raise ConfigError(f"choice {self.name!r} has the value {twice} twice; leave one out")


class Space(Protocol):
    """Choices, and how a model is made of what was chosen.

    Attributes:
        choices: in an order that never changes.
        told: what the space is, as JSON: two spaces that are told alike are the same.
        start: the point that a search begins at, with smaller values where it breaks a limit; None
            to begin by chance.
    """

    @property
    def choices(self) -> Sequence[Choice]: ...
    @property
    def told(self) -> Mapping[str, Any]: ...
    @property
    def start(self) -> Point | None: ...

    def canonical(self, point: Point) -> Point:
        """The one point of all those that stand for the same model."""

    def artifact(self, point: Point) -> Artifact:
        """The model that a point stands for, not trained.

        Raises:
            ConfigError: there is none.
        """


def digest_of(space: Space) -> str:
    """sha256 of what a space is, in hexadecimal."""
    choices = [[choice.name, list(choice.values), choice.ordered] for choice in space.choices]
    told = json.dumps([dict(space.told), choices], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def check_choices(choices: Sequence[Choice]) -> None:
    """Make sure that there is something to search for.

    Raises:
        ConfigError: no choices, two of one name, or none with more than one value.
    """
    names = [choice.name for choice in choices]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two choices are named {twice[0]!r}; give one another name")
    if all(len(choice.values) == 1 for choice in choices):
        raise ConfigError(
            "the space is empty: it has no choice of two values or more; add values to a choice"
        )


def highest(choices: Sequence[Choice]) -> Point:
    """The last value of each choice that has an order, the first of others.

    Example:
        >>> highest([Choice("width", (0.5, 1.0)), Choice("act", ("relu", "silu"), ordered=False)])
        {'width': 1, 'act': 0}
    """
    return {c.name: len(c.values) - 1 if c.ordered else 0 for c in choices}


def size_of(space: Space) -> int:
    """How many points a space has.

    Example:
        >>> from types import SimpleNamespace
        >>> size_of(SimpleNamespace(choices=[Choice("a", (1, 2)), Choice("b", (1, 2, 3))]))
        6
    """
    return math.prod(len(choice.values) for choice in space.choices)


def points_of(space: Space) -> Iterator[Point]:
    """All points, the last choice changing first."""
    names = [choice.name for choice in space.choices]
    for places in product(*(range(len(choice.values)) for choice in space.choices)):
        yield dict(zip(names, places, strict=True))


def values_of(space: Space, point: Point) -> dict[str, Any]:
    """What was chosen.

    Example:
        >>> from types import SimpleNamespace
        >>> values_of(SimpleNamespace(choices=[Choice("width", (0.5, 1.0))]), {"width": 1})
        {'width': 1.0}
    """
    return {choice.name: choice.values[point[choice.name]] for choice in space.choices}


def point_at(space: Space, values: Mapping[str, Any]) -> Point:
    """The point at which these values are chosen.

    Raises:
        ConfigError: a choice without a value, or a value or a name that the space does not have.
    """
    names = [choice.name for choice in space.choices]
    if unknown := sorted(set(values) - set(names)):
        raise ConfigError(f"there is no choice {unknown[0]!r}{near(unknown[0], names)}")
    point = {}
    for choice in space.choices:
        if choice.name not in values:
            raise ConfigError(f"no value is given for the choice {choice.name!r}")
        value = values[choice.name]
        found = [i for i, each in enumerate(choice.values) if _same(each, value)]
        if not found:
            raise ConfigError(
                f"choice {choice.name!r} has no value {quoted(value)}; expected one of "
                f"{list(choice.values)}"
            )
        point[choice.name] = found[0]
    return point


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True, default=repr)
