"""The best points of a search, as artifacts that pipelines begin with."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pantheon.compress.search.findings import Finding
from pantheon.compress.search.space import Space, point_at

BEST = "best"
"""In a search's folder, what has the artifacts."""


def keep(space: Space, best: Sequence[Finding], folder: Path) -> list[Path]:
    """Write the model of each point that is best, as it was before its training.

    Those of an earlier look that are no longer among the best are removed.

    Args:
        space: of the points.
        best: as `best_of` tells them.
        folder: of the search.

    Returns:
        The folders of the artifacts, such as ``best/trial-12``.
    """
    paths = [folder / BEST / f"trial-{finding.number}" for finding in best]
    for old in (folder / BEST).glob("trial-*"):
        if old not in paths:
            shutil.rmtree(old)
    for finding, path in zip(best, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        space.artifact(point_at(space, finding.chosen)).save(path)
    return paths
