"""Which models no other one beats: the Pareto line of worth against cost."""

from __future__ import annotations

from collections.abc import Sequence


def pareto(points: Sequence[tuple[float, float]], *, lower: bool = False) -> list[int]:
    """The points that no other one is at least as good as in both, and better in one.

    Args:
        points: cost and worth of each; less cost is better, and more worth.
        lower: whether less worth is better, as of a loss.

    Returns:
        Their positions by rising cost; of equal points the first.

    Example:
        >>> pareto([(10, 70), (5, 68), (7, 66), (2, 50)])
        [3, 1, 0]
    """
    sign = -1 if lower else 1
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1], i))
    line: list[int] = []
    for index in order:
        if not line or sign * points[index][1] > sign * points[line[-1]][1]:
            line.append(index)
    return line
