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
    paths = dict.fromkeys(rows.path for g in groups.values() for rows in makers_of(model, g))
    layers = {path: module_at(model, path) for path in paths}
    weights = {path: layer.get_parameter("weight") for path, layer in layers.items()}
    sums, saliency, read, batches = dict[str, Tensor](), dict[str, Tensor](), 0, 0
    with as_it_was(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rehearse(learner, objective, stream)
        learner.eval()
        learner.rehearsing = True  # Layers are tapped in evaluation mode too.
        for parameter in model.parameters():
            parameter.requires_grad_(any(parameter is weight for weight in weights.values()))
        for batch in stream:
            batch = batch.to(torch.device(device))
            found = objective(call_student(learner, batch.inputs), batch)
            total = torch.stack(tuple(found.values())).sum()
            every = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
            rows = {
                path: _rows(layers[path], weights[path], gradient)
                for path, gradient in zip(weights, every, strict=True)
            }
            _require_finite(rows)
            _add(sums, rows)
            _add(saliency, {name: _saliency(model, g, rows) for name, g in groups.items()})
            read, batches = read + int(batch.mask.sum()), batches + 1
    if not batches:
        raise ConfigError("the stream has no batch to take gradients of; give it samples")
    return Gradients(
        {path: total / batches for path, total in sums.items()},
        {name: total / batches for name, total in saliency.items()},
        read,
    )


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


def _rows(layer: nn.Module, weight: Tensor, gradient: Tensor | None) -> Tensor:
    """A gradient with a row for each output channel, float32, on the CPU."""
    found = torch.zeros_like(weight) if gradient is None else gradient
    return rows_of_layer(layer, found.detach()).float().cpu()


def _add(sums: dict[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, value in found.items():
        sums[name] = value if name not in sums else sums[name] + value


def _saliency(model: nn.Module, group: Group, gradients: Mapping[str, Tensor]) -> Tensor:
    """Of each unit the squared sum of weight times gradient, in one batch."""
    total = torch.zeros(group.units)
    for rows in makers_of(model, group):
        layer = module_at(model, rows.path)
        weight = rows_of_layer(layer, layer.get_parameter("weight").detach()).float().cpu()
        products = (weight * gradients[rows.path]).sum(1)[torch.tensor(rows.indices)]
        total = total.index_add(0, torch.tensor(rows.units), products)
    return total.square()


def _require_finite(gradients: Mapping[str, Tensor]) -> None:
    for path, gradient in gradients.items():
        if not bool(gradient.isfinite().all()):
            raise NotFiniteError(
                f"the gradient of {path!r} is not finite; look for NaN in the inputs, the weights "
                "and what the teachers answered"
            )
