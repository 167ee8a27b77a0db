"""What a training step calls: the student with its taps, and whatever learns beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from pantheon.paths import module_at
from pantheon.training.taps import Taps


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
        compiled: what is called in training mode in place of the student and its peers, such as
            what `torch.compile` has made of them.

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
        self.compiled: tuple[Callable[..., Any], ...] = ()
        for model in (student, *peers):
            for path in self.taps.paths:
                module_at(model, path)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The student's output; in training mode `Outputs`."""
        if not self.training and not self.rehearsing:
            return self.student(*args, **kwargs)
        models = (self.student, *self.peers)
        calls = self.compiled or models
        first, *others = (
            Outputs(*self.taps.call(model, partial(call, *args, **kwargs)))
            for model, call in zip(models, calls, strict=True)
        )
        return Outputs(first.output, first.layers, tuple(others))


def student_of(model: nn.Module) -> nn.Module:
    """The student of a `Learner`; any other model itself.

    >>> student_of(Learner(nn.ReLU())), student_of(nn.ReLU())
    (ReLU(), ReLU())
    """
    return model.student if isinstance(model, Learner) else model
