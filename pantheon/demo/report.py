"""What a run of the demo found: accuracies by way of learning, and what the stream did."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WAYS: Mapping[str, str] = {
    "alone": "alone, 100 labels",
    "a": "from A, online",
    "b": "from B, dumped",
    "both": "from both, mixed",
}
"""The ways to learn, and what they are called in tables and pictures."""


@dataclass(slots=True)
class Report:
    """Accuracies and rates of one run.

    Args:
        settings: what the run was made with.
        teachers: accuracy on held-out digits by teacher.
        curves: for each way, for each seed, the held-out accuracy after each epoch.
        streams: for each way with teachers, what its streams did in all: steps, samples, bytes,
            seconds and seconds waited.
    """

    settings: dict[str, Any]
    teachers: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    streams: dict[str, dict[str, float]] = field(default_factory=dict)

    def mean(self, way: str) -> float:
        """Mean accuracy after the last epoch, over seeds."""
        return statistics.fmean(curve[-1] for curve in self.curves[way])

    def deviation(self, way: str) -> float:
        """Sample standard deviation over seeds; 0 for a single seed.

        Example:
            >>> report = Report({}, curves={"a": [[0.5, 0.9], [0.5, 0.9]]})
            >>> report.mean("a"), report.deviation("a")
            (0.9, 0.0)
        """
        last = [curve[-1] for curve in self.curves[way]]
        return statistics.stdev(last) if len(last) > 1 else 0.0

    def add_stream(self, way: str, counts: Mapping[str, float]) -> None:
        """Add what one stream of a way did to what the others of that way did."""
        if counts:
            sums = self.streams.setdefault(way, dict.fromkeys(counts, 0.0))
            for name, value in counts.items():
                sums[name] += value

    @property
    def gain(self) -> float:
        """Points of accuracy (0 to 1) that learning from both teachers adds to learning alone."""
        return self.mean("both") - self.mean("alone")

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        ways = {
            way: {"mean": self.mean(way), "sd": self.deviation(way), "curves": curves}
            for way, curves in self.curves.items()
        }
        report = {
            "settings": self.settings,
            "teachers": self.teachers,
            "students": ways,
            "gain": self.gain,
            "streams": self.streams,
        }
        path.write_text(json.dumps(report, indent=2) + "\n")
