"""Which groups take part, by patterns of their layers' paths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from pantheon.compress.prune.groups import Group
from pantheon.errors import ConfigError
from pantheon.paths import matching


def fixed_ratios(ratios: Mapping[str, float], groups: Mapping[str, Group]) -> dict[str, float]:
    """The ratio of each group of which a layer is matched.

    Raises:
        ConfigError: a pattern matches no layer that can lose channels, or two give one group
            different ratios.
    """
    found: dict[str, tuple[float, str]] = {}
    layers: dict[str, list[str]] = defaultdict(list)
    for name, group in groups.items():
        for rows in group.makers:
            layers[rows.path].append(name)
    for pattern, ratio in ratios.items():
        matched = sorted(matching(pattern, layers, "ratios"))
        for path, name in [(layer, name) for layer in matched for name in layers[layer]]:
            other, before = found.setdefault(name, (ratio, pattern))
            if other != ratio:
                raise ConfigError(
                    f"ratios: {pattern!r} is to lose {ratio} and {before!r} {other}, but they go "
                    f"together ({path!r} with {name!r}); give them one ratio"
                )
    return {name: ratio for name, (ratio, _) in found.items()}
