"""The nets of the papers: as many weights as published, named, seeded and of any input size."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from examples.vision import nets
from examples.vision.metrics import accuracy
from pantheon import reference
from pantheon.errors import ConfigError
from pantheon.nets.layers import ConvNet, DepthwiseConv, channels
from pantheon.training.objective import IGNORE

NETS = [getattr(nets, name) for name in nets.__all__]
Build = Callable[..., ConvNet]

every_net = pytest.mark.parametrize("build", NETS, ids=nets.__all__)


def weights(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# --- as published

PUBLISHED = [
    (nets.mobilenet_v1, 1.0, 4_231_976),
    (nets.mobilenet_v1, 0.5, 1_331_592),
    (nets.mobilenet_v1, 0.25, 470_072),
    (nets.mobilenet_v2, 1.0, 3_504_872),
    (nets.mobilenet_v2, 0.5, 1_968_680),
    (nets.mobilenet_v3_large, 1.0, 5_483_032),
    (nets.mobilenet_v3_small, 1.0, 2_542_856),
    (nets.resnet18, 1.0, 11_689_512),
    (nets.resnet50, 1.0, 25_557_032),
]


@pytest.mark.parametrize(("build", "width", "published"), PUBLISHED)
def test_a_net_has_as_many_weights_as_published(build: Build, width: float, published: int) -> None:
    with torch.device("meta"):
        assert weights(build(classes=1000, width=width)) == published


@pytest.mark.parametrize(
    ("build", "width", "millions"),
    [
        (nets.mobilenet_v2, 1.4, 6.11),
        (nets.mobilenet_v3_large, 0.75, 3.99),
        (nets.mobilenet_v3_small, 0.75, 2.04),
    ],
)
def test_other_widths_have_the_millions_published(
    build: Build, width: float, millions: float
) -> None:
    with torch.device("meta"):
        assert round(weights(build(classes=1000, width=width)) / 1e6, 2) == millions


def test_the_convolutions_of_vgg16_have_the_published_weights_and_shifts_for_biases() -> None:
    """14,714,688 with biases, and batch norm's 4,224 scales."""
    with torch.device("meta"):
        net = nets.vgg16()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    scales = sum(norm.weight.numel() for norm in norms)
    assert len(norms) == 13
    assert weights(net.stages) - scales == 14_714_688


# --- other stages than the papers'


def test_stages_are_as_asked_for() -> None:
    asked = {"1": {"channels": 40, "blocks": 3, "kernel": 5}, "2": {"expansion": 2}}
    with torch.device("meta"):
        net = nets.mobilenet_v2(stages=asked, stem_stride=1)
        whole = nets.mobilenet_v2(stem_stride=1)
    assert len(net.stages[1]) == 3
    assert {block.depthwise.conv.kernel_size for block in net.stages[1]} == {(5, 5)}
    assert net.stages[1][0].depthwise.conv.stride == (2, 2)
    assert net.stages[2][0].expand.conv.weight.shape[:2] == (80, 40)
    assert [len(stage) for stage in net.stages[2:]] == [len(stage) for stage in whole.stages[2:]]
    with torch.device("meta"):
        assert len(nets.resnet18(stages={"3": {"blocks": 1, "channels": 256}}).stages[3]) == 1
        v1 = nets.mobilenet_v1(stages={"3": {"blocks": 2, "kernel": 7}})
    assert v1.stages[3][1].depthwise.conv.kernel_size == (7, 7)
    assert nets.mobilenet_v1(stages={"3": {"kernel": 7}}, width=0.125)(
        torch.zeros(2, 3, 32, 32)
    ).shape == (2, 100)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"7": {"blocks": 1}}, "no stage '7' .*expected '0' to '6'"),
        ({"1": 3}, "no stage '1' with columns"),
        ({"1": {"block": 1}}, "stage 1 has no column 'block'; the nearest are 'blocks'"),
        ({"1": {"blocks": 0}}, "stage 1: blocks is 0; expected a whole number of 1 or more$"),
        ({"1": {"blocks": True}}, "blocks is True"),
        ({"1": {"kernel": 4}}, "kernel is 4; expected a whole number of 1 or more, odd"),
    ],
)
def test_stages_that_cannot_be(stages: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        nets.mobilenet_v2(stages=stages)


# --- width, stride and names


@every_net
def test_all_channels_are_multiples_of_8(build: Build) -> None:
    with torch.device("meta"):
        net = build(width=0.3)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert {m.out_channels % 8 for m in convolutions} == {0}


def test_rounding_takes_no_more_than_a_tenth() -> None:
    assert [channels(count) for count in (11, 12, 20, 22, 28)] == [16, 16, 24, 24, 32]


@every_net
@pytest.mark.parametrize("size", [32, 48, 64])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_images_of_any_size_have_logits(build: Build, size: int, stem_stride: int) -> None:
    net = build(classes=7, width=0.125, stem_stride=stem_stride, in_channels=1).eval()
    with torch.inference_mode():
        assert net(torch.zeros(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("build", "sides"),
    [
        (nets.mobilenet_v1, (4, 2)),
        (nets.mobilenet_v2, (4, 2)),
        (nets.mobilenet_v3_large, (4, 2)),
        (nets.mobilenet_v3_small, (4, 2)),
        (nets.resnet18, (8, 2)),
        (nets.resnet50, (8, 2)),
        (nets.vgg16, (2, 2)),
    ],
)
def test_stem_stride_1_keeps_the_size(build: Build, sides: tuple[int, int]) -> None:
    found = []
    for stride in (1, 2):
        net = build(width=0.125, stem_stride=stride).eval()
        net.stages.register_forward_hook(lambda *call: found.append(call[2].shape[-1]))
        with torch.inference_mode():
            net(torch.zeros(1, 3, 64, 64))
    assert tuple(found) == sides


@pytest.mark.parametrize(
    ("build", "paths"),
    [
        (nets.vgg16, ["stages.4.2.conv"]),
        (nets.resnet18, ["stages.2.0.conv1", "stages.1.0.shortcut.conv"]),
        (nets.resnet50, ["stages.2.5.conv3", "stages.0.0.norm2"]),
        (nets.mobilenet_v1, ["stem.conv", "stages.3.5.pointwise.conv"]),
        (nets.mobilenet_v2, ["stages.5.2.project.norm", "last.conv"]),
        (nets.mobilenet_v3_large, ["stages.5.2.excite.reduce", "hidden.0"]),
        (nets.mobilenet_v3_small, ["stages.4.2.depthwise.conv", "last.norm"]),
    ],
)
def test_layers_have_names_to_ask_for_them_by(build: Build, paths: list[str]) -> None:
    with torch.device("meta"):
        net = build()
    for path in [*paths, "head"]:
        assert next(net.get_submodule(path).parameters()).numel() > 0


# --- weights and layout


@every_net
def test_a_seed_fixes_the_first_weights(build: Build) -> None:
    made = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        made.append(torch.cat([p.detach().ravel() for p in build(width=0.125).parameters()]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_convolutions_start_with_the_deviation_of_their_fan_out() -> None:
    torch.manual_seed(0)
    net = nets.mobilenet_v1()
    depthwise, pointwise = net.get_submodule("stages.4.1").children()
    assert pointwise.conv.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)
    assert depthwise.conv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 6), (3, 3), (6, 7)])
