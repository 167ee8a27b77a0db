"""Real integers: a quantized model as an ONNX file that ONNX Runtime computes with int8 kernels."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pantheon.compress.inputs import fed
from pantheon.compress.quantize.dynamic import write_dynamic
from pantheon.compress.quantize.exported import MARK, MOVING
from pantheon.compress.quantize.lighter import lighten
from pantheon.compress.quantize.placing import WEIGHTED, named, round_weights
from pantheon.compress.quantize.scales import (
    Scale,
    activation_scales,
    dynamic_sites,
    weight_scales,
)
from pantheon.compress.quiet import quiet

SUMS = ("Add", "Mul")
"""Operators of two tensors."""

FUSED = ("Relu", "Clip")
"""Activations that cost nothing: what they cut off has no integer."""


def write_integers(model: nn.Module, inputs: Any, float_file: Path, file: Path) -> None:
    """Write a quantized model's ONNX file, whose kernels compute with integers.

    ONNX Runtime's static quantization, with the scales that the model has: unsigned 8 bits for
    activations, signed 8 bits for weights. What rounds by extremes at run time is written by
    `write_dynamic`.

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

    if dynamic_sites(model):
        write_dynamic(model, inputs, float_file, file)
        return
    source = onnx.load(float_file)
    activations, weights = activation_scales(model), weight_scales(model)
    rounded = named(source.graph, activations, model, inputs, float_file)
    plan = _Plan(round_weights(source.graph, model, weights), rounded)
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
        _keep_real(quantized.graph, {node.name for node in source.graph.node} - set(plan.nodes))
        lighten(quantized.graph)
        onnx.save(quantized, partial)
        os.replace(partial, file)


class _Plan:
    """Which nodes of a graph compute with integers, and the scales of its tensors.

    Args:
        own: of weights, by name.
        rounded: of activations, by the tensor's name.
    """

    def __init__(self, own: Mapping[str, Scale], rounded: Mapping[str, Scale]) -> None:
        self.own, self.rounded = own, dict(rounded)
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
        return {name: _override(scale) for name, scale in (self.rounded | dict(self.own)).items()}


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


def _keep_real(graph: Any, kept: Collection[str]) -> None:
    """Have ONNX Runtime leave the weights of kept layers real.

    It would round those of a layer between two rounded tensors when it loads the file. It does not
    where something else comes between the layer and the rounding, such as a minimum with infinity.
    """
    from onnx import helper, numpy_helper

    rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in [n for n in graph.node if n.name in kept and n.op_type in WEIGHTED]:
        if node.output[0] not in rounded:
            continue
        name, real, most = node.output[0], f"{node.output[0]}_kept", f"{node.output[0]}_most"
        node.output[0] = real
        graph.initializer.append(numpy_helper.from_array(np.array(np.inf, np.float32), most))
        least = helper.make_node("Min", [real, most], [name], f"{name}{MARK}")
        graph.node.insert(list(graph.node).index(node) + 1, least)


def _reread(graph: Any, old: str, new: str) -> None:
    """Have all that reads one tensor read another."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


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
