"""Real integers: a quantized model as an ONNX file that ONNX Runtime computes with int8 kernels."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from pantheon.compress.inputs import fed
from pantheon.compress.quantize.exported import MOVING, SCOPES, module_of, tensors_at
from pantheon.compress.quantize.scales import Scale, activation_scales, weight_scales
from pantheon.compress.quantize.simulated import plain
from pantheon.compress.quantize.spots import Site
from pantheon.compress.quiet import quiet
from pantheon.errors import CompressionError

COME_TO = {"adaptive_avg_pool2d": "mean", "adaptive_avg_pool1d": "mean"}
"""Calls that the exporter writes as another operation."""

WEIGHTED, SUMS = ("Conv", "ConvTranspose", "Gemm", "MatMul"), ("Add", "Mul")
"""Operators with weights, and those of two tensors."""

FUSED = ("Relu", "Clip")
"""Activations that cost nothing: what they cut off has no integer."""


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
    rounded = _named(source.graph, activations, model, inputs, float_file)
    plan = _Plan(weights, rounded)
    _round_weights(source.graph, model, plan)
    for node in source.graph.node:
        plan.take(node)
    reader = OneBatch(fed(inputs, [tensor.name for tensor in source.graph.input]))
    with (
        tempfile.TemporaryDirectory(dir=file.parent) as folder,
        quiet(""),
    ):  # of advice to preprocess
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


def _named(
    graph: Any, scales: Mapping[Site, Scale], model: nn.Module, inputs: Any, file: Path
) -> dict[str, Scale]:
    """Scales by the names that a file has for their tensors.

    Raises:
        CompressionError: it has none for one.
    """
    names = tensors_at(graph, plain(model), inputs)
    found, missing = {}, []
    for site, scale in scales.items():
        other = replace(site, call=COME_TO.get(site.call, site.call))
        name = names.get(site, names.get(other))
        if name is None:
            missing.append(str(site))
        else:
            found[name] = scale
    if missing:
        raise CompressionError(
            f"{file} has no tensor for {', '.join(missing[:5])}, which the model rounds; keep that "
            "module out of quantization"
        )
    return found


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
        where = module_of(node)
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


class OneBatch:
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