def test_a_depthwise_convolution_is_torchs(
    training: bool, kernel: int, stride: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    ours = DepthwiseConv(4, kernel, stride).train(training)
    plain = nn.Conv2d(4, 4, kernel, stride, kernel // 2, groups=4, bias=False)
    plain.load_state_dict(ours.state_dict())
    images, found = torch.randn(3, 4, *size), []
    for layer in (ours, plain):
        seen = images.clone().requires_grad_()
        made = layer(seen)
        made.square().sum().backward()
        found.append((made, seen.grad, layer.weight.grad))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


@every_net
def test_channels_last_answers_the_same(build: Build) -> None:
    torch.manual_seed(0)
    net, images = build(width=0.25).eval(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        plain = net(images)
        last = net.to(memory_format=torch.channels_last)(
            images.to(memory_format=torch.channels_last)
        )
    assert torch.allclose(plain, last, rtol=1e-3, atol=1e-5)


@every_net
def test_what_a_hook_saw_of_a_layer_is_not_changed_by_the_next(build: Build) -> None:
    torch.manual_seed(0)
    net, seen = build(width=0.125).eval(), []
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *call: seen.append((call[2], call[2].clone())))
    with torch.inference_mode():
        net(torch.randn(1, 3, 32, 32))
    assert len(seen) > 10
    assert all(torch.equal(kept, copy) for kept, copy in seen)


@every_net
def test_every_weight_learns(build: Build) -> None:
    torch.manual_seed(0)
    net = build(classes=3, width=0.125)
    nn.functional.cross_entropy(net(torch.randn(4, 3, 64, 64)), torch.arange(4) % 3).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@every_net
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"classes": 0}, "classes=0"),
        ({"width": 0.0}, r"width=0\.0"),
        ({"width": float("nan")}, "width=nan"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"stem_stride": 3}, "stem_stride is 3"),
    ],
)
def test_arguments_that_cannot_be_are_named(
    build: Build, wrong: dict[str, float], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        build(**wrong)


def test_configurations_can_name_a_net() -> None:
    net = reference.call("examples.vision.nets:mobilenet_v1", {"classes": 5, "width": 0.25})
    assert net.head.out_features == 5


# --- metrics


def batch(logits: list[list[float]], targets: list[int], mask: list[bool]) -> SimpleNamespace:
    return SimpleNamespace(
        inputs=torch.tensor(logits), targets=torch.tensor(targets), mask=torch.tensor(mask)
    )


RANKED = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
"""Logits that name class 0 first, 4 fifth and 6 last."""


def test_accuracy_is_over_all_rows_of_all_batches_in_percent() -> None:
    stream = [
        batch([RANKED] * 3, [0, 4, 5], [True] * 3),
        batch([RANKED] * 5, [0, 0, 1, 6, 6], [True] * 5),
    ]
    assert accuracy(nn.Identity(), stream) == {"top1": 37.5, "top5": 62.5}


def test_rows_that_pad_or_have_no_label_do_not_count() -> None:
    stream = [batch([RANKED] * 4, [0, IGNORE, 6, 0], [True, True, True, False])]
    assert accuracy(nn.Identity(), stream) == {"top1": 50.0, "top5": 50.0}


def test_with_fewer_than_five_classes_every_answer_is_among_the_first_five() -> None:
    stream = [batch([[1.0, 0.0]] * 2, [0, 1], [True] * 2)]
    assert accuracy(nn.Identity(), stream) == {"top1": 50.0, "top5": 100.0}


@pytest.mark.parametrize("targets", [None, torch.tensor([IGNORE])])
def test_a_stream_without_labels_is_refused(targets: Tensor | None) -> None:
    rows = SimpleNamespace(
        inputs=torch.zeros(1, 7), targets=targets, mask=torch.ones(1, dtype=torch.bool)
    )
    with pytest.raises(ConfigError, match="needs samples with labels"):
        accuracy(nn.Identity(), [rows])
