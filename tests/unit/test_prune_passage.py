"""Layers whose channels cannot be followed, or arrive elsewhere, keep them, and it is said why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pantheon.compress.prune import structure_of
from pantheon.compress.prune.passage import naming
from pantheon.errors import ConfigError

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Backwards(torch.autograd.Function):
    """An operation of the user's own, which turns the channels round."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.flip(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].flip(1)


class Between(nn.Module):
    """Three convolutions, and an operation between the last two."""

    def __init__(self, operation: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 2, 1),
        )
        self.operation = operation

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.last(self.operation(self.second(self.first(images))))
        return made


def swapped(images: Tensor) -> Tensor:
    left, right = images.chunk(2, 1)
    return torch.cat([right, left], 1)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: x.flip(1), "flip"),
        (lambda x: x.roll(1, 1), "roll"),
        (lambda x: x.sort(1).values, "sort"),
        (lambda x: torch.fft.fft(x, dim=1).real, "fftr2c"),
        (Backwards.apply, "backwards"),
    ],
)
def test_channels_that_are_moved_or_mixed_stay(operation: Any, name: str) -> None:
    found = structure_of(Between(operation), IMAGES)
    assert set(found.groups) == {"first"}
    assert found.excluded["second"].startswith("on the way to 'last' channels are moved or mixed")
    assert name in found.excluded["second"]


@pytest.mark.parametrize(
    "operation",
    [
        torch.relu,
        swapped,
        nn.functional.hardsigmoid,
        lambda x: x.softmax(1),
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: nn.functional.normalize(x, dim=1),
        lambda x: nn.functional.dropout(x, 0.5, training=True),
        lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
        lambda x: nn.functional.relu(x, inplace=True),
        lambda x: 0 * x,
    ],
)
def test_channels_that_arrive_in_their_place_may_go(operation: Any) -> None:
    assert set(structure_of(Between(operation), IMAGES).groups) == {"first", "second"}


def numpys(images: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(images.detach().numpy()))


def frozen(images: Tensor) -> Tensor:
    with torch.no_grad():
        return images * 2


@pytest.mark.parametrize(
    ("operation", "name"), [(Tensor.detach, "detach"), (numpys, "detach"), (frozen, "mul")]
)
def test_where_the_trace_ends_operation_and_module_are_named(operation: Any, name: str) -> None:
    class Whole(nn.Sequential):
        pass

    model = Whole(Between(operation), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1))
    found = structure_of(model, IMAGES)
    assert set(found.groups) == {"0.last", "1"}
    told = f"its channels cannot be followed to the answer beyond {name} in '0' (Between)"
    assert found.excluded["0.first"] == found.excluded["0.second"] == told


def test_a_layer_without_a_part_in_the_answer_is_told() -> None:
    class Spare(Between):
        def __init__(self) -> None:
            super().__init__(torch.relu)
            self.spare, self.dropped = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            self.dropped(images)
            return super().forward(images)

    found = structure_of(Spare(), IMAGES)
    assert found.excluded["spare"] == found.excluded["dropped"] == "has no part in the answer"


def test_where_nothing_can_be_followed_that_is_the_error() -> None:
    class Blind(Between):
        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(images)

    with pytest.raises(ConfigError, match=r"first: .* beyond conv2d in 'first' \(Conv2d\)"):
        structure_of(Blind(torch.relu), IMAGES)


def test_a_model_that_does_not_run_names_the_module_at_fault() -> None:
    model = Between(lambda x: x.reshape(len(x), 8, 6, 6))
    assert "in the Between: RuntimeError: shape" in structure_of(model, IMAGES).excluded["second"]


def test_naming_forgets_modules_that_are_done_and_leaves_no_hooks() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 2)))
    with naming(model) as at, pytest.raises(RuntimeError):
        model(torch.ones(1, 2))
    assert at == ["the Sequential", "'1' (Sequential)", "'1.1' (Linear)"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
