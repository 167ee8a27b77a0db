"""Gradients of a loss on a slice of a stream, for the criteria that look at them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pantheon.compress.prune.evidence import Gradients, makers_of, rows_of_layer
from pantheon.compress.prune.groups import Group
from pantheon.errors import ConfigError, NotFiniteError
from pantheon.paths import module_at
from pantheon.stream import KnowledgeStream
from pantheon.training.objective import Objective, Term, call_student
from pantheon.training.rehearsal import learner_of, rehearse


def gradients(
    model: nn.Module,
    groups: Mapping[str, Group],
    losses: Sequence[Term],
    stream: KnowledgeStream,
    device: str = "cpu",
) -> Gradients:
    """The mean gradients of the layers that make channels, and the saliency of each unit.

    The model is in evaluation mode meanwhile, and as it was afterwards. A loss against what
    teachers know makes the criterion one of knowledge; no label is needed then. What a loss has to
    learn first (`align`) begins with fresh weights.

    Args:
        losses: what to take gradients of, summed.
        stream: is read once.

    Raises:
        NotFiniteError: a batch whose gradients are not finite.
        ConfigError: the stream is empty.
    """
    losses = copy.deepcopy(losses)
    learner, objective = learner_of(model, losses).to(device), Objective(losses)
    sums = _Sums(model, groups)
    with as_it_was(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rehearse(learner, objective, stream)
        learner.eval()
        learner.rehearsing = True  # Layers are tapped in evaluation mode too.
        for parameter in model.parameters():
            parameter.requires_grad_(any(parameter is weight for weight in sums.weights))
        for batch in stream:
            batch = batch.to(torch.device(device))
            found = objective(call_student(learner, batch.inputs), batch)
            total = torch.stack(tuple(found.values())).sum()
            every = torch.autograd.grad(total, sums.weights, allow_unused=True)
            sums.add(every, int(batch.mask.sum()))
    return sums.mean()


class _Sums:
    """Adds up gradients, batch by batch."""

    def __init__(self, model: nn.Module, groups: Mapping[str, Group]) -> None:
        self._makers = {name: makers_of(model, group) for name, group in groups.items()}
        paths = dict.fromkeys(rows.path for makers in self._makers.values() for rows in makers)
        self._layers = {path: module_at(model, path) for path in paths}
        self.weights = [layer.get_parameter("weight") for layer in self._layers.values()]
        self._held = self._by_path(self.weights)
        self._gradients = {path: torch.zeros_like(held) for path, held in self._held.items()}
        self._saliency = {name: torch.zeros(group.units) for name, group in groups.items()}
        self._samples = self._batches = 0

    def add(self, gradients: Sequence[Tensor | None], samples: int) -> None:
        """Add those of one batch, in the order of `weights`."""
        found = self._by_path(gradients)
        _require_finite(found)
        products = {path: (self._held[path] * each).sum(1) for path, each in found.items()}
        for path, gradient in found.items():
            self._gradients[path] += gradient
        for name, makers in self._makers.items():
            unit = torch.zeros_like(self._saliency[name])
            for rows in makers:
                parts = products[rows.path][torch.tensor(rows.indices)]
                unit = unit.index_add(0, torch.tensor(rows.units), parts)
            self._saliency[name] += unit.square()
        self._samples, self._batches = self._samples + samples, self._batches + 1

    def mean(self) -> Gradients:
        """The means over all batches."""
        if not self._batches:
            raise ConfigError("the stream has no batch to take gradients of; give it samples")
        return Gradients(
            {path: total / self._batches for path, total in self._gradients.items()},
            {name: total / self._batches for name, total in self._saliency.items()},
            self._samples,
        )

    def _by_path(self, values: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """Weights or gradients with a row for each output channel, float32, on the CPU."""
        pairs = zip(self._layers.items(), self.weights, values, strict=True)
        return {
            path: rows_of_layer(layer, torch.zeros_like(weight) if v is None else v.detach())
            .float()
            .cpu()
            for (path, layer), weight, v in pairs
        }


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Give all modules and parameters back the modes they had."""
    modes = [(module, module.training) for module in model.modules()]
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)


def _require_finite(gradients: Mapping[str, Tensor]) -> None:
    for path, gradient in gradients.items():
        if not bool(gradient.isfinite().all()):
            raise NotFiniteError(
                f"the gradient of {path!r} is not finite; look for NaN in the inputs, the weights "
                "and what the teachers answered"
            )
