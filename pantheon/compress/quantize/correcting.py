"""Corrections of a model that rounds, from samples and without training: biases, and weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pantheon.compress.quantize.answers import means, not_finite, seen_of
from pantheon.compress.quantize.choice import Choice, error_of, learn, settle
from pantheon.compress.quantize.simulated import plain
from pantheon.compress.quantize.weights import original_bias, original_weight, weight_rounders
from pantheon.paths import module_at
from pantheon.stream import Batch

LEARNED = tuple(kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
"""The code of layers whose rounding is learned: none that does something else with its weight."""


def correct_biases(
    model: nn.Module,
    paths: Sequence[str],
    stream: Iterable[Batch],
    device: str = "cpu",
    real: nn.Module | None = None,
) -> dict[str, float]:
    """Shift biases so that each channel of a layer's answer has the mean that it has unrounded.

    Empirical bias correction (Nagel et al., "Data-Free Quantization Through Weight Equalization
    and Bias Correction", 2019; Banner et al., "Post Training 4-bit Quantization of Convolutional
    Networks for Rapid-Deployment", 2019). Means are of all samples and positions, before the
    activation and before the answer itself is rounded. Each layer is seen with those before it
    corrected already. That of a layer that is called more than once is of all its calls, and exact
    only where no call reads another's answer.

    Args:
        model: rounds, by thresholds that were found; its biases are changed.
        paths: of the layers whose weights are rounded, in the order in which they are called.
        stream: is read once, and once more for each layer; rows that pad a batch do not count.
        device: of the model.
        real: the model without rounding; None for `plain` of the model, which is another one after
            `learn_rounding`.

    Returns:
        By path, the mean absolute shift. Layers without a bias are left alone and not in it.

    Raises:
        ConfigError: the stream has no samples.
        CompressionError: a layer's mean is not finite, or it is never called.

    Example:
        >>> from types import SimpleNamespace
        >>> from pantheon.compress.quantize.edit import RoundTensors, Weight
        >>> class Batch(SimpleNamespace):
        ...     def to(self, device): return self
        >>> net = nn.Sequential(nn.Linear(2, 1))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 0.5]])), net[0].bias.data.zero_()
        >>> net = RoundTensors((), {"0": Weight(2)}).apply(net)  # 0.5 becomes 0.
        >>> inputs, mask = torch.tensor([[1.0, 1.0], [1.0, 3.0]]), torch.ones(2, dtype=torch.bool)
        >>> correct_biases(net, ["0"], [Batch(inputs=inputs, mask=mask)]), net[0].bias.data
        ({'0': 1.0}, tensor([1.]))
    """
    biases = {path: original_bias(module_at(model, path)) for path in paths}
    found = {path: bias for path, bias in biases.items() if bias is not None}
    expected = means(plain(model) if real is None else real, list(found), stream, device)
    shifts = {}
    for path, bias in found.items():
        shift = expected[path] - means(model, [path], stream, device)[path]
        with torch.no_grad():
            # Of what was added to these means, which may be a bias that is rounded.
            before, added = bias.clone(), cast(Any, module_at(model, path)).bias
            bias.copy_(added + shift)
            shifts[path] = float((bias - before).abs().mean())
    return shifts


def learn_rounding(
    model: nn.Module,
    paths: Sequence[str],
    stream: Iterable[Batch],
    *,
    steps: int = 1000,
    samples_per_step: int = 32,
    lr: float = 1e-2,
    device: str = "cpu",
    seed: int = 0,
    say: Callable[[str], None] | None = None,
    real: nn.Module | None = None,
) -> dict[str, tuple[float, float]]:
    """Learn for each weight whether it is rounded up or down, layer by layer.

    AdaRound (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020):
    weights are ``s * clip(floor(W / s) + h(V))`` with ``h = clip(1.2 * sigmoid(V) - 0.1, 0, 1)``,
    and V is learned by Adam from the squared error of what the layer answers, before its
    activation, to what it is given in the model that rounds; as against what it answers in the one
    that does not. After a fifth of the steps, ``lambda * sum(1 - |2 h - 1| ** beta)`` with a beta
    from 20 to 2 has h decide. The error is divided by what rounding to nearest costs for one
    weight, so that lambda means the same for all layers.

    In the end the weight itself is what it is rounded to, by the scale that it had: one that is the
    largest of its channel stays. Where the error of all samples did not get less, the weight stays.

    Args:
        model: rounds, by thresholds that were found; its weights are changed.
        paths: of the layers whose weights are rounded, in the order in which they are called. All
            calls of a layer count. Transposed convolutions, and layers with code of their own, are
            left alone.
        stream: its beginning is read for each layer: 256 samples, or as many as 256 MiB hold of
            what the layer is given and answers, and twice that for a moment; at least a row.
        steps: of Adam, for each layer.
        samples_per_step: of those that are kept, drawn anew for each step.
        lr: of Adam.
        device: of the model.
        seed: of the draws; the same one leads to the same bits, on the same CPU.
        say: is told of each layer.
        real: the model without rounding; None for `plain` of the model, which is another one after
            `correct_biases`.

    Returns:
        By path, the mean squared error of the layer's answer rounded to nearest, and after that.
        Layers that are left alone are not in it.

    Raises:
        ConfigError: the stream has no samples.
        CompressionError: a layer's error is not finite, or it is never called.

    Example:
        >>> from types import SimpleNamespace
        >>> from pantheon.compress.quantize.edit import RoundTensors, Weight
        >>> class Batch(SimpleNamespace):
        ...     def to(self, device): return self
        >>> net = nn.Sequential(nn.Linear(3, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 0.4, 0.45]]))
        >>> net = RoundTensors((), {"0": Weight(3)}).apply(net)
        >>> batch = Batch(inputs=torch.ones(1, 3), mask=torch.ones(1, dtype=torch.bool))
        >>> found = learn_rounding(net, ["0"], [batch], steps=200)
        >>> [round(error, 4) for error in found["0"]]  # 0.85 ** 2 and 0.15 ** 2
        [0.7225, 0.0225]
    """
    real = plain(model) if real is None else real
    generator = torch.Generator().manual_seed(seed)
    told = {}
    for path in paths:
        layer = module_at(model, path)
        if type(layer).forward not in LEARNED:
            continue
        seen = seen_of(model, real, path, stream, device)
        before = error_of(layer, cast(Tensor, layer.weight).detach(), seen)
        if not math.isfinite(before):
            raise not_finite(path)
        after = before
        if before:
            choice = Choice(weight_rounders(layer)[0], original_weight(layer).detach())
            drawn = seen.batches(samples_per_step, steps, generator)
            learn(choice, layer, drawn, steps, before, lr)
            after = min(before, error_of(layer, choice.rounded(choice.decided), seen))
            if after < before:
                settle(layer, choice.settled())
        told[path] = before, after
        if say is not None:
            say(f"the rounding of {path}: error {before:.4g} to nearest, {after:.4g} learned")
    return told
