"""Real integers: a quantized model as an ONNX file that ONNX Runtime computes with int8 kernels."""

from __future__ import annotations

import ast
import copy
import logging
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pantheon.compress.quantize.graph import bound, called
from pantheon.compress.quantize.rounding import Rounder, WeightRounder
from pantheon.compress.quantize.spots import INPUT, Site
from pantheon.compress.quantize.taps import HOLDER, Taps, untap
from pantheon.errors import CompressionError, ConfigError
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student

SCOPES, NODE = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.fx_node"
"""What torch's exporter notes of each node: the modules that it is in, and the traced call."""

COME_TO = {"adaptive_avg_pool2d": "mean", "adaptive_avg_pool1d": "mean"}
"""Calls that the exporter writes as another operation."""

ZERO_POINT = 128
"""The unsigned integer that stands for 0 where there are negative values."""

MOVING = ("QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Flatten", "Squeeze",
          "Unsqueeze", "Identity", "Concat", "Slice", "Split", "Gather", "MaxPool", "Shape",
          "ReorderInput", "ReorderOutput", "Constant", "Cast", "Expand")  # fmt: skip
"""Operators that compute nothing."""


WEIGHTED, SUMS = ("Conv", "ConvTranspose", "Gemm", "MatMul"), ("Add", "Mul")
"""Operators with weights, and those of two tensors."""

FUSED = ("Relu", "Clip")
"""Activations that cost nothing: what they cut off has no integer."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What an integer of a tensor stands for.

    Args:
        step: float32, one number or ``[channels]``.
        axis: the dimension of channels; None for one number.
        zero: the integer that stands for 0.
        unsigned: whether integers are from 0 to 255, and not from -127 to 127.
    """

    step: np.ndarray[Any, np.dtype[np.float32]]
    axis: int | None = None
    zero: int = 0
    unsigned: bool = False


def is_quantized(model: nn.Module) -> bool:
    """Whether a model computes as if with integers.

    Example:
        >>> is_quantized(nn.Linear(2, 2))
        False
    """
    rounders = any(isinstance(m, WeightRounder) for m in model.modules())
    return rounders or isinstance(getattr(model, HOLDER, None), Taps)


def plain(model: nn.Module) -> nn.Module:
    """A copy of a quantized model that computes with real numbers; its weights are not rounded.

    Example:
        >>> from pantheon.compress.quantize.edit import RoundTensors, Weight
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> rounded = RoundTensors((), {"0": Weight()}).apply(copy.deepcopy(net))
        >>> sorted(plain(rounded).state_dict())
        ['0.bias', '0.weight']
    """
    model = copy.deepcopy(model)
    for layer in list(model.modules()):
        if _rounders(layer):
            _settle(layer)
    return untap(model)


def _rounders(layer: nn.Module) -> list[WeightRounder]:
    """What rounds the weight of a layer: one, or nothing."""
    if not parametrize.is_parametrized(layer, "weight"):
        return []
    every = cast(Any, layer.parametrizations)["weight"]
    return [each for each in every if isinstance(each, WeightRounder)]


@torch.no_grad()
def _settle(layer: nn.Module) -> None:
    """Give a layer its class and its weight back, without the rounding.

    PyTorch's own way takes the weight from the class, which copies of the layer share.
    """
    every = cast(Any, layer.parametrizations)["weight"]
    weight = every.original
    for each in every:
        weight = weight if isinstance(each, WeightRounder) else each(weight)
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    layer.register_parameter("weight", nn.Parameter(weight.detach()))


def weight_scales(model: nn.Module) -> dict[str, Scale]:
    """Of each quantized layer's weight, by the layer's path.

    Raises:
        ConfigError: weights of fewer than 8 bits; they are simulated only.
    """
    found = {}
    for path, layer in model.named_modules():
        for rounder in _rounders(layer):
            _require_bits(rounder.grid.bits, f"the weight of {path}")
            weight = cast(Any, layer.parametrizations)["weight"].original
            step = rounder.scale(weight).float().numpy()
            found[path] = Scale(step, rounder.channel_dim)
    return found


