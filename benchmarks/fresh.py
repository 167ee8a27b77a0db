"""The control of pruning: the shape that is left, with weights that nobody trained."""

from __future__ import annotations

import torch

from pantheon.compress import Artifact, Work
from pantheon.nets.layers import initialise


def fresh(artifact: Artifact, work: Work) -> Artifact:
    """Forget all weights of one of examples/vision's nets."""
    torch.manual_seed(work.seed)
    initialise(artifact.model)
    return artifact
