"""A student's output is brought to the teacher's shape, with parameters only where needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pantheon.errors import ConfigError, SchemaError
from pantheon.losses import ShapeAlign


def with_weights(align: ShapeAlign, weights: list[list[float]], bias: list[float]) -> ShapeAlign:
    """The same with these weights ``[after, before]`` and this bias."""
    assert isinstance(align.layer, nn.Conv2d | nn.Linear)
    assert align.layer.bias is not None
    with torch.no_grad():
        align.layer.weight.copy_(torch.tensor(weights).view_as(align.layer.weight))
        align.layer.bias.copy_(torch.tensor(bias))
    return align


def pixels(*rows: list[float]) -> Tensor:
    """A map of one row and one channel."""
    return torch.tensor([[list(rows)]])


def test_channels_are_mixed_by_a_convolution_at_each_position() -> None:
    align = with_weights(ShapeAlign((2, 1, 2), (1, 1, 2)), [[2.0, 1.0]], [3.0])
    maps = torch.tensor([[[[1.0, 0.0]], [[2.0, 5.0]]]])
    assert align(maps).tolist() == [[[[2 * 1 + 2 + 3, 2 * 0 + 5 + 3]]]]


def test_a_last_dimension_is_mixed_by_a_linear_layer() -> None:
    weights, bias = [[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]], [0.0, 0.0, 7.0]
    vectors = with_weights(ShapeAlign((2,), (3,)), weights, bias)
    assert vectors(torch.tensor([[1.0, 10.0]])).tolist() == [[21, 43, 17]]
    tokens = with_weights(ShapeAlign((2, 2), (2, 3)), weights, bias)
    assert tokens(torch.tensor([[[1.0, 10.0], [0.0, 1.0]]])).tolist() == [[[21, 43, 17], [2, 4, 8]]]


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (pixels([1, 2], [3, 6]), (1, 1), pixels([3])),  # (1 + 2 + 3 + 6) / 4
        (pixels([0, 4]), (1, 4), pixels([0, 1, 3, 4])),  # centres at -1/4, 1/4, 3/4 and 5/4
        (pixels([0], [4]), (4, 1), pixels([0], [1], [3], [4])),
        (pixels([0, 2, 1, 7]), (2, 2), pixels([1, 4], [1, 4])),  # narrower and higher
    ],
)
def test_other_sizes_are_averaged_or_interpolated_without_parameters(
    ours: Tensor, theirs: tuple[int, int], expected: Tensor
) -> None:
    align = ShapeAlign(ours.shape[1:], (1, *theirs))
    assert not list(align.parameters())
    assert align(ours.float()).tolist() == expected.tolist()


@pytest.mark.parametrize("shape", [(3, 4, 4), (5, 3), (3,)])
def test_equal_shapes_need_nothing(shape: tuple[int, ...]) -> None:
    align, student = ShapeAlign(shape, shape), torch.randn(2, *shape)
    assert not align.state_dict()
    assert align(student) is student


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("conv1x1", {"layer.weight": (5, 3, 1, 1), "layer.bias": (5,)}),
        ("conv3x3", {"layer.weight": (5, 3, 3, 3), "layer.bias": (5,)}),
        ("conv1x1_bn", {"layer.0.weight": (5, 3, 1, 1)}),
        ("conv3x3_bn", {"layer.0.weight": (5, 3, 3, 3)}),
    ],
)
@pytest.mark.parametrize("size", [(4, 4), (2, 2), (7, 3)])
def test_every_convolution_answers_the_teachers_shape(
    kind: Any, parameters: dict[str, tuple[int, ...]], size: tuple[int, int]
) -> None:
    align = ShapeAlign((3, 4, 4), (5, *size), kind)
    assert align(torch.randn(2, 3, 4, 4)).shape == (2, 5, *size)
    norm = {"layer.1.weight": (5,), "layer.1.bias": (5,)} if kind.endswith("_bn") else {}
    assert {n: tuple(p.shape) for n, p in align.named_parameters()} == parameters | norm


def test_a_layer_that_is_named_is_there_even_for_equal_shapes() -> None:
    assert isinstance(ShapeAlign((3, 4, 4), (3, 4, 4), "conv1x1").layer, nn.Conv2d)
    assert isinstance(ShapeAlign((3,), (3,), "linear").layer, nn.Linear)


def test_the_layer_sees_the_smaller_size() -> None:
    seen: list[tuple[int, ...]] = []
    align = ShapeAlign((3, 8, 2), (5, 2, 8))
    align.layer.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    align(torch.randn(1, 3, 8, 2))
    assert seen == [(1, 3, 2, 2)]


def test_parameters_follow_the_global_seed() -> None:
    first, second, third = (
        (torch.manual_seed(seed), ShapeAlign((3,), (5,)).state_dict())[1] for seed in (7, 7, 8)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layer.weight"], third["layer.weight"])


def test_half_precision_students_meet_float32_parameters() -> None:
    student = torch.randn(2, 3).half().requires_grad_()
    aligned = ShapeAlign((3,), (5,))(student)
    assert aligned.dtype is torch.float32
    aligned.sum().backward()
    assert student.grad is not None
    assert student.grad.dtype is torch.float16


def test_gradients_are_right() -> None:
    torch.manual_seed(0)
    align = ShapeAlign((2, 4, 2), (3, 2, 4), "conv3x3").double()
    student = torch.randn(2, 2, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(align, (student,))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((3, 4, 4), (3, 16), r"is \(3, 4, 4\), the teacher's \(3, 16\).*equally many dimensions"),
        ((5, 3), (4, 3), r"is \(5, 3\), the teacher's \(4, 3\).*equally many tokens"),
        ((2, 3, 4, 5), (2, 3, 4, 5), r"\(2, 3, 4, 5\).*expected positive \[channels, height"),
        ((), (), r"is \(\), the teacher's \(\).*flatten"),
        ((0,), (4,), r"is \(0,\), the teacher's \(4,\).*positive"),
    ],
)
def test_shapes_that_cannot_be_brought_together_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        ShapeAlign(student, teacher)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((3, 4, 4), "linear", r"'linear' for .*\(3, 4, 4\).*\(3, 4, 4\).*expected a convolution"),
        ((3,), "conv1x1", r"'conv1x1' for .*\(3,\).*expected 'linear'"),
        ((3,), "conv5x5", "'conv5x5'; expected one of auto, conv1x1"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(shape: tuple[int, ...], kind: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ShapeAlign(shape, shape, kind)


def test_an_output_of_another_shape_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"is \(2, 4\); expected rows of \(3,\).*\(5,\)"):
        ShapeAlign((3,), (5,))(torch.zeros(2, 4))
