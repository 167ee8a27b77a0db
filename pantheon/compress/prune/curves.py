"""What a model loses when one group loses channels, and which ratios follow from it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from pantheon.compress import strict
from pantheon.compress.prune.ranking import Counts, Level, Ranking
from pantheon.errors import ConfigError, ResumeMismatch

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Fractions of a group's units that are removed to see what is lost."""


@dataclass(slots=True)
class Sensitivity:
    """Losses of a model by group and ratio.

    Args:
        model: the digest of the model that was measured.
        by: what was measured: a metric's name, or ``"kl"``.
        ranked: the criterion that said which units go first.
        order: a digest of the order that it put them in.
        samples: of the validation part.
        base: the metric of the whole model; 0 for ``"kl"``.
        points: by group, ``(ratio, loss)`` in rising order of the ratio. A loss is the fraction of
            the base that is lost, or a divergence in nats.

    Example:
        >>> points = {"conv": [(0.1, 0.0), (0.2, 0.05)]}
        >>> found = Sensitivity("", "top1", "l1", "", 100, 80.0, points)
        >>> found.ratio("conv", 0.025)
        0.15000000000000002
        >>> Sensitivity.from_json(found.to_json()) == found
        True
    """

    model: str
    by: str
    ranked: str
    order: str
    samples: int
    base: float
    points: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def has(self, group: str, ratio: float) -> bool:
        """Whether a point was measured."""
        return any(abs(found - ratio) < 1e-9 for found, _ in self.points.get(group, ()))

    def add(self, group: str, ratio: float, loss: float) -> None:
        """Enter a point."""
        self.points[group] = sorted([*self.points.get(group, ()), (ratio, loss)])

    def curve(self, group: str) -> list[tuple[float, float]]:
        """A group's points from (0, 0) on, losses never falling, as fewer channels cannot help."""
        found, most = [(0.0, 0.0)], 0.0
        for ratio, loss in self.points[group]:
            most = max(most, loss)
            found.append((ratio, most))
        return found

    def ratio(self, group: str, loss: float) -> float:
        """The largest ratio at which a group loses at most so much, between points linearly."""
        curve = self.curve(group)
        place = bisect_right([lost for _, lost in curve], loss)
        if place == len(curve):
            return curve[-1][0]
        if not place:
            return 0.0
        (before, less), (after, more) = curve[place - 1], curve[place]
        return before + (after - before) * (loss - less) / (more - less)

    def area(self, group: str) -> float:
        """The area under a group's curve, by trapezoids."""
        pairs = pairwise(self.curve(group))
        return sum((b - a) * (la + lb) / 2 for (a, la), (b, lb) in pairs)

    def merge(self, other: Sensitivity) -> None:
        """Take over another worker's points.

        Raises:
            ResumeMismatch: it measured something else, or found another loss at the same point.
        """
        self.require(other.model, other.by, other.ranked, other.order, other.samples)
        if abs(self.base - other.base) > 1e-6 * max(abs(self.base), 1.0):
            raise ResumeMismatch(
                f"two tables of sensitivity have the base {self.base} and {other.base}; measure "
                "both on the same samples"
            )
        for group, points in other.points.items():
            for ratio, loss in points:
                if not self.has(group, ratio):
                    self.add(group, ratio, loss)

    def require(self, model: str, by: str, ranked: str, order: str, samples: int) -> None:
        """Make sure that the table is of this measurement.

        Raises:
            ResumeMismatch: says what differs.
        """
        pairs = {
            "model": (self.model, model),
            "by": (self.by, by),
            "criterion": (self.ranked, ranked),
            "order": (self.order, order),
            "samples": (self.samples, samples),
        }
        differ = [f"{k}: {a!r} there, {b!r} here" for k, (a, b) in pairs.items() if a != b]
        if differ:
            raise ResumeMismatch(
                f"a table of sensitivity is of another measurement: {'; '.join(differ)}; remove it "
                "to measure anew, or put the settings back"
            )

    def to_json(self) -> dict[str, Any]:
        """As values that JSON can hold; ratios are numbers, never keys."""
        points = {group: [list(point) for point in found] for group, found in self.points.items()}
        return {
            "version": 1,
            "model": self.model,
            "by": self.by,
            "criterion": self.ranked,
            "order": self.order,
            "samples": self.samples,
            "base": self.base,
            "points": points,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_json`'s answer.

        Raises:
            ConfigError: a key or value that cannot be.
        """
        names = ("version", "model", "by", "criterion", "order", "samples", "base", "points")
        found = strict.keys(values, "a table of sensitivity", names)
        if found["version"] != 1:
            raise ConfigError(
                f"a table of sensitivity has version {found['version']!r}; expected 1"
            )
        points = strict.mapping(found["points"], "points")
        return cls(
            strict.text(found["model"], "model"),
            strict.text(found["by"], "by"),
            strict.text(found["criterion"], "criterion"),
            strict.text(found["order"], "order"),
            strict.whole(found["samples"], "samples"),
            _number(found["base"], "base"),
            {group: _points(group, every) for group, every in points.items()},
        )


def _points(group: str, every: Any) -> list[tuple[float, float]]:
    if not isinstance(every, list) or not all(isinstance(p, list) and len(p) == 2 for p in every):
        raise ConfigError(
            f"the points of {group!r} are {every!r:.80}; expected [ratio, loss] pairs"
        )
    found = [(_number(r, "a ratio"), _number(loss, "a loss")) for r, loss in every]
    if any(not 0 < ratio < 1 for ratio, _ in found):
        raise ConfigError(f"a ratio of {group!r} is not between 0 and 1: {found}")
    return sorted(found)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ConfigError(f"{where} is {value!r:.40}; expected a number")
    return float(value)


def by_sensitivity(rankings: Mapping[str, Ranking], table: Sensitivity) -> Level:
    """Of every group as much as costs the same loss.

    The level is a fraction of the largest loss that was measured; at 1 every group loses as much as
    was ever removed of it.
    """
    most = max(table.curve(name)[-1][1] for name in rankings)

    def at(level: float) -> Counts:
        if not level:
            return dict.fromkeys(rankings, 0)
        return {n: r.allowed(table.ratio(n, level * most) * r.units) for n, r in rankings.items()}

    return at


def points_to_measure(
    table: Sensitivity, groups: Iterable[str], ratios: Sequence[float], part: tuple[int, int]
) -> list[tuple[str, float]]:
    """What a worker has to measure and the table does not have.

    Args:
        part: which of how many workers, from 0; each measures whole groups.
    """
    mine = list(groups)[part[0] :: part[1]]
    return [(g, ratio) for g in mine for ratio in ratios if not table.has(g, ratio)]
