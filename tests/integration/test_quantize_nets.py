"""Nets of the papers as real integers: their kernels, their size, their answers."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from pantheon.compress.export import Export
from pantheon.compress.quantize.calibrating import calibrate, met_spots
from pantheon.compress.quantize.edit import RoundTensors, Weight
from pantheon.compress.quantize.exported import float_operators
from pantheon.compress.quantize.integers import write_integers
from pantheon.compress.quantize.observers import AbsMax
from pantheon.compress.quantize.processor import saturates
from pantheon.compress.quantize.rounding import Rounder
from pantheon.compress.quantize.simulated import is_quantized, plain
from pantheon.errors import ConfigError
from tests.unit.test_quantize_model import Block, Stream
from tests.unit.test_quantize_spots import folded

IMAGES = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def quantized(
    model: nn.Module,
    inputs: Any = IMAGES,
    bits: int = 8,
    keep: Sequence[str] = (),
    by: str = "fixed",
    shared: Sequence[str] = (),
) -> nn.Module:
    """A copy that rounds; all weights of the layers in `shared` have one scale."""
    spots = met_spots(model, inputs, keep)
    found = calibrate(model, spots, Stream(inputs), AbsMax, bits=bits, by=by)
    own = 7 if bits == 8 and saturates() else bits
    weights = {
        path: Weight(own, path not in shared, given=spots.given.get(path)) for path in spots.weights
    }
    made = RoundTensors(found.activations, weights).apply(copy.deepcopy(model)).eval()
    rounders = [module for module in made.modules() if isinstance(module, Rounder)]
    for rounder, threshold in zip(rounders, found.thresholds, strict=True):
        rounder.start(threshold)
    return made


def written(model: nn.Module, folder: Path, inputs: Any = IMAGES) -> tuple[Path, Path]:
    float_file, file = folder / "model.onnx", folder / "model.int8.onnx"
    Export().write(plain(model), inputs, float_file)
    write_integers(model, inputs, float_file, file)
    return float_file, file


def answered(file: Path, inputs: Tensor = IMAGES) -> Tensor:
    made = session(file)
    return torch.from_numpy(made.run(None, {made.get_inputs()[0].name: inputs.numpy()})[0])


def session(file: Path, optimized: Path | None = None, optimize: bool = True) -> Any:
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return InferenceSession(file, options, providers=["CPUExecutionProvider"])


def kernels(file: Path, folder: Path) -> Counter[str]:
    """The operators that run, after all of ONNX Runtime's optimisations."""
    session(file, folder / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg16", {"QLinearConv": 13, "QGemm": 1}),
        ("resnet18", {"QLinearConv": 20, "QLinearAdd": 8, "QGemm": 1}),
        ("mobilenet_v1", {"QLinearConv": 27, "QGemm": 1}),
        ("mobilenet_v2", {"QLinearConv": 52, "QLinearAdd": 10, "QGemm": 1}),
    ],
)
@torch.no_grad()
def test_nets_are_computed_with_integers_from_end_to_end(
    name: str, expected: dict[str, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = folded(name)
    for path, parameter in net.named_parameters():
        if path.endswith("bias"):
            parameter.normal_(std=0.1)  # Where there is none, nothing keeps a layer real.
    model = quantized(net)
    float_file, file = written(model, tmp_path)
    found = kernels(file, tmp_path)
    assert {kind: found[kind] for kind in expected} == expected
    assert not {"Conv", "FusedConv", "NhwcFusedConv", "Add", "Gemm", "MatMul"} & set(found)
    assert file.stat().st_size < 0.28 * float_file.stat().st_size
    assert [kind for kind, _ in float_operators(file)] == ["ReduceMean"]
    # The float file is the model as it was, and the integers answer what the rounded model does.
    largest = float(net(IMAGES).abs().max())
    assert torch.allclose(answered(float_file), net(IMAGES), atol=1e-4 * largest)
    # A sum that is nearly between two integers may go either way, and later layers add to that.
    rounded = model(IMAGES)
    ours, lost = (_apart(found, rounded) for found in (answered(file), net(IMAGES)))
    assert ours < lost


def _apart(found: Tensor, expected: Tensor) -> float:
    return (found - expected).square().mean().sqrt().item()


@pytest.mark.slow
@torch.no_grad()
def test_what_stays_real_is_listed_with_its_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, file = written(quantized(folded("mobilenet_v3_small")), tmp_path)
    found = Counter(float_operators(file))
    assert found["Mul", "stem.act"] == found["HardSigmoid", "stem.act"] == 1
    assert {kind for kind, _ in found} == {"HardSigmoid", "Mul", "ReduceMean"}
    assert not {"Conv", "FusedConv", "Add", "Gemm"} & set(kernels(file, tmp_path))


class Mixed(nn.Module):
    """Concatenation, splits, pooling, a transposed convolution, and a part that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.block = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), Block()
        self.up, self.pool = nn.ConvTranspose2d(4, 4, 2, 2), nn.MaxPool2d(2)
        self.kept, self.head = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x), self.right(x).relu()], 1)
        one, two = self.up(self.pool(self.block(both))).chunk(2, 1)
        answer: Tensor = self.head(one * two + self.kept(two))
        return answer


@torch.no_grad()
def test_other_operations_answer_what_the_rounded_model_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, inputs = Mixed().eval(), IMAGES[:, :, :16, :16]
    model = quantized(net, inputs, keep=["kept"], shared=["left"])
    _, file = written(model, tmp_path, inputs)
    rounded = model(inputs)
    assert _apart(answered(file, inputs), rounded) < 0.5 * _apart(net(inputs), rounded)
    assert ("ConvTranspose", "up") in float_operators(file)  # ONNX Runtime has no kernel for it.
    names = {tensor.name for tensor in onnx.load(file).graph.initializer}
    assert {"kept.weight", "head.weight.int"} <= names


@torch.no_grad()
def test_a_file_of_integers_says_nothing_twice(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = IMAGES[:, :, :16, :16]
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Block(), nn.Flatten(), nn.Linear(1024, 3)).eval()
    _, file = written(quantized(net, inputs), tmp_path, inputs)
    graph = onnx.load(file).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert len(values) == len(graph.initializer)
    zeros = [(value.dtype, value.item()) for value in values.values() if value.dtype.itemsize == 1
             and not value.shape]  # fmt: skip
    assert len(zeros) == len(set(zeros)) >= 1
    # Biases of layers whose answer is rounded have no scales: runtimes round them by themselves.
    biases = {name: value.dtype.kind for name, value in values.items() if "bias" in name}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 1
    assert biases == {node.input[2]: "f" for node in convolutions} | {
        "3.bias.int": "i",
        "3.bias_quantized.step": "f",
    }
    # Only the matrix is told what stands for 0 in its weights.
    backs = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    told = [node.input[0] for node in backs if len(node.input) == 3 and node.input[0] in values]
    assert told == ["3.weight.int"]


@torch.no_grad()
def test_the_model_is_as_it_was_after_it_was_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = IMAGES[:, :, :8, :8]
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Block(), nn.Flatten(), nn.Linear(256, 3)).eval()
    model = quantized(net, inputs)
    before = model(inputs)
    for _ in range(2):
        written(model, tmp_path, inputs)
    assert torch.equal(model(inputs), before)
    assert is_quantized(model)
    assert not is_quantized(plain(model))
    assert torch.equal(plain(model)(inputs), net(inputs))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain(model).modules())


@torch.no_grad()
def test_fewer_bits_are_simulated_and_refused(tmp_path: Path) -> None:
    inputs = IMAGES[:, :, :8, :8]
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    model = quantized(net, inputs, bits=4)
    with pytest.raises(ConfigError, match=r":input is rounded to 4 bits, which is simulated"):
        written(model, tmp_path, inputs)


class Swish(nn.Module):
    """A module without parts that makes a tensor of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Tokens(nn.Module):
    """Linear layers of tensors with three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)
        self.tied = nn.Linear(8, 16)
        self.tied.weight = self.up.weight

    def forward(self, x: Tensor) -> Tensor:
        made = x + self.down(self.act(self.up(x)))
        answer: Tensor = self.down(self.act(self.tied(made))).mean(1)
        return answer


class Averaged(nn.Module):
    """Averages by functions, one of which the exporter writes as the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).flatten(1))
        return answer


