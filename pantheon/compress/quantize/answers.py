"""What layers of a model are given and answer, for samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from pantheon.compress.inputs import unpadded
from pantheon.compress.quantize.taps import unseen
from pantheon.errors import CompressionError, ConfigError
from pantheon.paths import module_at
from pantheon.sampling.reading import slice_rows
from pantheon.stream import Batch
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student

SAMPLES, BYTES = 256, 256 << 20
"""Of a layer's inputs and answers, what is kept at most to learn its rounding from."""

Hook = Callable[[nn.Module, Tensor, Tensor], None]
"""Is told a layer, what it is given, and what it answers."""


@dataclass(slots=True)
class _Mean:
    """Of each channel of what a layer answers, over all its calls."""

    total: Tensor | float = 0.0
    count: int = 0

    def see(self, layer: nn.Module, given: Tensor, answer: Tensor) -> None:
        """A hook."""
        dim = -1 - _dimensions(layer)
        rows = answer.movedim(dim, -1).reshape(-1, answer.shape[dim])
        self.total = self.total + rows.sum(0, dtype=torch.float64)
        self.count += len(rows)


def means(
    model: nn.Module, paths: Sequence[str], stream: Iterable[Batch], device: str
) -> dict[str, Tensor]:
    """Of each channel of what layers answer, before it is rounded, over all samples and positions.

    Returns:
        By path, float64 ``[channels]``.

    Raises:
        ConfigError: the stream has no samples.
        CompressionError: a mean is not finite, or a layer is never called.

    Example:
        >>> from types import SimpleNamespace
        >>> class Batch(SimpleNamespace):
        ...     def to(self, device): return self
        >>> net = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False))
        >>> _ = net[0].weight.data.fill_(2.0)
        >>> padded = Batch(inputs=torch.tensor([[[1.0, 3.0]], [[9.0, 9.0]]]),
        ...                mask=torch.tensor([True, False]))
        >>> means(net, ["0"], [padded], "cpu")
        {'0': tensor([4.], dtype=torch.float64)}
    """
    each = {path: _Mean() for path in paths}
    with _hooked(model, {path: mean.see for path, mean in each.items()}):
        for inputs, _ in _batches(stream, device):
            call_student(model, inputs)
    found = {}
    for path, mean in each.items():
        if not mean.count:
            raise _not_called(path)
        found[path] = cast(Tensor, mean.total) / mean.count
        if not found[path].isfinite().all():
            raise not_finite(path)
    return found


@dataclass(slots=True)
class Seen:
    """What a layer is given where all is rounded, and answers where nothing is.

    Of each call as many rows are kept as there is room for, and of all at least one. Where a layer
    is called several times and there is not room for all of a batch, it is the last calls' that are
    not kept.

    Attributes:
        room: bytes that are left.
        run: samples that the models were run on.
        offered: rows of all calls.
        kept: how many of these are.
        inputs, answers: rows, in pairs; after `join` of one shape each.
    """

    room: int = BYTES
    run: int = 0
    offered: int = 0
    kept: int = 0
    inputs: list[Tensor] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)

    @property
    def samples(self) -> float:
        """How many samples the rows that are kept come to."""
        return self.run * self.kept / max(1, self.offered)

    def given(self, layer: nn.Module, given: Tensor, answer: Tensor) -> None:
        """A hook of the model that rounds."""
        inputs = _rows(layer, given)
        size = inputs.nbytes + answer.nbytes
        fit = min(len(inputs), len(inputs) * self.room // max(1, size))
        kept = inputs[: fit if self.kept else max(1, fit)].clone()
        self.room = max(0, self.room - size * len(kept) // max(1, len(inputs)))
        self.offered, self.kept = self.offered + len(inputs), self.kept + len(kept)
        self.inputs.append(kept)

    def answered(self, layer: nn.Module, given: Tensor, answer: Tensor) -> None:
        """A hook of the model that does not."""
        rows = len(self.inputs[len(self.answers)])
        self.answers.append(_rows(layer, answer)[:rows].clone())

    def join(self) -> None:
        """Put those of one shape together."""
        groups: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for pair in zip(self.inputs, self.answers, strict=True):
            if len(pair[0]):
                groups.setdefault(pair[0].shape[1:], []).append(pair)
        self.inputs = [torch.cat([given for given, _ in pairs]) for pairs in groups.values()]
        self.answers = [torch.cat([made for _, made in pairs]) for pairs in groups.values()]

    def batches(
        self, samples: int, steps: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of so many samples, drawn for each step."""
        weights = torch.tensor([float(len(inputs)) for inputs in self.inputs])
        for place in torch.multinomial(weights, steps, True, generator=generator).tolist():
            inputs, answers = self.inputs[place], self.answers[place]
            size = max(1, int(len(inputs) * min(1, samples / self.samples)))
            chosen = torch.randperm(len(inputs), generator=generator)[:size].to(inputs.device)
            yield inputs[chosen], answers[chosen]


def seen_of(
    model: nn.Module, real: nn.Module, path: str, stream: Iterable[Batch], device: str
) -> Seen:
    """What a layer is given and is to answer, of the stream's beginning.

    Args:
        model: rounds.
        real: does not.

    Raises:
        ConfigError: the stream has no samples.
        CompressionError: the layer is never called.
    """
    seen = Seen()
    with _hooked(model, {path: seen.given}), _hooked(real, {path: seen.answered}):
        for inputs, rows in _batches(stream, device):
            rows = min(rows, SAMPLES - seen.run)
            for each in (model, real):
                call_student(each, slice_rows(inputs, 0, rows))
            seen.run += rows
            if seen.kept < seen.offered or seen.run >= SAMPLES:
                break
    seen.join()
    if not seen.inputs:
        raise _not_called(path)
    return seen


@contextmanager
def _hooked(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """In the body, a model answers, and layers tell what, before it is rounded."""

    def ours(hook: Hook) -> Callable[[nn.Module, Any, Any, Tensor], None]:
        def call(layer: nn.Module, args: Any, kwargs: Any, answer: Tensor) -> None:
            with unseen():
                hook(layer, args[0] if args else kwargs["input"], answer)

        return call

    handles = [
        module_at(model, path).register_forward_hook(ours(hook), prepend=True, with_kwargs=True)
        for path, hook in hooks.items()
    ]
    try:
        with evaluating(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _batches(stream: Iterable[Batch], device: str) -> Iterator[tuple[Any, int]]:
    """Inputs without the rows that pad them, and how many rows they are."""
    samples = 0
    for inputs, rows in unpadded(stream, device):
        samples += rows
        yield inputs, rows
    if not samples:
        raise ConfigError("corrections were given no samples; name a part that has some")


def _dimensions(layer: nn.Module) -> int:
    """How many come after the channels in what a layer is given."""
    return len(layer.kernel_size) if isinstance(layer, nn.modules.conv._ConvNd) else 0


def _rows(layer: nn.Module, values: Tensor) -> Tensor:
    """What a layer is given or answers, with a first dimension before the channels."""
    return values if values.ndim > 1 + _dimensions(layer) else values[None]


def not_finite(path: str) -> CompressionError:
    """What to say of a layer whose answers are not."""
    return CompressionError(
        f"what {path!r} answers is not finite for some samples, so that it cannot be corrected; "
        "see what the model is given, or keep that layer out"
    )


def _not_called(path: str) -> CompressionError:
    return CompressionError(
        f"{path!r} is never called, so that it cannot be corrected; keep that layer out"
    )
