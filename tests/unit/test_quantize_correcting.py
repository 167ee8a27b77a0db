"""Corrections after calibration: biases by hand, and roundings against all that there are."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pantheon.compress.artifact import Artifact
from pantheon.compress.quantize import answers
from pantheon.compress.quantize.choice import Choice
from pantheon.compress.quantize.correcting import correct_biases, learn_rounding
from pantheon.compress.quantize.edit import RoundTensors, Weight
from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.simulated import plain
from pantheon.compress.quantize.weights import (
    WEIGHT_ROUNDERS,
    WeightRounder,
    original_weight,
    weight_rounders,
)
from pantheon.errors import CompressionError, ConfigError
from tests.unit.test_quantize_model import IMAGES, Net, Stream, quantized

PATHS = ["stem", "blocks.0.conv", "blocks.1.conv", "head"]
MORE = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def rounding(model: nn.Module, bits: int, by: str = "abs_max") -> nn.Module:
    """Only weights are rounded."""
    paths = [
        p for p, m in model.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)
    ]
    RoundTensors((), dict.fromkeys(paths, Weight(bits, by=by))).apply(model)
    for path in paths:
        rounder_of(model, path).start(original_weight(model.get_submodule(path)))
    return model.eval()


def rounder_of(model: nn.Module, path: str) -> WeightRounder:
    return weight_rounders(model.get_submodule(path))[0]


def integers(model: nn.Module, path: str) -> Tensor:
    """What a layer's weight is rounded to, in steps."""
    layer = model.get_submodule(path)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    scale = scale_of(model, path)
    places = weight.detach() / scale.reshape(-1, *[1] * (weight.ndim - 1))
    assert torch.allclose(places, places.round(), atol=1e-4)
    return places.round()


def scale_of(model: nn.Module, path: str) -> Tensor:
    weight = original_weight(model.get_submodule(path))
    return rounder_of(model, path).scale(weight).detach()


def linear(weights: list[list[float]], bias: bool = True) -> nn.Linear:
    layer = nn.Linear(len(weights[0]), len(weights), bias)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
        if bias:
            layer.bias.zero_()
    return layer


@torch.no_grad()
def channel_means(model: nn.Module, stream: Any) -> dict[str, Tensor]:
    """Of what each layer answers before it is rounded, over samples and positions."""
    found: dict[str, list[Tensor]] = {path: [] for path in PATHS}
    model = copy.deepcopy(model).eval()
    for path in PATHS:

        def see(layer: nn.Module, args: Any, answer: Tensor, path: str = path) -> None:
            found[path].append(answer.transpose(0, 1).flatten(1).clone())

        model.get_submodule(path).register_forward_hook(see, prepend=True)
    for batch in stream:
        model(batch.inputs)
    return {p: torch.cat(each, 1).mean(1) for p, each in found.items()}


# ---- biases


def test_biases_are_shifted_by_what_rounding_takes_away() -> None:
    first, second = linear([[4.0, 1.0], [1.0, 4.0]]), linear([[4.0, -1.0]])
    model = rounding(nn.Sequential(first, second), 2)  # Each 1 becomes 0.
    stream = Stream(torch.tensor([[2.0, 0.0]]), torch.tensor([[4.0, 6.0]]))  # Its mean: 3 and 3.
    # Of the first layer, 1 * 3 is gone in both channels. By then the second is given 4 * 3 + 3,
    # and loses -1 * 15.
    assert correct_biases(model, ["0", "1"], stream) == {"0": 3.0, "1": 15.0}
    assert first.bias.tolist() == [3.0, 3.0]
    assert second.bias.tolist() == [-15.0]


def near(mean: Tensor, expected: Tensor, model: nn.Module, path: str) -> bool:
    """Whether channels' means are as near as biases can bring them, which are rounded too."""
    (rounder,) = model.get_submodule(path).parametrizations.bias  # type: ignore[union-attr]
    return bool(((mean - expected).abs() < rounder.step() / 2 + 1e-5).all())


def test_after_that_all_channels_have_the_means_of_the_real_model() -> None:
    stream, model = Stream(MORE[:30], MORE[30:]), quantized(3).model
    expected, before = channel_means(Net(), stream), channel_means(model, stream)
    shifts = correct_biases(model, PATHS, stream)
    after = channel_means(model, stream)
    assert list(shifts) == PATHS
    for path in PATHS:
        assert float((before[path] - expected[path]).abs().max()) > 1e-3
        assert near(after[path], expected[path], model, path), path
        assert shifts[path] > 0


