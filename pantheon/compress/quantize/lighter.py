"""ONNX files without what says nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from pantheon.compress.quantize.exported import SCOPES, module_of

ROUNDING = ("QuantizeLinear", "DequantizeLinear")

ZERO = "_zero_point"

SHORTER = {
    "_QuantizeLinear_Input": ".real",
    "_QuantizeLinear_Output": ".int",
    "_DequantizeLinear_Output": ".back",
    "_quantized": ".int",
    "_scale": ".step",
    ZERO: ".zero",
}
"""Endings of the names that ONNX Runtime gives tensors, and what stands for them in our files."""

DEFAULTS = {"auto_pad": b"NOTSET", "group": 1, "dilations": 1, "strides": 1, "pads": 0}
"""What a convolution's attributes are where nothing is said, in all directions (ONNX, Conv)."""


def forget(graph: Any) -> None:
    """Drop shapes between nodes, and what the exporter noted but for each node's own module."""
    graph.ClearField("value_info")
    for node in graph.node:
        where = module_of(node)
        node.ClearField("metadata_props")
        if where is not None:
            path, _, name = where
            node.metadata_props.add(key=SCOPES, value=repr([path, name]))


def lighten(graph: Any) -> None:
    """Leave out shapes, scales of biases, defaults, that 0 stands for 0, and long names.

    Args:
        graph: `onnx.GraphProto` as ONNX Runtime's static quantization writes it; changed in place.
    """
    forget(graph)
    _lighten_biases(graph)
    kernels = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    for node in graph.node:
        # Runtimes want to be told what stands for 0 in a matrix all the same.
        if node.op_type == "DequantizeLinear" and node.output[0] in kernels:
            del node.input[2:]
        for attribute in [each for each in node.attribute if node.op_type == "Conv"]:
            if _is_default(attribute):
                node.attribute.remove(attribute)
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    _shorten(graph)


def _is_default(attribute: Any) -> bool:
    """Whether a convolution has an attribute by itself."""
    from onnx import helper

    value = helper.get_attribute_value(attribute)
    each = value if isinstance(value, list) else [value]
    return all(one == DEFAULTS.get(attribute.name) for one in each)


def _lighten_biases(graph: Any) -> None:
    """Have biases as the real numbers that they stand for, where runtimes round these to the same.

    They do that in layers whose answer is rounded next; elsewhere a real bias would keep the whole
    layer real.
    """
    from onnx import TensorProto, numpy_helper

    integers = {t.name: t for t in graph.initializer if t.data_type == TensorProto.INT32}
    scales = {tensor.name: tensor for tensor in graph.initializer}
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for back in [
        n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in integers
    ]:
        del back.input[2:]
        layers = readers[back.output[0]]
        after = [node.op_type for layer in layers for node in readers[layer.output[0]]]
        if after != ["QuantizeLinear"] * len(layers):
            continue
        bias, scale = integers[back.input[0]], numpy_helper.to_array(scales[back.input[1]])
        real = (numpy_helper.to_array(bias) * scale.astype(np.float64)).astype(np.float32)
        name = back.input[0].removesuffix("_quantized")
        bias.CopyFrom(numpy_helper.from_array(real, name))
        for layer in layers:
            layer.input[:] = [name if n == back.output[0] else n for n in layer.input]
        graph.node.remove(back)


def _shorten(graph: Any) -> None:
    """Have short names for tensors that ONNX Runtime added, and one for equal zeros.

    In a small net names are a twentieth of the file. The nodes that round need none.
    """
    rounding = [node for node in graph.node if node.op_type in ROUNDING]
    known = {name for node in graph.node for name in (*node.input, *node.output)}
    added = {name for node in rounding for name in (*node.input, *node.output)}
    shorter = _zeros(graph)
    for name in sorted(added - {tensor.name for tensor in graph.output} - set(shorter)):
        for ending, short in SHORTER.items():
            new = name.removesuffix(ending) + short
            if name.endswith(ending) and new not in known:
                shorter[name] = new
                known.add(new)
                break
    for node in graph.node:
        node.input[:] = [shorter.get(name, name) for name in node.input]
        node.output[:] = [shorter.get(name, name) for name in node.output]
    for node in rounding:
        node.ClearField("name")
    kept = {shorter.get(tensor.name, tensor.name): tensor for tensor in graph.initializer}
    for name, tensor in kept.items():
        tensor.name = name
    tensors = list(kept.values())
    graph.ClearField("initializer")
    graph.initializer.extend(tensors)


def _zeros(graph: Any) -> dict[str, str]:
    """One name for all tensors that say the same of what stands for 0, by theirs."""
    from onnx import TensorProto, numpy_helper

    signs = {TensorProto.UINT8: "u", TensorProto.INT8: "i"}
    return {
        tensor.name: f".{signs[tensor.data_type]}{numpy_helper.to_array(tensor).item()}"
        for tensor in graph.initializer
        if tensor.data_type in signs and not tensor.dims and tensor.name.endswith(ZERO)
    }
