"""Masks of single weights: which they are, that they stay, and how they grow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pantheon import SampleStream, Term
from pantheon.compress.artifact import Artifact
from pantheon.compress.distil import Distil
from pantheon.compress.export import Export
from pantheon.compress.prune.config import SparsifyConfig
from pantheon.compress.prune.masking import MaskWeights, mask_of, masked_weight
from pantheon.compress.prune.sparsify import Sparsify
from pantheon.compress.prune.sparsity import Gradual, magnitude_masks, two_of_four
from pantheon.compress.stage import Outcome, Work
from pantheon.compress.watcher import Watcher
from pantheon.config import OptimizerConfig
from pantheon.errors import ConfigError
from pantheon.stream import Parts
from pantheon.training.history import Step

NET = "tests.unit.test_sparsify:net"


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
        nn.ReLU(),
        nn.Linear(10, 2),
    )


def work(folder: Path, watcher: Watcher | None = None) -> Work:
    torch.manual_seed(2)
    data = TensorDataset(torch.randn(64, 4, 4, 4), torch.randint(0, 2, (64,)))
    stream = SampleStream(data, 16)
    return Work(folder, Parts(stream, stream), seed=3, watcher=watcher or Watcher())


def trained(epochs: int = 2) -> Distil:
    return Distil(
        losses=[Term("labels", nn.functional.cross_entropy)],
        epochs=epochs,
        optimizer=OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01),
        every=1,
    )


def run(stage: Any, folder: Path, watcher: Watcher | None = None) -> Outcome:
    folder.mkdir(exist_ok=True)
    found: Outcome = stage.run(Artifact.make(NET), work(folder, watcher))
    return found


def zeros(model: nn.Module) -> dict[str, float]:
    layers = dict(model.named_modules())
    paths = ("0", "4", "6")
    return {p: float((masked_weight(layers[p]) == 0).float().mean()) for p in paths}


def test_the_smallest_magnitudes_go_of_all_or_of_each_layer() -> None:
    weights = {"a": torch.tensor([[1.0, -2.0]]), "b": torch.tensor([[-3.0, 4.0]])}
    across = magnitude_masks(weights, 0.5)
    assert {k: m.tolist() for k, m in across.items()} == {
        "a": [[False, False]],
        "b": [[True, True]],
    }
    each = magnitude_masks(weights, 0.5, across=False)
    assert {k: m.tolist() for k, m in each.items()} == {"a": [[False, True]], "b": [[False, True]]}


def test_blocks_go_by_the_mean_of_their_magnitudes_not_of_their_values() -> None:
    # The first block's values cancel out, and are not small.
    weight = torch.tensor([[5.0, -5.0, 1.0, 1.0, 9.0], [5.0, -5.0, 1.0, 1.0, 9.0]])
    mask = magnitude_masks({"a": weight}, 0.5, block=(2, 2))["a"]
    assert mask.tolist() == [[True, True, False, False, True]] * 2  # the last has no whole block


def test_two_of_each_four_inputs_go_at_each_position_of_a_kernel() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 8, 2, 2)
    mask = two_of_four(weight)
    for fours in (mask[:, :4], mask[:, 4:]):
        assert bool((fours.sum(1) == 2).all())
    kept, gone = (
        weight[:, :4].abs().masked_fill(~mask[:, :4], 9),
        weight[:, :4].abs().masked_fill(mask[:, :4], 0),
    )
    assert bool((kept.amin(1) >= gone.amax(1)).all())


def test_sparsity_grows_by_the_cubic() -> None:
    gradual = Gradual(0.9, stable=5, ramp=20, updates=10, initial=0.1)
    for i in range(10):
        expected = ((i / 10 - 1) ** 3 + 1) * 0.8 + 0.1
        assert gradual.at(5 + 2 * i) == gradual.at(6 + 2 * i) == pytest.approx(expected)
    assert (gradual.at(4), gradual.at(25)) == (0.0, 0.9)


def test_masking_at_once_leaves_what_is_asked_for(tmp_path: Path) -> None:
    outcome = run(Sparsify(sparsity=0.75), tmp_path / "run")
    told = outcome.figures["sparsity"]
    assert told["simulated"] is True
    assert told["reached"] == pytest.approx(0.75, abs=0.01)
    assert told["layers"] == pytest.approx(zeros(outcome.artifact.model))


def test_kept_layers_have_no_zeros(tmp_path: Path) -> None:
    outcome = run(Sparsify(across=False, keep=["6"]), tmp_path / "run")
    found = zeros(outcome.artifact.model)
    assert found == pytest.approx({"0": 0.5, "4": 0.5, "6": 0.0})
    assert outcome.figures["sparsity"]["excluded"] == {"6": "kept, as asked for"}


def test_two_of_four_leaves_out_what_it_does_not_fit(tmp_path: Path) -> None:
    outcome = run(Sparsify(pattern="2:4"), tmp_path / "run")
    assert zeros(outcome.artifact.model) == {"0": 0.5, "4": 0.5, "6": 0.0}
    assert "10 inputs" in outcome.figures["sparsity"]["excluded"]["6"]


def test_a_second_cut_goes_on_from_the_masks_of_the_first(tmp_path: Path) -> None:
    first = run(Sparsify(sparsity=0.5), tmp_path / "first").artifact
    gone = masked_weight(first.model.get_submodule("4")) == 0
    second = Sparsify(sparsity=0.8).run(first, work(tmp_path / "second"))
    assert second.figures["sparsity"]["reached"] == pytest.approx(0.8, abs=0.01)
    assert bool((masked_weight(second.artifact.model.get_submodule("4")) == 0)[gone].all())
    assert [edit.kind for edit in second.artifact.edits] == ["mask_weights"]


def test_a_second_cut_that_begins_lower_brings_nothing_back(tmp_path: Path) -> None:
    first = run(Sparsify(sparsity=0.5), tmp_path / "first").artifact
    gone = masked_weight(first.model.get_submodule("4")) == 0
    growing = Sparsify(sparsity=0.6, initial=0.1, ramp=1.0, updates=4, distil=trained())
    second = growing.run(first, work(tmp_path / "second"))
    assert second.figures["sparsity"]["reached"] == pytest.approx(0.6, abs=0.01)
    assert bool((masked_weight(second.artifact.model.get_submodule("4")) == 0)[gone].all())


def test_weights_that_others_parametrised_are_left_out(tmp_path: Path) -> None:
    model = net()
    nn.utils.parametrizations.weight_norm(model.get_submodule("4"))
    stage = Sparsify()
    stage.check(model)
    assert stage._layers(model)[1] == {"4": "its weight is parametrised"}


@pytest.mark.parametrize("steps", [3, 4, 7, 391])
@pytest.mark.parametrize("updates", [1, 20])
def test_sparsity_is_reached_by_the_last_step_whatever_their_number(
    steps: int, updates: int
) -> None:
    gradual = Sparsify(sparsity=0.8, stable=0.5, ramp=0.5, updates=updates)._gradual(steps)
    assert gradual.at(steps) == 0.8


class Watching(Watcher):
    """Keeps how many weights are zero after each step; may stop at one."""

    def __init__(self, model: nn.Module | None = None, stop: int | None = None) -> None:
        self.steps, self.stop = 0, stop

    def step(self, step: Step) -> None:
        self.steps += 1
        if self.steps == self.stop:
            raise KeyboardInterrupt


GROWING = Sparsify(sparsity=0.8, stable=0.5, ramp=1.0, updates=4, distil=trained())


def test_zeros_stay_zero_in_this_training_and_in_later_ones(tmp_path: Path) -> None:
    outcome = run(GROWING, tmp_path / "run")
    model = outcome.artifact.model
    assert outcome.figures["sparsity"]["reached"] == pytest.approx(0.8, abs=0.01)
    before = {p: masked_weight(m) == 0 for p, m in model.named_modules() if p in ("0", "4", "6")}
    later = trained().run(outcome.artifact, work(tmp_path / "later")).artifact.model
    layers = dict(later.named_modules())
    assert all(torch.equal(masked_weight(layers[p]) == 0, gone) for p, gone in before.items())


@pytest.mark.timeout(180)
def test_a_training_stopped_at_any_step_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = run(GROWING, tmp_path / "whole").artifact.digest()
    for stop in range(1, 9):
        with pytest.raises(KeyboardInterrupt):
            run(GROWING, tmp_path / str(stop), Watching(stop=stop))
        assert run(GROWING, tmp_path / str(stop)).artifact.digest() == whole


def test_a_masked_model_is_read_back_in_another_process_bit_by_bit(tmp_path: Path) -> None:
    outcome = run(Sparsify(sparsity=0.6), tmp_path / "run")
    outcome.artifact.save(tmp_path / "artifact")
    code = (
        "import torch; from pantheon.compress import Artifact;"
        f"a = Artifact.load({str(tmp_path / 'artifact')!r});"
        "print(a.digest(), a.model.eval()(torch.ones(1, 4, 4, 4)).sum().item().hex())"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    with torch.no_grad():
        ours = outcome.artifact.model.eval()(torch.ones(1, 4, 4, 4)).sum().item()
    assert found.stdout.split() == [outcome.artifact.digest(), ours.hex()]


def test_a_masked_model_is_exported(tmp_path: Path) -> None:
    outcome = run(Sparsify(sparsity=0.6), tmp_path / "run")
    (tmp_path / "onnx").mkdir()
    Export().run(outcome.artifact, work(tmp_path / "onnx"))
    assert (tmp_path / "onnx" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["1"], "'1' is a BatchNorm2d; expected a convolution or linear layer"),
        (["9"], "no module '9'"),
        (["0", "0"], "names a layer twice"),
        ([], "expected a list of paths"),
    ],
)
def test_what_cannot_be_masked_is_named(layers: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MaskWeights(layers).apply(net())


def test_a_layer_is_masked_once() -> None:
    model = MaskWeights(["0"]).apply(net())
    with pytest.raises(ConfigError, match="the weight of '0' is parametrised already"):
        MaskWeights(["0"]).apply(model)
    with pytest.raises(ConfigError, match="the weight of the Linear has no mask"):
        mask_of(model.get_submodule("4"))


LEARNING = {"losses": [{"loss": "cross_entropy"}], "epochs": 2}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sparsity": 1.0}, "less than 1"),
        ({"pattern": "2:4", "sparsity": 0.7}, "2:4 is half of the weights"),
        ({"pattern": "2:4", "initial": 0.3}, "at once; leave initial out"),
        ({"ramp": 1}, "and distil trains 0"),
        ({"ramp": 2, "stable": 1, "distil": LEARNING}, "and distil trains 2"),
        ({"initial": 0.6}, "sparsity only grows"),
        ({"distil": LEARNING | {"ema": {"decay": 0.9}}}, "cannot follow masks"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SparsifyConfig.model_validate({"stage": "sparsify"} | settings)


def test_a_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match="stage 'sparsify', only: no layer matches 'conv"):
        Sparsify(only=["conv*"]).check(net())
    with pytest.raises(ConfigError, match="no layer is left to mask"):
        Sparsify(keep=["*"]).check(net())
