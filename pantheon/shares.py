"""How often each of many may have something: a token bucket for each."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable

REMEMBERED = 4096
"""Buckets that are kept; of more, those that were asked least lately are full again."""


class Shares:
    """Token buckets by name, full at first.

    Args:
        burst: tokens in a full bucket.
        rate: tokens that come back in a second.

    Example:
        >>> shares = Shares(burst=2, rate=0.001)
        >>> [shares.take("ann") for _ in range(3)], shares.take("bob")
        ([True, True, False], True)
    """

    def __init__(self, burst: float, rate: float) -> None:
        self._burst, self._rate = burst, rate
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, who: Hashable) -> bool:
        """Take a token out of somebody's bucket, if there is one."""
        now = time.monotonic()
        left, since = self._left.pop(who, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        self._left[who] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        return left >= 1
