"""What every report of a model says: its cost, its size, its speed, and whom it answers like."""

from __future__ import annotations

from pantheon.compress.agreement import Agreed, Agreement
from pantheon.compress.latency import (
    Comparison,
    Latency,
    Ratio,
    compare_latency,
    latency,
    latency_of,
)
from pantheon.compress.macs import Macs, macs
from pantheon.compress.size import Parameters, bytes_on_disk, parameters
from pantheon.compress.turns import Candidate

__all__ = [
    "Agreed",
    "Agreement",
    "Candidate",
    "Comparison",
    "Latency",
    "Macs",
    "Parameters",
    "Ratio",
    "bytes_on_disk",
    "compare_latency",
    "latency",
    "latency_of",
    "macs",
    "parameters",
]
