"""What a training step calls: the student with its taps, and whatever learns beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pantheon.taps import Taps, part_of


@dataclass(frozen=True, slots=True)
class Outputs:
    """What came out of a student in one step of training.

    Args:
        output: what the student returned.
        layers: what its tapped modules returned, by path.
        peers: the same of every peer.
    """

    output: Any
    layers: dict[str, Tensor] = field(default_factory=dict)
    peers: tuple[Outputs, ...] = ()


class Learner(nn.Module):
    """A student, its peers and the losses that have weights of their own, as one module.

    In training mode it answers `Outputs`; in evaluation mode it is the student.

    Args:
        student: what is trained in the end.
        layers: paths of the student's (and its peers') modules whose outputs losses compare.
        losses: modules whose parameters are trained too, such as a `ShapeAlign`.
        peers: students trained at its side, see `pantheon.losses.MutualLearning`.

    Attributes:
        rehearsing: answer `Outputs` in evaluation mode too.

    Raises:
        ConfigError: a path without a module.

    Example:
        >>> import torch
        >>> learner = Learner(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), layers=["0"])
        >>> made = learner(torch.ones(4, 2))
        >>> made.output.shape, made.layers["0"].shape
        (torch.Size([4, 3]), torch.Size([4, 3]))
        >>> learner.eval()(torch.ones(4, 2)).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        layers: Iterable[str] = (),
        losses: Iterable[nn.Module] = (),
        peers: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.student, self.peers = student, nn.ModuleList(peers)
        self.losses = nn.ModuleList(losses)
        self.taps, self.rehearsing = Taps(layers), False
        for model in (student, *peers):
            for path in self.taps.paths:
                part_of(model, path)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The student's output; in training mode `Outputs`."""
        if not self.training and not self.rehearsing:
            return self.student(*args, **kwargs)
        first, *others = (self._tapped(m, args, kwargs) for m in (self.student, *self.peers))
        return Outputs(first.output, first.layers, tuple(others))

    def _tapped(self, model: nn.Module, args: Any, kwargs: Any) -> Outputs:
        return Outputs(*self.taps.call(model, lambda: model(*args, **kwargs)))
