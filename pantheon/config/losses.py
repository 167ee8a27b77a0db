"""What a YAML file may say of a loss, its weight and its sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.types import PositiveFloat

from pantheon.config.section import Arguments, Reference, Section

LOSSES: Mapping[str, frozenset[str]] = {
    "kl": frozenset({"temperature"}),
    "soft_cross_entropy": frozenset({"student_temperature", "teacher_temperature"}),
    "dkd": frozenset({"temperature", "alpha", "beta", "mask", "absent"}),
    "mse": frozenset(),
    "spherical": frozenset({"multiplier"}),
    "cross_entropy": frozenset({"label_smoothing"}),
    "feature": frozenset(),
    "fsp": frozenset(),
    "attention": frozenset({"power"}),
    "rkd_distance": frozenset(),
    "rkd_angle": frozenset(),
}
"""The losses that a configuration can name, and the settings each of them takes."""

LossName = Literal[
    "kl",
    "soft_cross_entropy",
    "dkd",
    "mse",
    "spherical",
    "cross_entropy",
    "feature",
    "fsp",
    "attention",
    "rkd_distance",
    "rkd_angle",
]


class RampConfig(Section):
    """A weight that goes from `start` to `end` between two epochs.

    See `pantheon.training.ramp.Ramp`.
    """

    start: float
    end: float
    begin: float = Field(default=0.0, ge=0)
    until: float = Field(gt=0)
    shape: Literal["linear", "cosine"] = "linear"

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.begin > self.until:
            raise ValueError(f"begin is {self.begin}, after until, which is {self.until}")
        return self


class LossConfig(Section):
    """One addend of a student's loss.

    `loss` is one of `LOSSES` or a reference to a function that answers a callable; `field` the
    knowledge compared with (not for ``cross_entropy``, which compares with the targets). It is
    compared with the student's output of that name, with `output`, or with what the student's
    module at the path `layer` returns. ``fsp`` compares two fields with two layers. `align` learns
    to bring the student's shape to the teacher's, as in FitNets; see `pantheon.losses.ShapeAlign`.
    """

    loss: LossName | Reference
    args: Arguments = Field(default_factory=dict)
    name: str | None = None
    field: str | list[str] | None = None
    output: str | None = None
    layer: str | list[str] | None = None
    align: Literal["auto", "conv1x1", "conv3x3", "conv1x1_bn", "conv3x3_bn", "linear"] | None = None
    weight: float | RampConfig = 1.0
    temperature: PositiveFloat | None = None
    student_temperature: PositiveFloat | None = None
    teacher_temperature: PositiveFloat | None = None
    alpha: float | None = None
    beta: float | None = None
    mask: Literal["label", "teacher"] | None = None
    absent: Literal["raise", "skip"] | None = None
    multiplier: PositiveFloat | None = None
    label_smoothing: float | None = Field(default=None, ge=0, le=1)
    power: PositiveFloat | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings given, by name."""
        keys = frozenset().union(*LOSSES.values())
        return {k: v for k in sorted(keys) if (v := getattr(self, k)) is not None}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = LOSSES.get(self.loss, frozenset())
        wrong = sorted(set(self.settings) - known)
        if wrong:
            takes = ", ".join(sorted(known)) or "no settings"
            raise ValueError(f"the loss {self.loss!r} has no {', '.join(wrong)}; it takes {takes}")
        if self.loss == "cross_entropy" and (self.field or self.layer or self.align):
            raise ValueError(
                "cross_entropy compares outputs with targets; leave out field, layer and align"
            )
        if self.loss in LOSSES and self.loss != "cross_entropy" and not self.field:
            raise ValueError(
                f"the loss {self.loss!r} needs a field to compare with; add field: NAME"
            )
        self._check_sides()
        return self

    def _check_sides(self) -> None:
        if self.layer and self.output:
            raise ValueError(
                f"the loss {self.loss!r} names an output and a layer; leave one of them out"
            )
        fields, layers = (
            len(side) if isinstance(side, list) else 1 for side in (self.field, self.layer)
        )
        pairs = self.loss == "fsp"
        if pairs and not (fields == layers == 2 and self.field and self.layer):
            raise ValueError("the loss 'fsp' compares two fields with two layers; name both pairs")
        if self.loss in LOSSES and not pairs and (fields > 1 or layers > 1):
            raise ValueError(f"the loss {self.loss!r} compares one field with one layer or output")
        if fields != layers and (fields > 1 or layers > 1):
            raise ValueError(f"{fields} fields are compared with {layers} layers; name as many")