def activation_scales(model: nn.Module) -> dict[Site, Scale]:
    """Of each rounded tensor, by where it is made.

    Raises:
        ConfigError: activations of fewer than 8 bits; they are simulated only.
    """
    taps = getattr(model, HOLDER, None)
    if not isinstance(taps, Taps):
        return {}
    found = {}
    for site, rounder in taps.by_site().items():
        assert isinstance(rounder, Rounder)
        _require_bits(rounder.grid.bits, str(site))
        step = rounder.scale.detach().float().numpy()
        found[site] = Scale(step, zero=ZERO_POINT if rounder.grid.signed else 0, unsigned=True)
    return found


def _require_bits(bits: int, what: str) -> None:
    if bits != 8:
        raise ConfigError(
            f"{what} is rounded to {bits} bits, which is simulated: ONNX Runtime computes with 8; "
            "quantize to 8 bits for a file of integers"
        )


def tensors_at(graph: Any, model: nn.Module, inputs: Any) -> dict[Site, str]:
    """The names of an ONNX graph's tensors, by where the model's code makes them.

    Args:
        graph: `onnx.GraphProto` that torch's exporter wrote of the model.
        model: computes with real numbers.
        inputs: of the model.
    """
    calls = _calls(model, inputs)
    answers: dict[str, dict[str, str]] = defaultdict(dict)
    found: dict[Site, str] = {}
    names = _in_order(model, inputs, [tensor.name for tensor in graph.input])
    for place, name in enumerate(names):
        found[Site("", INPUT, place)] = name
    counts: Counter[tuple[str, str]] = Counter()
    seen: dict[str, Site] = {}
    for node in graph.node:
        where = _where(node)
        if where is None:
            continue
        path, call, name = where
        if path in calls:
            answers[path][name] = node.output[0]
        if name not in seen:
            seen[name] = Site(path, call, counts[path, call])
            counts[path, call] += 1
        found[seen[name]] = node.output[0]
    for path, by_name in answers.items():
        outputs = list(by_name.values())
        each = len(outputs) // calls[path]
        for number in range(calls[path] if each * calls[path] == len(outputs) else 0):
            found[Site(path, "", number)] = outputs[(number + 1) * each - 1]
    return found


def _in_order(model: nn.Module, inputs: Any, names: Sequence[str]) -> Sequence[str]:
    """The names of a file's inputs in the order of the model's signature."""
    if not isinstance(inputs, Mapping) or set(names) != set(inputs):
        return names
    args, kwargs = bound(model, (), {name: name for name in inputs})
    return [*args, *kwargs.values()]


