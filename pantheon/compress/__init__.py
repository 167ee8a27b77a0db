"""Compression as stages: (model, knowledge) -> (model, report).

Names are imported when they are first used, so that a configuration is read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pantheon.exports import lazily

if TYPE_CHECKING:
    from pantheon.compress.artifact import Artifact as Artifact
    from pantheon.compress.custom import Custom as Custom
    from pantheon.compress.distil import Distil as Distil
    from pantheon.compress.export import Export as Export
    from pantheon.compress.figures import Measuring as Measuring
    from pantheon.compress.pipeline import Pipeline as Pipeline
    from pantheon.compress.pipeline import Summary as Summary
    from pantheon.compress.report import Figures as Figures
    from pantheon.compress.report import StageReport as StageReport
    from pantheon.compress.stage import Cost as Cost
    from pantheon.compress.stage import Outcome as Outcome
    from pantheon.compress.stage import Stage as Stage
    from pantheon.compress.stage import Work as Work
    from pantheon.compress.watcher import Watcher as Watcher

__all__ = [
    "Artifact",
    "Cost",
    "Custom",
    "Distil",
    "Export",
    "Figures",
    "Measuring",
    "Outcome",
    "Pipeline",
    "Stage",
    "StageReport",
    "Summary",
    "Watcher",
    "Work",
]

_HOMES = {
    "artifact": ("Artifact",),
    "custom": ("Custom",),
    "distil": ("Distil",),
    "export": ("Export",),
    "figures": ("Measuring",),
    "pipeline": ("Pipeline", "Summary"),
    "report": ("Figures", "StageReport"),
    "stage": ("Cost", "Outcome", "Stage", "Work"),
    "watcher": ("Watcher",),
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
