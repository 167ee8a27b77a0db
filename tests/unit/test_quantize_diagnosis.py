"""What the rounding of each layer costs: measured, told, and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pantheon.compress.artifact import Artifact
from pantheon.compress.quantize.diagnosis import POINTS, TOLD, Diagnose, rounding_only, units
from pantheon.compress.quantize.edit import Weight
from pantheon.compress.quantize.simulated import plain
from pantheon.compress.quantize.stage import Bits, Quantize
from pantheon.compress.stage import Work
from pantheon.errors import ConfigError
from tests.unit.test_prune_stage import NET, data, loss_of, work

NAMES = [":input", "0", "3", "6", "9", "11"]


def quantized(folder: Path, **options: Any) -> Artifact:
    stage = Quantize(**options)
    return stage.run(Artifact.make(NET), work(folder / stage.name)).artifact


def measuring(folder: Path) -> Work:
    return replace(work(folder / "diagnose"), metric=loss_of)


def diagnosed(folder: Path, artifact: Artifact) -> dict[str, Any]:
    stage = Diagnose(samples=16)
    found: dict[str, Any] = stage.run(artifact, measuring(folder)).figures["diagnosis"]
    return found


def test_each_layer_is_measured_alone_and_left_out(tmp_path: Path) -> None:
    artifact = quantized(tmp_path, weight=Weight(4), mixed={"3": Bits(2, 2)})
    found = diagnosed(tmp_path, artifact)
    assert (found["by"], found["samples"], list(found["layers"])) == (["kl", "goodness"], 16, NAMES)
    assert found["real"]["kl"] == pytest.approx(0, abs=1e-6)
    layers = found["layers"]
    worst = max(layers, key=lambda name: layers[name]["alone"]["kl"])
    best = min(layers, key=lambda name: layers[name]["without"]["kl"])
    assert worst == best == "3", "the layer of 2 bits"
    assert all(each["alone"]["kl"] > -1e-6 for each in layers.values())
    assert layers["3"]["without"]["kl"] < 0.5 * found["whole"]["kl"]


@torch.no_grad()
def test_what_is_not_asked_for_is_not_rounded(tmp_path: Path) -> None:
    model = quantized(tmp_path).model.eval()
    images = data().tensors[0]
    every, whole = units(model, images), model(images)
    assert [unit.name for unit in every] == NAMES
    with rounding_only(model, []):
        assert torch.equal(model(images), plain(model)(images))
    with rounding_only(model, every):
        assert torch.equal(model(images), whole)
    answers = []
    for unit in every:
        with rounding_only(model, [unit]):
            answers.append(model(images))
    assert all(not torch.equal(answer, plain(model)(images)) for answer in answers)
    with pytest.raises(RuntimeError, match="in the body"), rounding_only(model, []):
        raise RuntimeError("in the body")
    assert torch.equal(model(images), whole), "all is as it was"


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    artifact = quantized(tmp_path)
    found = diagnosed(tmp_path, artifact)
    path = tmp_path / "diagnose" / POINTS
    kept = json.loads(path.read_text())
    kept["points"]["alone 0"]["kl"] = 7.0
    del kept["points"]["alone 3"]
    path.write_text(json.dumps(kept))
    (tmp_path / "diagnose" / TOLD).unlink()
    again = diagnosed(tmp_path, artifact)
    assert again["layers"]["0"]["alone"]["kl"] == 7.0
    assert again["layers"]["3"] == found["layers"]["3"]
    other = quantized(tmp_path, name="other", bits=4)
    (tmp_path / "diagnose" / TOLD).unlink()
    assert diagnosed(tmp_path, other)["layers"]["0"]["alone"]["kl"] != 7.0, "of another model"


def test_a_model_with_real_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stage 'diagnose' tells .* put a quantize stage before"):
        Diagnose().run(Artifact.make(NET), work(tmp_path))