def test_rows_that_pad_a_batch_do_not_count() -> None:
    padded = Stream(torch.cat([MORE, torch.full((2, 3, 8, 8), 9.0)]), padding=2)
    models = [quantized(3).model for _ in range(2)]
    found = [
        correct_biases(model, PATHS, stream)
        for model, stream in zip(models, (padded, Stream(MORE)), strict=True)
    ]
    assert found[0] == found[1]
    assert torch.equal(models[0].head.bias, models[1].head.bias)  # type: ignore[union-attr, arg-type]


def test_a_layer_without_a_bias_is_left_alone() -> None:
    model = rounding(nn.Sequential(linear([[4.0, 1.0]], bias=False), linear([[1.0]])), 2)
    before = copy.deepcopy(model.state_dict())
    shifts = correct_biases(model, ["0", "1"], Stream(torch.ones(1, 2)))
    assert shifts == {"1": 1.0}
    changed = [name for name, v in model.state_dict().items() if not torch.equal(v, before[name])]
    assert changed == ["1.bias"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 3, 3), (4, 2, 9)),
        (nn.Conv3d(2, 3, 3), (4, 2, 5, 5, 5)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2), (4, 2, 5, 5)),
        (nn.Linear(2, 3), (4, 7, 2)),
    ],
)
@torch.no_grad()
def test_channels_are_where_the_layer_has_them(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, inputs = rounding(nn.Sequential(layer), 2), 1 + torch.randn(shape)
    expected = plain(model)(inputs)
    correct_biases(model, ["0"], Stream(inputs))
    over = [0, *range(2, expected.ndim)] if shape[-1] != 2 else [0, 1]
    assert torch.allclose(model(inputs).mean(over), expected.mean(over), atol=1e-5)


class Twice(nn.Module):
    """Calls a layer for two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.never = linear([[4.0, 1.0]]), linear([[1.0]])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([self.layer(input=a), self.layer(b)])


def test_all_calls_of_a_layer_count() -> None:
    model, inputs = rounding(Twice(), 2), {"a": torch.ones(1, 2), "b": 5 * torch.ones(1, 2)}
    assert correct_biases(model, ["layer"], Stream(inputs)) == {"layer": 3.0}
    with torch.no_grad():
        model.layer.bias.zero_()  # type: ignore[union-attr, operator]
    # To nearest, errors are 1 and 5.
    assert learn_rounding(model, ["layer"], Stream(inputs), steps=1)["layer"] == (13.0, 13.0)


@pytest.mark.parametrize("correct", [correct_biases, learn_rounding])
def test_what_cannot_be_corrected_is_named(correct: Any) -> None:
    model = rounding(nn.Sequential(linear([[4.0, 1.0]])), 2)
    for stream in (Stream(), Stream(torch.ones(2, 2), padding=2)):
        with pytest.raises(ConfigError, match="corrections were given no samples"):
            correct(model, ["0"], stream)
    with pytest.raises(CompressionError, match="what '0' answers is not finite"):
        correct(model, ["0"], Stream(torch.full((1, 2), float("nan"))))
    with pytest.raises(CompressionError, match="'never' is never called"):
        correct(rounding(Twice(), 2), ["never"], Stream((torch.ones(1, 2), torch.ones(1, 2))))


# ---- up or down


def alike() -> tuple[nn.Module, Tensor]:
    """A layer whose inputs go up and down together, so that errors of its weights add up.

    Its scale is 1, by the first weight. To nearest, all others go down, by 0.3 to 0.48 each.
    """
    torch.manual_seed(0)
    weights = [7.0, 0.48, 1.45, 2.42, 0.4, 1.37, 0.34, 2.3]
    inputs = 1 + torch.randn(64, 1) + 0.1 * torch.randn(64, 8)
    return rounding(nn.Sequential(linear([weights])), 4), inputs


def all_errors(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """The squared error of each way to round the weights but the first up and down."""
    weight = layer.weight.detach()[0]
    ups = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(weight) - 1)))
    tried = torch.cat([weight[:1].expand(len(ups), 1), weight[1:].floor() + ups], 1)
    return (inputs @ (tried - weight).T).square().mean(0)


def test_roundings_are_found_that_are_nearly_the_best() -> None:
    model, inputs = alike()
    errors = all_errors(plain(model)[0], inputs)  # type: ignore[index]
    before, after = learn_rounding(model, ["0"], Stream(inputs))["0"]
    assert before == pytest.approx(float(errors[0]), rel=1e-4), "all down is the nearest"
    assert float(errors.min()) < 0.01 * before
    assert float(errors.min()) * 0.999 < after < 1.25 * float(errors.min())
    assert integers(model, "0")[0, 0] == 7


@pytest.mark.parametrize("bits", [3, 4])
def test_layers_and_the_whole_err_less(bits: int) -> None:
    model, held = quantized(bits).model.eval(), IMAGES.flip(3)
    nearest, said = copy.deepcopy(model), list[str]()
    found = learn_rounding(model, PATHS, Stream(MORE), steps=200, say=said.append)
    assert list(found) == PATHS
    for path in PATHS[1:]:
        assert found[path][1] < 0.95 * found[path][0], path
        weight = original_weight(model.get_submodule(path))
        assert not torch.equal(weight, original_weight(nearest.get_submodule(path)))
    with torch.no_grad():
        errors = [float((each(held) - Net()(held)).square().mean()) for each in (nearest, model)]
    assert errors[1] < 0.95 * errors[0]
    assert [line.split(":")[0] for line in said] == [f"the rounding of {path}" for path in PATHS]


@pytest.mark.parametrize("by", WEIGHT_ROUNDERS)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (32, 6)),
        (nn.Conv1d(4, 6, 3, groups=2), (16, 4, 9)),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (16, 4, 6, 6)),
        (nn.Conv3d(2, 3, 2, stride=2), (16, 2, 4, 4, 4)),
    ],
)
def test_integers_are_next_to_the_weight_and_scales_stay(
    layer: nn.Module, shape: tuple[int, ...], by: str
) -> None:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    model = rounding(nn.Sequential(copy.deepcopy(layer)), 3, by)
    inputs = 1 + 0.3 * torch.randn(shape)
    before, scale = integers(model, "0"), scale_of(model, "0")
    real = original_weight(model.get_submodule("0")).detach().clone()
    error = learn_rounding(model, ["0"], Stream(inputs), steps=400, lr=0.02)["0"]
    assert error[1] < error[0]
    assert torch.equal(scale_of(model, "0"), scale)
    after = integers(model, "0")
    assert not torch.equal(after, before)
    assert float((after - before).abs().max()) == 1
    steps = real / scale.reshape(-1, *[1] * (real.ndim - 1))
    assert float((after - steps.clamp(-3, 3)).abs().max()) < 1 + 1e-4
    with torch.no_grad():
        told = F.mse_loss(model(inputs), layer(inputs))
    assert float(told) == pytest.approx(error[1], rel=1e-3)


def test_a_value_that_comes_to_the_end_is_not_the_channels_largest() -> None:
    torch.manual_seed(0)
    inputs, sizes = torch.ones(4, 3) + 0.01 * torch.randn(4, 3), 1 + torch.rand(1000)
    above = sizes[sizes / 7 * 7 > sizes]  # By the last digit.
    assert len(above) > 3
    for largest in above[:3].tolist():
        # Of 7 steps to each side: 7, 6.4 and 6.34, of which the second is to go up.
        weights = [largest, 6.4 / 7 * largest, 6.34 / 7 * largest]
        model = rounding(nn.Sequential(linear([weights])), 4)
        scale, layer = scale_of(model, "0"), model.get_submodule("0")
        learn_rounding(model, ["0"], Stream(inputs), steps=60, lr=0.1)
        assert integers(model, "0").tolist() == [[7, 7, 6]]
        settled = original_weight(layer).detach()[0]
        assert float(settled.max()) == float(settled[0]) == largest
        assert torch.equal(scale_of(model, "0"), scale)


def test_a_value_at_the_end_is_not_chosen_for() -> None:
    choice = Choice(WeightRounder(Grid(3), 0), torch.tensor([[-3.0, 0.4], [1.0, 3.0]]))
    assert choice.rounded(torch.ones(2, 2)).tolist() == [[-3.0, 1.0], [2.0, 3.0]]
    assert choice.rounded(torch.zeros(2, 2)).tolist() == [[-3.0, 0.0], [1.0, 3.0]]


def test_what_is_chosen_does_not_depend_on_units() -> None:
    found = []
    for factor in (1.0, 1024.0):
        model, inputs = alike()
        errors = learn_rounding(model, ["0"], Stream(factor * inputs), steps=100)["0"]
        found.append((integers(model, "0").tolist(), [error / factor**2 for error in errors]))
    assert found[0] == found[1]


def test_answers_may_be_those_of_another_model() -> None:
    model, inputs = rounding(nn.Sequential(linear([[3.0, 1.0]])), 3), Stream(torch.ones(2, 2))
    other = nn.Sequential(linear([[3.0, 3.0]]))
    assert learn_rounding(model, ["0"], inputs, steps=1, real=other)["0"] == (4.0, 4.0)
    assert correct_biases(model, ["0"], inputs, real=other) == {"0": 2.0}


def test_rounding_that_cannot_be_better_stays() -> None:
    exact = rounding(nn.Sequential(linear([[3.0, 1.0]])), 3)
    apart = rounding(nn.Sequential(linear([[3.0, 1.1]])), 3)
    for model in (exact, apart):
        before = original_weight(model[0]).clone()  # type: ignore[index]
        error, after = learn_rounding(model, ["0"], Stream(torch.eye(2)), steps=50)["0"]
        assert after == error
        assert torch.equal(original_weight(model[0]), before)  # type: ignore[index]


def test_other_layers_are_left_alone() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return F.linear(input, 2 * self.weight, self.bias)

    model = rounding(nn.Sequential(nn.ConvTranspose1d(1, 1, 2), Own(3, 2)), 3)
    before = copy.deepcopy(model.state_dict())
    assert learn_rounding(model, ["0", "1"], Stream(torch.ones(1, 1, 2)), steps=5) == {}
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())


def test_the_same_seed_leads_to_the_same_bits() -> None:
    made = [quantized(3) for _ in range(2)]
    found = [learn_rounding(m.model, PATHS, Stream(MORE), steps=30, seed=4) for m in made]
    assert found[0] == found[1]
    assert made[0].digest() == made[1].digest()


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = alike()
    row = 4 * (8 + 1)
    kept = {}
    for room in (0, 10 * row, 40 * row, 1000 * row):
        monkeypatch.setattr(answers, "SAMPLES", 50)
        seen = answers.Seen(room=room)
        monkeypatch.setattr(answers, "Seen", lambda seen=seen: seen)
        learn_rounding(copy.deepcopy(model), ["0"], Stream(inputs[:32], inputs[32:]), steps=2)
        kept[room // row] = len(seen.inputs[0]), len(seen.answers[0]), round(seen.samples)
        monkeypatch.undo()
    assert kept == {0: (1, 1, 1), 10: (10, 10, 10), 40: (40, 40, 40), 1000: (50, 50, 50)}


class Shared(nn.Module):
    """Calls a layer for parts of its input, of which one may have no rows."""

    def __init__(self, *parts: slice) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.parts = nn.Linear(8, 4), parts

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layer(x[part]) for part in self.parts])


@pytest.mark.parametrize("room", [20, 32, 40])
def test_a_layer_that_is_called_again_is_learned_from_what_there_is_room_for(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = answers.Seen(room=room * 4 * (8 + 4))
    monkeypatch.setattr(answers, "Seen", lambda: seen)
    inputs = Stream(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)))
    model = rounding(Shared(slice(None), slice(None)), 3)
    before, after = learn_rounding(model, ["layer"], inputs, steps=2)["layer"]
    assert 0 < after <= before
    # Each of the 32 samples has a row in both calls.
    assert (sum(map(len, seen.inputs)), seen.samples) == (room, room / 2)


@pytest.mark.parametrize("empty", [0, 1])
def test_a_call_without_rows_does_not_end_what_is_kept(
    empty: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = answers.Seen()
    monkeypatch.setattr(answers, "Seen", lambda: seen)
    parts = [slice(None), slice(None)]
    parts[empty] = slice(0, 0)
    model, inputs = rounding(Shared(*parts), 3), torch.ones(4, 8)
    learn_rounding(model, ["layer"], Stream(inputs, inputs), steps=2)
    assert (len(seen.inputs[0]), seen.samples) == (8, 8)


def test_samples_of_several_shapes_are_learned_from() -> None:
    model = quantized(3).model
    stream = Stream(MORE[:20], MORE[20:40, :, :5], MORE[40:, :, :, 2:])
    found = learn_rounding(model, PATHS, stream, steps=200)
    for path in PATHS[1:]:
        assert found[path][1] < 0.95 * found[path][0], path


@torch.no_grad()
def test_what_was_corrected_is_kept(tmp_path: Path) -> None:
    artifact = quantized(4)
    real, before = plain(artifact.model), artifact.digest()
    learn_rounding(artifact.model, PATHS, Stream(MORE), steps=50, real=real)
    correct_biases(artifact.model, PATHS, Stream(MORE), real=real)
    expected = channel_means(real, Stream(MORE))
    corrected = channel_means(artifact.model, Stream(MORE))["head"]
    assert near(corrected, expected["head"], artifact.model, "head")
    artifact.save(tmp_path)
    again = Artifact.load(tmp_path)
    assert torch.equal(again.model.eval()(IMAGES), artifact.model.eval()(IMAGES))
    assert again.digest() == artifact.digest() != before
