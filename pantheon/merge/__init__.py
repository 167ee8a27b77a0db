"""Merges: how the values of several teachers for one field become one value."""

from __future__ import annotations

from pantheon.merge.arithmetic import Mean, Sum, Weighted
from pantheon.merge.base import Merge
from pantheon.merge.custom import Custom, parse_merge
from pantheon.merge.join import Concat, Stack
from pantheon.merge.mixture import Mixture
from pantheon.merge.quorum import Mask, Quorum
from pantheon.merge.route import Route

__all__ = [
    "Concat",
    "Custom",
    "Mask",
    "Mean",
    "Merge",
    "Mixture",
    "Quorum",
    "Route",
    "Stack",
    "Sum",
    "Weighted",
    "parse_merge",
]
