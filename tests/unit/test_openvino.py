"""What OpenVINO answers for exported files is compared with torch, timed, and told to nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pantheon.compress import export
from pantheon.compress.artifact import Artifact
from pantheon.compress.config import ExportConfig
from pantheon.compress.export import Export
from pantheon.compress.onnx_model import in_onnxruntime
from pantheon.compress.openvino_runtime import in_openvino
from pantheon.compress.quantize.stage import Quantize
from pantheon.errors import CompressionError, ConfigError
from tests.unit.test_export import Two
from tests.unit.test_prune_stage import NET, work

installed = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")

SENDS_NOTHING = """
import sys
from pathlib import Path
from pantheon.compress.openvino_runtime import in_openvino
in_openvino(Path(sys.argv[1]))
assert "openvino_telemetry" not in sys.modules
import openvino_telemetry
"""


class Sides(nn.Module):
    """Its inputs have names, and columns by which they cannot be confused."""

    def forward(self, right: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        return right - left.sum(1, keepdim=True), left * 2


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of numbers minus nine, which are not numbers."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    Export().write(Two(-9.0).eval(), torch.rand(4, 3), path)
    return path


def exported(folder: Path, artifact: Artifact, **options: Any) -> Any:
    return Export(openvino=True, **options).run(artifact, work(folder)).figures


@installed
def test_real_numbers_are_compared_and_timed(tmp_path: Path) -> None:
    figures = exported(tmp_path, Artifact.make(NET))
    assert list(figures["openvino"]) == ["onnx"]
    told = figures["openvino"]["onnx"]
    assert told["largest_difference"] <= 1e-5 * told["largest_output"]
    assert told["largest_output"] == figures["largest_output"]
    latency = told["latency"]
    assert (latency["runtime"], latency["rows"], latency["threads"]) == ("openvino", 1, 1)
    assert 0 < latency["median"] < 1000


@installed
@pytest.mark.parametrize(
    ("options", "real"),
    [({}, 0), ({"thresholds": "dynamic", "observer": "abs_max"}, 4)],
    ids=["fixed", "dynamic"],
)
def test_integers_are_compared_and_layers_that_stay_real_are_named(
    options: dict[str, Any], real: int, tmp_path: Path
) -> None:
    artifact = Quantize(**options).run(Artifact.make(NET), work(tmp_path / "1")).artifact
    figures = exported(tmp_path / "2", artifact)
    told = figures["openvino"]["int8"]
    assert set(figures["openvino"]) == {"onnx", "int8"}
    assert told["largest_difference"] <= 0.1 * told["largest_output"]
    assert told["latency"]["runtime"] == "openvino"
    assert len(told["float_layers"]) == real
    assert figures["int8"]["latency"]["runtime"] == "onnxruntime"


@installed
def test_an_output_that_differs_is_an_error(file: Path) -> None:
    with pytest.raises(CompressionError, match=r"model.onnx: OpenVINO's outputs differ .* by nan"):
        Export().verify(Two(1.0).eval(), torch.rand(4, 3), file, load=in_openvino)


@installed
@pytest.mark.parametrize("load", [in_onnxruntime, in_openvino])
def test_inputs_go_by_name_and_rows_are_open(load: Any, tmp_path: Path) -> None:
    inputs = {"left": torch.rand(4, 3), "right": torch.rand(4, 2)}
    Export().write(Sides().eval(), inputs, tmp_path / "model.onnx")
    turned = dict(reversed(inputs.items()))
    told = Export().verify(Sides().eval(), turned, tmp_path / "model.onnx", load=load)
    assert told["largest_difference"] < 1e-6
    loaded = load(tmp_path / "model.onnx")
    assert list(loaded.names) == ["left", "right"]
    for rows in (1, 7, 2):
        columns = {"left": 3, "right": 2}
        fed = {name: torch.ones(rows, columns[name]).numpy() for name in reversed(loaded.names)}
        assert [answer.shape for answer in loaded.call(fed)] == [(rows, 2), (rows, 3)]


@installed
def test_a_file_that_openvino_has_no_operators_for_is_named(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Unheard", ["x"], ["y"], domain="mine")], "one", ends[:1], ends[1:]
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    save(helper.make_model(graph, opset_imports=domains), tmp_path / "model.onnx")
    with pytest.raises(CompressionError, match=r"model.onnx: OpenVINO cannot .*Unheard"):
        in_openvino(tmp_path / "model.onnx")


@installed
def test_nothing_is_sent_and_nothing_is_left_in_the_users_home(file: Path, tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    kept = {name: value for name, value in os.environ.items() if name != "CI"}
    command = [sys.executable, "-c", SENDS_NOTHING, str(file)]
    subprocess.run(command, env=kept | nowhere | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_stage_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ExportConfig(stage="export", name="files", openvino=True)
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(ConfigError, match=r"^stage 'files' .* install pantheon-kd\[openvino\]"):
        Export.from_config(config)
    assert not Export().openvino
