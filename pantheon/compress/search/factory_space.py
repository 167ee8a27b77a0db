"""Spaces of what a factory makes: choices that stand for its arguments."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pantheon.compress.artifact import Artifact
from pantheon.compress.search.space import Choice, Point, check_choices, values_of
from pantheon.errors import ConfigError
from pantheon.nets.layers import channels
from pantheon.quote import near


@dataclass(frozen=True, slots=True)
class FactorySpace:
    """Models that one factory makes, called with other arguments.

    Args:
        factory: reference to what is called; it answers an `nn.Module`.
        args: the arguments that all have.
        choices: each named by where its value goes: an argument, or a key within a mapping, as in
            ``"stages.3.channels"``. Ordered ones from the value that costs least on.
        seed: of the weights, which are the same whenever a point is made.
        where: file, line and key, put before messages.
        start: the point that a search begins at, see `Space`.

    Raises:
        ConfigError: no choice of two values or more, or two where one lies within the other.

    Example:
        >>> space = FactorySpace("torch.nn:Linear", {"in_features": 4},
        ...                      (Choice("out_features", (2, 8)),))
        >>> space.artifact({"out_features": 1}).model
        Linear(in_features=4, out_features=8, bias=True)
    """

    factory: str
    args: Mapping[str, Any] = field(default_factory=dict)
    choices: Sequence[Choice] = ()
    seed: int = 0
    where: str = ""
    start: Point | None = None

    def __post_init__(self) -> None:
        check_choices(self.choices)
        _arguments(self.args, {choice.name: None for choice in self.choices})

    @property
    def told(self) -> Mapping[str, Any]:
        """The factory, its arguments and the seed."""
        return {"factory": self.factory, "args": dict(self.args), "seed": self.seed}

    def canonical(self, point: Point) -> Point:
        """The point itself: no two stand for the same arguments."""
        return point

    def base(self) -> Artifact:
        """What the factory makes of the arguments that all have, with nothing chosen.

        Raises:
            ConfigError: the factory wants more.
        """
        return self._fresh(self.args)

    def artifact(self, point: Point) -> Artifact:
        """A fresh model.

        Raises:
            ConfigError: the factory does not take what was chosen.
        """
        return self._fresh(_arguments(self.args, values_of(self, point)))

    def _fresh(self, args: Mapping[str, Any]) -> Artifact:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Artifact.make(self.factory, args, self.where)


def _arguments(args: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with what was chosen put in its place.

    >>> _arguments({"classes": 10}, {"stages.1.blocks": 2})
    {'classes': 10, 'stages': {'1': {'blocks': 2}}}
    """
    made = copy.deepcopy(dict(args))
    for name in sorted(chosen):
        *path, last = name.split(".")
        inner: Any = made
        for key in path:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"the choice {name!r} goes into {key!r}, which is {inner!r:.60}; expected a "
                    "mapping there"
                )
        if isinstance(inner.get(last), dict):
            raise ConfigError(
                f"the choice {name!r} would take the place of a mapping; name a key within it"
            )
        inner[last] = chosen[name]
    return made


def _scaled(count: int, factors: Sequence[float] = (0.5, 0.75, 1.0, 1.25)) -> tuple[int, ...]:
    """Numbers of channels around one, in multiples of 8."""
    return tuple(sorted({channels(count, factor) for factor in factors}))


def _around(count: int) -> tuple[int, ...]:
    """Numbers of blocks: one less, as many, one more; at least one."""
    return tuple(range(max(1, count - 1), count + 2))


def _mobilenet_v1() -> dict[Choice, int]:
    from pantheon.nets.mobilenet1 import STAGES

    found = dict[Choice, int]()
    for number, stage in enumerate(STAGES):
        found |= {
            Choice(f"stages.{number}.channels", _scaled(stage["channels"])): stage["channels"],
            Choice(f"stages.{number}.blocks", _around(stage["blocks"])): stage["blocks"],
            Choice(f"stages.{number}.kernel", (3, 5)): 3,
        }
    return found


def _mobilenet_v2() -> dict[Choice, int]:
    from pantheon.nets.mobilenet2 import STAGES

    found = dict[Choice, int]()
    for number, stage in enumerate(STAGES):
        usual = stage["channels"]
        found[Choice(f"stages.{number}.channels", _scaled(usual))] = usual
        if number:
            found |= {
                Choice(f"stages.{number}.expansion", (2, 3, 4, 6)): stage["expansion"],
                Choice(f"stages.{number}.blocks", _around(stage["blocks"])): stage["blocks"],
                Choice(f"stages.{number}.kernel", (3, 5)): 3,
            }
    return found


def _resnet18() -> dict[Choice, int]:
    found = dict[Choice, int]()
    for number in range(4):
        usual = 64 * 2**number
        found |= {
            Choice(f"stages.{number}.channels", _scaled(usual)): usual,
            Choice(f"stages.{number}.blocks", (1, 2, 3)): 2,
        }
    return found


READY = {"mobilenet_v1": _mobilenet_v1, "mobilenet_v2": _mobilenet_v2, "resnet18": _resnet18}
"""Choices around the nets of papers, which `pantheon.nets` makes, and what they have there."""


def ready_made(net: str, args: Mapping[str, Any], seed: int = 0, where: str = "") -> FactorySpace:
    """The space around a net of `pantheon.nets`: its stages' channels, blocks, kernels, expansions.

    A search begins at the net as its paper has it.

    Args:
        net: its name.
        args: the arguments that all have.
        seed: of weights.
        where: file, line and key, put before messages.

    Raises:
        ConfigError: no such net.

    Example:
        >>> len(ready_made("mobilenet_v2", {"classes": 10}).choices)
        25
    """
    if net not in READY:
        raise ConfigError(
            f"{where}{': ' if where else ''}there is no ready-made space {net!r}{near(net, READY)};"
            f" expected one of {', '.join(READY)}"
        )
    paper = READY[net]()
    start = {choice.name: choice.values.index(value) for choice, value in paper.items()}
    return FactorySpace(f"pantheon.nets:{net}", args, tuple(paper), seed, where, start)
