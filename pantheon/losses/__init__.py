"""Losses between a student's outputs and knowledge: `torch.nn.Module`s."""

from __future__ import annotations

from pantheon.losses.aligned import Aligned
from pantheon.losses.decoupled import DKD
from pantheon.losses.features import FSP, AttentionTransfer, FeatureMSE
from pantheon.losses.logits import KLDivergence, LogitLoss, LogitMSE, SoftLabelCrossEntropy
from pantheon.losses.mutual import MutualLearning
from pantheon.losses.relations import RKDAngle, RKDDistance
from pantheon.losses.shape_align import ShapeAlign
from pantheon.losses.spherical import SphericalKD

__all__ = [
    "DKD",
    "FSP",
    "Aligned",
    "AttentionTransfer",
    "FeatureMSE",
    "KLDivergence",
    "LogitLoss",
    "LogitMSE",
    "MutualLearning",
    "RKDAngle",
    "RKDDistance",
    "ShapeAlign",
    "SoftLabelCrossEntropy",
    "SphericalKD",
]
