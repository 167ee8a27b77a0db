"""The quantization stage and its export: what they leave, what they refuse, and going on."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pantheon import SampleStream
from pantheon.cli import app
from pantheon.compress.artifact import Artifact
from pantheon.compress.config import PipelineConfig
from pantheon.compress.export import Export
from pantheon.compress.order import check_stages
from pantheon.compress.prune.cutting import Ranked
from pantheon.compress.prune.stage import Prune
from pantheon.compress.quantize.edit import RoundTensors, Weight
from pantheon.compress.quantize.integers import write_integers
from pantheon.compress.quantize.processor import saturates
from pantheon.compress.quantize.rounding import Rounder
from pantheon.compress.quantize.simulated import is_quantized
from pantheon.compress.quantize.stage import MADE, Bits, Quantize
from pantheon.compress.stage import Outcome
from pantheon.config import load
from pantheon.errors import CompressionError, ConfigError
from tests.unit.test_prune_stage import NET, data, net, work


def run(folder: Path, artifact: Artifact | None = None, **options: Any) -> Outcome:
    stage = Quantize(**options)
    return stage.run(artifact or Artifact.make(NET), work(folder))


def thresholds(model: nn.Module) -> list[float]:
    return [float(m.threshold) for m in model.modules() if isinstance(m, Rounder)]


@torch.no_grad()
def test_it_folds_calibrates_and_rounds(tmp_path: Path) -> None:
    outcome = run(tmp_path, samples=32)
    model, told = outcome.artifact.model, outcome.figures["quantization"]
    kinds = [edit.kind for edit in outcome.artifact.edits]
    assert kinds == ["fold_batchnorm", "quantize"]
    assert (outcome.samples, told["folded"], told["simulated"]) == (32, 3, False)
    bits = 7 if saturates() else 8
    assert told["weights"] == dict.fromkeys(["0", "3", "6", "11"], bits)
    assert told["reduced_range"] == saturates()
    assert list(told["activations"]) == [":input", "2", "5", "8", "9"]
    assert [each["signed"] for each in told["activations"].values()] == [True, *[False] * 4]
    assert thresholds(model) == [
        pytest.approx(each["threshold"]) for each in told["activations"].values()
    ]
    images = data().tensors[0]
    expected, found = net().eval()(images), model.eval()(images)
    assert 0 < float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())


def test_the_same_samples_give_the_same_bits(tmp_path: Path) -> None:
    found = [run(tmp_path / name, samples=16).artifact.digest() for name in "ab"]
    assert found[0] == found[1]


def test_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    kept = (tmp_path / MADE / "weights.safetensors").stat().st_mtime_ns
    again = run(tmp_path)
    assert again.artifact.digest() == first.artifact.digest()
    assert (tmp_path / MADE / "weights.safetensors").stat().st_mtime_ns == kept


def test_observers_find_different_thresholds(tmp_path: Path) -> None:
    found = {
        name: thresholds(run(tmp_path / name, observer=name).artifact.model)[1]
        for name in ("abs_max", "average", "percentile", "mse")
    }
    assert len(set(found.values())) == 4
    assert max(found, key=lambda name: found[name]) == "abs_max"


def test_layers_that_are_kept_are_not_rounded(tmp_path: Path) -> None:
    kept = run(tmp_path / "kept", keep=["6", "1*"])
    only = run(tmp_path / "only", only=["0", "3"])
    for outcome in (kept, only):
        assert list(outcome.figures["quantization"]["weights"]) == ["0", "3"]
    assert list(kept.figures["quantization"]["float"].values()) == ["conv2d", "relu", "linear"]


def test_fewer_bits_are_said_to_be_simulated(tmp_path: Path) -> None:
    told = run(tmp_path, weight=Weight(4)).figures["quantization"]
    assert (told["simulated"], told["bits"]) == (True, {"activations": 8, "weights": 4})


def test_layers_have_bits_of_their_own(tmp_path: Path) -> None:
    mixed = {"*": Bits(weights=5), "3": Bits(3), "0": Bits(activations=6, weights=4)}
    outcome = run(tmp_path, mixed=mixed)
    told = outcome.figures["quantization"]
    assert told["weights"] == {"0": 4, "3": 5, "6": 5, "11": 5}
    bits = {name: each["bits"] for name, each in told["activations"].items()}
    assert bits == {":input": 8, "2": 6, "5": 3, "8": 8, "9": 8}
    assert told["simulated"]
    with pytest.raises(ConfigError, match="what '11' answers is not rounded, so that it has no bi"):
        run(tmp_path / "last", mixed={"11": Bits(4)})
    with pytest.raises(ConfigError, match="mixed: no layer matches 'convs'"):
        Quantize(mixed={"convs": Bits(4)}).check(net())


@torch.no_grad()
def test_rounding_and_biases_are_put_right(tmp_path: Path) -> None:
    images, expected = data().tensors[0], net().eval()(data().tensors[0])
    apart = {}
    for correct in ([], ["rounding"], ["rounding", "biases"]):
        folder = tmp_path / "-".join(["corrected", *correct])
        outcome = run(folder, weight=Weight(3), correct=correct)
        told = outcome.figures["quantization"]["corrected"]
        assert list(told) == correct
        found = outcome.artifact.model.eval()(images)
        apart[len(correct)] = float((found - expected).square().mean())
        for before, after in told.get("rounding", {}).values():
            assert after <= before
    assert apart[1] < 0.7 * apart[0]
    assert apart[2] < 0.7 * apart[0]
    assert list(told["biases"]) == ["0", "3", "6", "11"]
    with pytest.raises(ConfigError, match="correct has 'weights'; expected some of rounding"):
        Quantize(correct=["weights"])


@pytest.mark.parametrize("reduced", [True, False])
def test_weights_of_half_the_range_are_exported(reduced: bool, tmp_path: Path) -> None:
    from onnx import load, numpy_helper

    outcome = run(tmp_path / "1", reduce_range=reduced)
    told = outcome.figures["quantization"]
    assert (told["reduced_range"], told["simulated"]) == (reduced, False)
    # Without VNNI the kernels may cut sums off where the range is whole.
    Export(integer_tolerance=0.2 if reduced else 1.0).run(outcome.artifact, work(tmp_path / "2"))
    graph = load(tmp_path / "2" / "model.int8.onnx").graph
    integers = [numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) > 1]
    assert [int(np.abs(w.astype(int)).max()) for w in integers] == [63 if reduced else 127] * 4


@torch.no_grad()
def test_extremes_at_run_time_are_exported_so_or_frozen(tmp_path: Path) -> None:
    from onnx import load

    artifact = run(tmp_path / "1", thresholds="dynamic", observer="abs_max").artifact
    kinds = {}
    for name, freeze in (("dynamic", False), ("frozen", True)):
        here = work(tmp_path / name)
        told = Export(freeze=freeze).run(artifact, here).figures["int8"]
        between = [] if freeze else ["Relu of 2", "Relu of 5", "Relu of 8"]
        assert told["float_operators"] == [*between, "ReduceMean of 9"]
        assert told["largest_difference"] <= 0.1 * told["largest_output"]
        graph = load(here.folder / "model.int8.onnx").graph
        kinds[name] = Counter(node.op_type for node in graph.node)
    assert kinds["dynamic"]["ConvInteger"] == 3
    assert kinds["dynamic"]["MatMulInteger"] == 1
    assert kinds["dynamic"]["DynamicQuantizeLinear"] == 5
    assert kinds["frozen"]["DynamicQuantizeLinear"] == 0


@torch.no_grad()
def test_an_export_leaves_both_files(tmp_path: Path) -> None:
    artifact = run(tmp_path / "1").artifact
    outcome = Export(tolerance=1e-5).run(artifact, work(tmp_path / "2"))
    assert outcome.files == {"onnx": "model.onnx", "int8": "model.int8.onnx"}
    told = outcome.figures["int8"]
    assert told["largest_difference"] <= 0.1 * told["largest_output"]
    assert told["float_operators"] == ["ReduceMean of 9"]
    assert told["bytes"] == (tmp_path / "2" / "model.int8.onnx").stat().st_size
    assert is_quantized(outcome.artifact.model)
    json.dumps(dict(outcome.figures))
    from onnxruntime import InferenceSession

    images = data().tensors[0].numpy()
    found = [
        InferenceSession(tmp_path / "2" / name).run(None, {"input": images})[0].argmax(1)
        for name in outcome.files.values()
    ]
    assert np.mean(found[0] == found[1]) > 0.9


def test_integers_that_answer_something_else_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = run(tmp_path / "1").artifact

    def clipped(model: nn.Module, *others: Any) -> None:
        model = copy.deepcopy(model)
        for rounder in (m for m in model.modules() if isinstance(m, Rounder)):
            rounder.start(0.1 * float(rounder.threshold))
        write_integers(model, *others)

    monkeypatch.setattr("pantheon.compress.export.write_integers", clipped)
    with pytest.raises(CompressionError, match=r"model.int8.onnx: ONNX Runtime's outputs differ"):
        Export(integer_tolerance=1e-9).run(artifact, work(tmp_path / "2"))


def test_simulated_bits_are_not_exported(tmp_path: Path) -> None:
    artifact = run(tmp_path / "1", weight=Weight(4)).artifact
    with pytest.raises(ConfigError, match="the weight of 0 is rounded to 4 bits, which is simul"):
        Export().run(artifact, work(tmp_path / "2"))


def test_it_learns_on_after_calibration(tmp_path: Path) -> None:
    model = run(tmp_path).artifact.model
    model(data().tensors[0]).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# ---- what cannot be


def test_no_second_quantization_and_no_pruning_afterwards(tmp_path: Path) -> None:
    artifact = run(tmp_path).artifact
    with pytest.raises(ConfigError, match="stage 'quantize' would quantize a model that is quant"):
        Quantize().check(artifact.model)
    cut = Prune(ranked=Ranked.by("l1"), remove=0.5)
    with pytest.raises(ConfigError, match="'prune' would prune after 'quantize' did quantize"):
        check_stages([Quantize(), cut], net())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": ["convs.*"]}, r"stage 'quantize', keep: no layer matches 'convs.\*'"),
        ({"only": ["0"], "keep": ["0"]}, "'0' is named by only and by keep"),
    ],
)
def test_patterns_that_cannot_be_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Quantize(**options).check(net())


def test_all_layers_kept_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Sequential has no convolution or linear layer that"):
        run(tmp_path, keep=["*"])


def test_an_empty_part_is_an_error(tmp_path: Path) -> None:
    empty = SimpleNamespace(excerpt=lambda n, seed: SimpleNamespace(samples=list))
    here = work(tmp_path)
    object.__setattr__(here.parts, "train", empty)
    object.__setattr__(here.parts, "validation", SampleStream(data(), 16))
    with pytest.raises(ConfigError, match="calibration was given no samples"):
        Quantize().run(Artifact.make(NET), here)


def test_a_model_that_is_not_finite_is_named(tmp_path: Path) -> None:
    artifact = Artifact.make(NET)
    nn.init.constant_(artifact.model[3].weight, float("nan"))  # type: ignore[index]
    with pytest.raises(CompressionError, match=r"^5 has values that are not finite"):
        run(tmp_path, artifact)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bits: 9", "bits"),
        ("observer: maximum", "observer"),
        ("samples: 0", "samples"),
        ("weigth_bits: 8", "weight_bits"),
    ],
)
def test_settings_that_cannot_be_are_named_with_their_line(
    line: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        f"folder: {tmp_path / 'run'}\nmodel: {NET}\nstream: {{dataset: {NET}}}\n"
        f"stages:\n  - stage: quantize\n    {line}\n"
    )
    with pytest.raises(ConfigError, match=rf"(?s)pipeline.yaml:6: .*{said}"):
        load(path, PipelineConfig)


def test_an_edit_by_hand_is_seen_as_quantization() -> None:
    model = RoundTensors((), {"0": Weight()}).apply(net())
    with pytest.raises(ConfigError, match="quantized already"):
        Quantize().check(model)


@pytest.mark.slow
def test_a_pipeline_prunes_trains_quantizes_trains_and_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = "epochs: 1, losses: [{loss: cross_entropy}], optimizer: {name: sgd, lr: 0.01}"
    (tmp_path / "pipeline.yaml").write_text(
        f"folder: {tmp_path / 'run'}\nmodel: {NET}\nlatency: {{seconds: 0.1}}\n"
        "stream: {dataset: 'tests.unit.test_prune_stage:data', batch_size: 16, parts: {train: [0, "
        "40], validation: [40, 52], test: [52, 64]}}\n"
        "metric: tests.unit.test_prune_stage:loss_of\nstages:\n"
        f"  - {{stage: prune, remove: 0.3}}\n  - {{stage: distil, {learned}}}\n"
        f"  - {{stage: quantize}}\n  - {{stage: distil, name: tune, {learned}}}\n"
        "  - {stage: diagnose, validation: 8}\n  - {stage: export}\n"
    )
    app(["compress", str(tmp_path / "pipeline.yaml")], standalone_mode=False)
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if "M MACs" in line}
    assert [name for name, line in lines.items() if "simulates integers" in line] == [
        "quantize",
        "tune",
        "diagnose",
        "export",
    ]
    assert re.search(r"test part, int8: goodness -?\d", said)
    assert re.search(r"test part, int8: agrees with the result on \d+.\d+% of 12 samples", said)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["test"]) == {"original", "result", "int8"}
    assert summary["test"]["int8"]["goodness"] == pytest.approx(
        summary["test"]["result"]["goodness"], rel=0.05
    )
    assert summary["exported"]["int8"]["samples"] == 12
    assert summary["exported"]["int8"]["kl"] < 0.01
    page = (tmp_path / "run" / "report.html").read_text()
    for part in ("agrees with the model that rounds", "file of integers", "what is rounded"):
        assert part in page
    folder = tmp_path / "run" / "6-export"
    assert (folder / "model.int8.onnx").exists()
    report = json.loads((folder / "report.json").read_text())
    assert report["figures"]["int8"]["latency"]["runtime"] == "onnxruntime"
    tuned = Artifact.load(tmp_path / "run" / "4-tune" / "artifact").model
    before = Artifact.load(tmp_path / "run" / "3-quantize" / "artifact").model
    assert thresholds(tuned) == thresholds(before)
    assert (tmp_path / "run" / "report.html").exists()
