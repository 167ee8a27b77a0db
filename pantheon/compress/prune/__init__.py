"""Pruning: which channels a model can lose, which it should, and what goes with them.

Names are imported when they are first used, so that a configuration is read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pantheon.exports import lazily

if TYPE_CHECKING:
    from pantheon.compress.prune.analysis import AnalyseSensitivity as AnalyseSensitivity
    from pantheon.compress.prune.criteria import CRITERIA as CRITERIA
    from pantheon.compress.prune.criteria import Criterion as Criterion
    from pantheon.compress.prune.curves import Sensitivity as Sensitivity
    from pantheon.compress.prune.cutting import Ranked as Ranked
    from pantheon.compress.prune.dependency import prune_edit as prune_edit
    from pantheon.compress.prune.evidence import Evidence as Evidence
    from pantheon.compress.prune.grouping import structure_of as structure_of
    from pantheon.compress.prune.groups import Group as Group
    from pantheon.compress.prune.groups import Structure as Structure
    from pantheon.compress.prune.scanning import Scan as Scan
    from pantheon.compress.prune.sparsify import Sparsify as Sparsify
    from pantheon.compress.prune.stage import Prune as Prune

__all__ = [
    "CRITERIA",
    "AnalyseSensitivity",
    "Criterion",
    "Evidence",
    "Group",
    "Prune",
    "Ranked",
    "Scan",
    "Sensitivity",
    "Sparsify",
    "Structure",
    "prune_edit",
    "structure_of",
]

_HOMES = {
    "analysis": ("AnalyseSensitivity",),
    "criteria": ("CRITERIA", "Criterion"),
    "curves": ("Sensitivity",),
    "cutting": ("Ranked",),
    "dependency": ("prune_edit",),
    "evidence": ("Evidence",),
    "grouping": ("structure_of",),
    "groups": ("Group", "Structure"),
    "scanning": ("Scan",),
    "sparsify": ("Sparsify",),
    "stage": ("Prune",),
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