class Keywords(nn.Module):
    """Two inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        answer: Tensor = self.one(left) * self.two(right)
        return answer


def _odd() -> dict[str, tuple[nn.Module, Any]]:
    images = IMAGES[:, :, :8, :8]
    kept = nn.Conv2d(4, 4, 1)
    nn.utils.parametrizations.weight_norm(kept)
    both = {"right": 50 * torch.rand(6, 4), "left": torch.randn(6, 4)}
    return {
        "swish": (nn.Sequential(nn.Conv2d(3, 4, 1), Swish(), nn.Conv2d(4, 2, 1)), images),
        "reflected": (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), images),
        "tokens": (Tokens(), torch.randn(6, 5, 8)),
        "keywords": (Keywords(), both),
        "averaged": (Averaged(), images),
        "parametrized": (nn.Sequential(nn.Conv2d(3, 4, 1), kept, nn.Conv2d(4, 2, 1)), images),
        "transposed": (
            nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.ConvTranspose2d(4, 4, 2, 2, groups=2)),
            images,
        ),
        "three": (
            nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 9), nn.Tanh()),
            images,
        ),
    }


@pytest.mark.parametrize("by", ["fixed", "dynamic"])
@pytest.mark.parametrize("name", sorted(_odd()))
@torch.no_grad()
def test_odd_models_are_exported_as_they_round(name: str, by: str, tmp_path: Path) -> None:
    # As the file is written, and by the kernels that ONNX Runtime makes of it.
    for most, optimized in ((0.2, False), (1.0, True)):
        parts = (_part_apart(name, by, seed, optimized, tmp_path) for seed in range(3))
        # What lies midway between two integers goes to either, as kernels add in another order,
        # and nets as small as these may answer otherwise for it: then two others have to agree.
        assert next(parts) < most or max(parts) < most


def _part_apart(name: str, by: str, seed: int, optimized: bool, folder: Path) -> float:
    """How far a file's answers are off, as a part of what rounding changes."""
    torch.manual_seed(seed)
    net, inputs = _odd()[name]
    net.eval()
    rounded = quantized(net, inputs, keep=["1"] if name == "parametrized" else [], by=by)
    _, file = written(rounded, folder, inputs)
    expected, whole = (
        m(**inputs) if isinstance(inputs, dict) else m(inputs) for m in (rounded, net)
    )
    lost = _apart(whole, expected)
    assert lost > 0
    made = session(file, optimize=optimized)
    feed = inputs if isinstance(inputs, dict) else {made.get_inputs()[0].name: inputs}
    answer = made.run(None, {key: value.numpy() for key, value in feed.items()})[0]
    return _apart(torch.from_numpy(answer), expected) / lost
