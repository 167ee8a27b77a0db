"""How far a dump is, for Prometheus and for probes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pantheon.probes import Health

PREFIX = "pantheon_dump_"


class DumpProgress(Collector):
    """Told by `dump` how far it is, read by `pantheon.probes.Probes` at any time.

    Example:
        >>> progress = DumpProgress()
        >>> progress(64, 1000)
        >>> [metric.samples[0].value for metric in progress.collect()][:2]
        [64, 1000]
    """

    def __init__(self) -> None:
        # One tuple, so that another thread never reads half of a step.
        self._last = (0, 0, time.monotonic())

    def __call__(self, done: int, wanted: int) -> None:
        """`done` of `wanted` (id, view) pairs are on disk or scored."""
        self._last = done, wanted, time.monotonic()

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        done, wanted, since = self._last
        found = {
            "samples": (done, "Samples scored or found on disk, a view each."),
            "wanted_samples": (wanted, "Samples that it is to hold; 0 while the model loads."),
            "advanced_seconds": (time.monotonic() - since, "Seconds since it last came further."),
        }
        for name, (value, text) in found.items():
            yield GaugeMetricFamily(PREFIX + name, text, value=value)

    def health(self) -> Health:
        """It is alive while its process is, and ready once it knows what there is to do."""
        done, wanted, _ = self._last
        return Health(True, wanted > 0, {"samples": done, "wanted_samples": wanted})
