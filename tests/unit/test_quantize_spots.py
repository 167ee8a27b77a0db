"""Which tensors of a model are rounded: once, where they are made, and by whom they are shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.vision import nets
from pantheon.compress.fold import FoldBatchNorm
from pantheon.compress.quantize.spots import Site, Spots, spots_of
from pantheon.errors import CompressionError, ConfigError

IMAGES = torch.ones(2, 3, 16, 16)


class Net(nn.Module):
    """Three convolutions of the same width, and a forward of the test's own."""

    def __init__(self, way: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.act, self.pool, self.way = nn.ReLU(), nn.MaxPool2d(2), way

    def forward(self, images: Tensor) -> Any:
        return self.way(self, images)


def found(way: Callable[[Net, Tensor], Any], **options: Any) -> Spots:
    return spots_of(Net(way), IMAGES, **options)


def told(spots: Spots) -> dict[str, tuple[list[str], list[str]]]:
    """The other sites of each spot, and where it is the same."""
    return {
        spot.name: ([str(s) for s in spot.sites[1:]], [str(s) for s in spot.same])
        for spot in spots.activations
    }


ALONE: tuple[list[str], list[str]] = ([], [])


def folded(name: str) -> nn.Module:
    net: nn.Module = getattr(nets, name)(classes=5).eval()
    pairs, last = [], ""
    for path, layer in net.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            pairs.append((last, path))
        elif isinstance(layer, nn.Conv2d):
            last = path
    return FoldBatchNorm(pairs).apply(net)


@pytest.mark.parametrize(
    ("name", "activations", "weights"),
    # The input, the average, and what each convolution and each sum answers.
    [
        ("resnet18", 2 + 20 + 8, 21),
        ("mobilenet_v1", 2 + 27, 28),
        ("mobilenet_v2", 2 + 52 + 10, 53),
    ],
)
def test_nets_of_convolutions_and_sums_are_integers_from_end_to_end(
    name: str, activations: int, weights: int
) -> None:
    spots = spots_of(folded(name), torch.ones(1, 3, 32, 32))
    assert (len(spots.activations), len(spots.weights)) == (activations, weights)
    assert spots.float == {}


def test_what_stays_real_is_named_with_where_it_is() -> None:
    spots = spots_of(folded("mobilenet_v3_small"), torch.ones(1, 3, 32, 32))
    assert set(spots.float.values()) == {"hardswish", "hardsigmoid"}
    assert spots.float[Site("last.act")] == "hardswish"


def test_a_tensor_is_rounded_after_the_activation_that_is_fused() -> None:
    spots = found(lambda net, x: net.second(net.act(net.first(x))))
    assert told(spots) == {":input": ALONE, "act": ALONE, "second": ALONE}
    spots = found(lambda net, x: net.second(F.relu(net.first(x))))
    assert told(spots) == {":input": ALONE, ":relu": ALONE, "second": ALONE}


def test_an_activation_is_not_fused_where_others_read_what_it_is_given() -> None:
    def way(net: Net, x: Tensor) -> Tensor:
        made = net.first(x)
        answered: Tensor = net.second(net.act(made)) + net.third(made)
        return answered

    assert list(told(found(way))) == [":input", "first", "act", "second", "third", ":add"]


def test_functional_sums_are_tensors_too_and_are_numbered() -> None:
    def way(net: Net, x: Tensor) -> Tensor:
        one = net.first(x) + net.second(x)
        one += net.third(one)
        return F.relu(one)

    spots = found(way)
    assert list(told(spots)) == [":input", "first", "second", ":add", "third", ":relu"]


def test_a_sum_with_a_number_is_none() -> None:
    spots = found(lambda net, x: net.second(net.first(x) + 1.0))
    assert list(told(spots)) == [":input", "first", ":add", "second"]
    assert spots.float == {Site("", "add"): "add"}


def test_concatenations_share_a_scale_with_what_they_are_given() -> None:
    def way(net: Net, x: Tensor) -> Tensor:
        both = torch.cat([net.act(net.first(x)), net.second(x)], 1)
        left, right = both.chunk(2, 1)
        answered: Tensor = net.third(left) + right
        return answered

    spots = told(found(way))
    assert spots["act"] == (["second"], [":cat", ":chunk", ":part", ":part@1"])
    assert list(spots) == [":input", "act", "third", ":add"]


def test_what_only_moves_values_shares_a_scale() -> None:
    spots = told(
        found(lambda net, x: net.second(net.pool(net.act(net.first(x))).permute(0, 1, 3, 2)))
    )
    assert spots["act"] == ([], ["pool", ":permute"])


def test_a_module_that_is_called_twice_makes_two_tensors() -> None:
    spots = found(lambda net, x: net.third(net.act(net.second(net.act(net.first(x))))))
    assert list(told(spots)) == [":input", "act", "act@1", "third"]


def test_a_layer_that_is_called_twice_has_one_weight() -> None:
    spots = found(lambda net, x: net.first(net.act(net.first(x))))
    assert spots.weights == ("first",)
    assert list(told(spots)) == [":input", "act", "first@1"]


def test_what_is_kept_goes_on_with_real_numbers() -> None:
    spots = found(lambda net, x: net.third(net.second(net.first(x))), keep=["second"])
    assert spots.weights == ("first", "third")
    assert list(told(spots)) == [":input", "first", "second", "third"]
    assert spots.float == {Site("second"): "conv2d"}
    with pytest.raises(ConfigError, match="Net has no convolution or linear layer that is called"):
        found(lambda net, x: net.first(x), keep=["first"])


def test_the_last_linear_layer_answers_real_numbers() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    assert list(told(spots_of(net, torch.ones(1, 8)))) == [":input", "2"]


def test_a_weight_of_no_layer_is_left_alone() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.layer = nn.Parameter(torch.ones(4, 4)), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.layer(F.linear(x, self.weight))
            return made

    spots = spots_of(Bare(), torch.ones(1, 4))
    assert spots.weights == ("layer",)
    assert spots.float == {Site("", "linear"): "linear"}
    assert list(told(spots)) == [":linear"]


def test_inputs_by_name_and_place() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, index: Tensor, left: Tensor, right: Tensor) -> Tensor:
            made: Tensor = self.left(left[index]) + self.right(right)
            return made

    inputs = {"index": torch.tensor([0]), "left": torch.ones(1, 2), "right": torch.ones(1, 2)}
    assert list(told(spots_of(Two(), inputs))) == [":input@2", ":index", "left", "right", ":add"]


def test_a_model_that_cannot_be_followed_is_named() -> None:
    with pytest.raises(CompressionError, match=r"torch.export cannot follow the Net: "):
        found(lambda net, x: net.first(x) if x.sum() > 0 else net.second(x))