def _calls(model: nn.Module, inputs: Any) -> Counter[str]:
    """How often each module without parts is called in one run, by path."""
    found: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda m, i, o, path=path: found.update([path]))
        for path, module in model.named_modules()
        if path and not list(module.children())
    ]
    try:
        with evaluating(model):
            call_student(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _where(node: Any) -> tuple[str, str, str] | None:
    """The module that a node is in, the call that it was traced from, and that call's own name."""
    noted = {prop.key: prop.value for prop in node.metadata_props}
    if SCOPES not in noted:
        return None
    *_, path, name = ast.literal_eval(noted[SCOPES])
    call = noted.get(NODE, "").partition("torch.ops.aten.")[2].partition(".")[0].rstrip("_")
    return path, call, name


def write_integers(model: nn.Module, inputs: Any, float_file: Path, file: Path) -> None:
    """Write a quantized model's ONNX file, whose kernels compute with integers.

    ONNX Runtime's static quantization, with the scales that the model has: unsigned 8 bits for
    activations, signed 8 bits for weights.

    Args:
        model: quantized.
        inputs: of the model.
        float_file: what `plain` of it was exported to.

    Raises:
        ConfigError: fewer than 8 bits.
        CompressionError: a rounded tensor is not in the file.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    source = onnx.load(float_file)
    activations, weights = activation_scales(model), weight_scales(model)
    names = tensors_at(source.graph, plain(model), inputs)
    if missing := [site for site in activations if site not in names]:
        raise CompressionError(
            f"{float_file} has no tensor for {', '.join(map(str, missing[:5]))}, which the model "
            "rounds; keep that module out of quantization"
        )
    plan = _Plan(weights, {names[site]: scale for site, scale in activations.items()})
    _round_weights(source.graph, model, plan)
    for node in source.graph.node:
        plan.take(node)
    reader = _Reader(_fed(inputs, [tensor.name for tensor in source.graph.input]))
    with tempfile.TemporaryDirectory(dir=file.parent) as folder, _quiet():
        partial = Path(folder, file.name)
        quantize_static(
            source,
            partial,
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=plan.nodes,
            extra_options={"TensorQuantOverrides": plan.overrides(), "WeightSymmetric": True},
        )
        quantized = onnx.load(partial)
        _only_ours(quantized.graph, plan.rounded)
        _all_ours(quantized.graph, plan.rounded)
        _forget(quantized.graph)
        onnx.save(quantized, partial)
        os.replace(partial, file)


class _Plan:
    """Which nodes of a graph compute with integers, and the scales of its tensors.

    Args:
        weights: by the path of the layer.
        rounded: by the tensor's name.
    """

    def __init__(self, weights: Mapping[str, Scale], rounded: Mapping[str, Scale]) -> None:
        self.weights, self.rounded = weights, dict(rounded)
        self.own: dict[str, Scale] = {}
        self.nodes: list[str] = []

    def take(self, node: Any) -> None:
        """Decide on the next node."""
        if node.op_type in WEIGHTED and any(name in self.own for name in node.input):
            self.nodes.append(node.name)
            return
        data = [*node.input] if node.op_type in ("Concat", *SUMS) else [*node.input[:1]]
        ready = all(name in self.rounded for name in data)
        answered = node.output[0] in self.rounded
        if node.op_type in FUSED:
            if answered and self.rounded[node.output[0]].zero:
                # Integers below that of 0 would let negative values pass: it has to be computed.
                self.rounded.setdefault(node.input[0], self.rounded[node.output[0]])
            elif answered:
                self.nodes.append(node.name)
        elif node.op_type in MOVING and ready:
            # The same integers stand for what is only moved.
            self.rounded |= dict.fromkeys(node.output, self.rounded[data[0]])
            self.nodes.append(node.name)
        elif node.op_type not in WEIGHTED and ready and (answered or node.op_type in SUMS):
            # A sum that an activation is fused with has its scale after that.
            self.nodes.append(node.name)

    def overrides(self) -> dict[str, list[dict[str, Any]]]:
        """The scales, in ONNX Runtime's terms."""
        return {name: _override(scale) for name, scale in (self.rounded | self.own).items()}


def _round_weights(graph: Any, model: nn.Module, plan: _Plan) -> None:
    """Put rounded weights in, so that no value lies between two integers and may go either way.

    The exporter may name a weight otherwise, and turn that of a linear layer round.

    Raises:
        CompressionError: the graph has no such weight.
    """
    from onnx import numpy_helper

    known = {tensor.name: tensor for tensor in graph.initializer}
    missing = dict(plan.weights)
    for node in graph.node:
        where = _where(node)
        if where is None or where[0] not in plan.weights or node.op_type not in WEIGHTED:
            continue
        scale = plan.weights[where[0]]
        value = cast(Tensor, model.get_submodule(where[0]).weight).detach().float().numpy()
        for name in node.input:
            shape = tuple(known[name].dims) if name in known else ()
            turned = node.op_type == "MatMul" and shape == value.shape[::-1]
            if (shape != value.shape and not turned) or len(shape) < 2:
                continue
            if turned:
                axis = None if scale.axis is None else 1 - scale.axis
                scale, value = replace(scale, axis=axis), np.ascontiguousarray(value.T)
            known[name].CopyFrom(numpy_helper.from_array(value, name))
            plan.own[name] = scale
            missing.pop(where[0], None)
            break
    if missing:
        raise CompressionError(
            f"the exported graph has no weight of {', '.join(list(missing)[:5])}, which the model "
            "rounds; keep these layers out of quantization"
        )


def _only_ours(graph: Any, rounded: Collection[str]) -> None:
    """Take out what ONNX Runtime rounds by its own calibration, where the model rounds nothing."""
    answers = {tensor.name for tensor in graph.output}
    for rounding in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
        before = rounding.input[0]
        name = before.removesuffix("_QuantizeLinear_Input")
        if name in rounded:
            continue
        back = [n for n in graph.node if n.input and n.input[0] == rounding.output[0]]
        if any(node.op_type != "DequantizeLinear" for node in back):
            continue
        for last in back:
            if last.output[0] in answers:
                maker = next(node for node in graph.node if before in node.output)
                maker.output[list(maker.output).index(before)] = last.output[0]
                _reread(graph, before, last.output[0])
                before = last.output[0]
            else:
                _reread(graph, last.output[0], before)
            graph.node.remove(last)
        graph.node.remove(rounding)
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _all_ours(graph: Any, rounded: Mapping[str, Scale]) -> None:
    """Put in what ONNX Runtime left out: the rounding between two operators that it has as real."""
    from onnx import helper, numpy_helper

    for name, scale in rounded.items():
        maker = next((node for node in graph.node if name in node.output), None)
        readers = [node for node in graph.node if name in node.input]
        kinds = {node.op_type for node in readers}
        moved = all(n.op_type in MOVING and set(n.output) <= set(rounded) for n in readers)
        answers = name in {tensor.name for tensor in graph.output}
        if maker is None or maker.op_type == "DequantizeLinear" or "QuantizeLinear" in kinds:
            continue
        if moved and not answers:
            continue
        given = [f"{name}_{part}" for part in ("real", "integers", "step", "zero")]
        real, integers, step, zero = given
        maker.output[list(maker.output).index(name)] = real
        graph.initializer.extend(
            [
                numpy_helper.from_array(scale.step.reshape(()), step),
                numpy_helper.from_array(np.array(scale.zero, np.uint8), zero),
            ]
        )
        place = list(graph.node).index(maker) + 1
        graph.node.insert(place, helper.make_node("QuantizeLinear", [real, step, zero], [integers]))
        back = helper.make_node("DequantizeLinear", [integers, step, zero], [name])
        graph.node.insert(place + 1, back)


def _reread(graph: Any, old: str, new: str) -> None:
    """Have all that reads one tensor read another."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


def _forget(graph: Any) -> None:
    """Drop what the exporter noted of each node but for its modules: it is longer than weights."""
    for node in graph.node:
        for prop in [prop for prop in node.metadata_props if prop.key != SCOPES]:
            node.metadata_props.remove(prop)


def _override(scale: Scale) -> list[dict[str, Any]]:
    from onnxruntime.quantization import QuantType

    kind, dtype = (QuantType.QUInt8, np.uint8) if scale.unsigned else (QuantType.QInt8, np.int8)
    zero = np.array(scale.zero, dtype)
    steps = scale.step.reshape(-1)
    found = [{"quant_type": kind, "scale": np.array(s), "zero_point": zero} for s in steps]
    if scale.axis is not None:
        found[0]["axis"] = scale.axis
    return found


class _Reader:
    """Hands ONNX Runtime one batch, for tensors whose scale nobody has found."""

    def __init__(self, feed: Mapping[str, Any]) -> None:
        self._left = [feed]

    def get_next(self) -> Any:
        """The batch, then None."""
        return self._left.pop() if self._left else None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        found = self.get_next()
        if found is None:
            raise StopIteration
        return found


def float_operators(file: Path) -> list[tuple[str, str]]:
    """What ONNX Runtime computes with real numbers in a file, after its own optimisations.

    Returns:
        Each operator and the path of the module that it came from, in their order.
    """
    import onnx
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    paths: dict[str, str] = {}
    for node in onnx.load(file).graph.node:
        where = _where(node)
        if where is not None:
            paths |= dict.fromkeys((node.name, *node.output), where[0])
    with tempfile.TemporaryDirectory() as folder:
        options = SessionOptions()
        options.log_severity_level = 3
        # The last level lays tensors out anew for this processor, and forgets names.
        options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        InferenceSession(file, options, providers=["CPUExecutionProvider"])
        nodes = list(onnx.load(options.optimized_model_filepath).graph.node)
    found = []
    for node in reversed(nodes):  # What an operator was split into has its path from the last part.
        path = next((paths[n] for n in (node.name, *node.output) if n and n in paths), None)
        if path is not None:
            for name in node.input:
                paths.setdefault(name, path)
        integers = node.op_type.startswith(("QLinear", "QGemm")) or "Integer" in node.op_type
        if not integers and node.op_type not in MOVING and "MaxPool" not in node.op_type:
            found.append((node.op_type, path or ""))
    return found[::-1]


def _fed(inputs: Any, names: Sequence[str]) -> dict[str, Any]:
    """What ONNX Runtime is given: by name where the inputs have names, else in their order."""
    args, kwargs = called(inputs)
    if kwargs and set(kwargs) == set(names):
        return {name: _array(value) for name, value in kwargs.items()}
    return dict(zip(names, map(_array, (*args, *kwargs.values())), strict=True))


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy()


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime advises to preprocess a model, which the exporter has done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
