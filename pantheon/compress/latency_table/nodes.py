"""Operators as nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pantheon.compress.latency_table.operators import Operator


class Target(Protocol):
    """What nodes and weights are put into."""

    def add_node(self, node: Any) -> None:
        """A node."""

    def weight(self, name: str, value: Any) -> str:
        """A constant; answers its name."""

    def random(self, name: str, shape: Sequence[int]) -> str:
        """A weight of random numbers; answers its name."""


def emitted(writer: Writer, operator: Operator, given: list[str]) -> str:
    """Write an operator without what is fused with it; answers its output's name."""
    return _EMITTERS.get(operator.kind, _plain)(writer, operator, given)


class Writer:
    """Names the nodes and tensors of one operator."""

    def __init__(self, graph: Target, mark: str) -> None:
        self.graph, self.mark = graph, f"{mark}_"
        self._count = 0

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; answers its output's name."""
        from onnx import helper

        self._count += 1
        name = f"{self.mark}{self._count}"
        self.graph.add_node(helper.make_node(op, inputs, [name], f"{name}_node", **attributes))
        return name

    def random(self, *shape: int) -> str:
        """A weight."""
        self._count += 1
        return self.graph.random(f"{self.mark}{self._count}w", shape)

    def constant(self, *values: int) -> str:
        """Whole numbers."""
        self._count += 1
        return self.graph.weight(f"{self.mark}{self._count}c", np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A number without a dimension."""
        self._count += 1
        return self.graph.weight(f"{self.mark}{self._count}n", np.array(value, np.float32))


_SIMPLE = {
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hard_sigmoid": "HardSigmoid",
    "gelu": "Gelu",
    "elu": "Elu",
    "softplus": "Softplus",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "neg": "Neg",
    "abs": "Abs",
    "erf": "Erf",
    "reciprocal": "Reciprocal",
    "matmul": "MatMul",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "pow": "Pow",
}


def _plain(writer: Writer, operator: Operator, given: list[str]) -> str:
    if len(operator.shapes) == 2 and operator.shapes[1] == (1,):
        return writer.node(_SIMPLE[operator.kind], [given[0], writer.number(2.0)])
    if len(given) == 1:
        return activated(writer, operator.kind, given[0])
    return writer.node(_SIMPLE[operator.kind], given)


def activated(writer: Writer, kind: str, name: str) -> str:
    """Write an activation of a tensor."""
    if kind == "clip":
        return writer.node("Clip", [name, writer.number(0.0), writer.number(6.0)])
    if kind == "silu":
        return writer.node("Mul", [name, writer.node("Sigmoid", [name])])
    if kind == "hard_swish":
        return writer.node("Mul", [name, writer.node("HardSigmoid", [name], alpha=1 / 6)])
    return writer.node(_SIMPLE[kind], [name])


def _conv(writer: Writer, operator: Operator, given: list[str]) -> str:
    a, out, inner = operator.attributes, operator.of("out"), operator.shapes[0][1]
    inner //= operator.of("groups")
    weight = writer.random(out, inner, *a["kernel"])
    return writer.node("Conv", [*given, weight, writer.random(out)], **_windows(operator))


def _windows(operator: Operator) -> dict[str, Any]:
    a = operator.attributes
    given: dict[str, Any] = {
        "kernel_shape": a["kernel"],
        "strides": a["stride"],
        "pads": (*a["pad"], *a["pad"]),
    }
    if "dilation" in a:
        given |= {"dilations": a["dilation"], "group": operator.of("groups")}
    return given


def _conv_transpose(writer: Writer, operator: Operator, given: list[str]) -> str:
    a, out, inner = operator.attributes, operator.of("out"), operator.shapes[0][1]
    weight = writer.random(inner, out // operator.of("groups"), *a["kernel"])
    named = _windows(operator) | {"output_padding": a["more"]}
    return writer.node("ConvTranspose", [*given, weight, writer.random(out)], **named)


def _linear(writer: Writer, operator: Operator, given: list[str]) -> str:
    out = operator.of("out")
    weight = writer.random(out, operator.shapes[0][1])
    return writer.node("Gemm", [*given, weight, writer.random(out)], transB=1)


def _embedding(writer: Writer, operator: Operator, given: list[str]) -> str:
    weight = writer.random(operator.of("rows"), operator.of("width"))
    return writer.node("Gather", [weight, *given])


def _batch_norm(writer: Writer, operator: Operator, given: list[str]) -> str:
    shape = operator.shapes[0]
    ones = [
        writer.graph.weight(f"{writer.mark}{part}", np.ones(shape[1], np.float32))
        for part in ("scale", "shift", "mean", "var")
    ]
    return writer.node("BatchNormalization", [*given, *ones])


def _layer_norm(writer: Writer, operator: Operator, given: list[str]) -> str:
    axis = operator.of("axis")
    normed = operator.shapes[0][axis:]
    parts = [writer.random(*normed), writer.random(*normed)]
    return writer.node("LayerNormalization", [*given, *parts], axis=axis)


def _max_pool(writer: Writer, operator: Operator, given: list[str]) -> str:
    return writer.node("MaxPool", given, **_windows(operator))


def _average_pool(writer: Writer, operator: Operator, given: list[str]) -> str:
    return writer.node("AveragePool", given, count_include_pad=1, **_windows(operator))


def _mean(writer: Writer, operator: Operator, given: list[str]) -> str:
    axes = writer.constant(*operator.attributes["axes"])
    return writer.node("ReduceMean", [*given, axes], keepdims=1)


def _softmax(writer: Writer, operator: Operator, given: list[str]) -> str:
    return writer.node("Softmax", given, axis=operator.of("axis"))


def _concat(writer: Writer, operator: Operator, given: list[str]) -> str:
    return writer.node("Concat", given, axis=operator.of("axis"))


def _pad(writer: Writer, operator: Operator, given: list[str]) -> str:
    a = operator.attributes
    return writer.node("Pad", [*given, writer.constant(*a["before"], *a["past"])])


def _resize(writer: Writer, operator: Operator, given: list[str]) -> str:
    factors = operator.attributes["factors"]
    sides = [s * f for s, f in zip(operator.shapes[0], factors, strict=True)]
    named = {"mode": "nearest", "nearest_mode": "floor"}
    named["coordinate_transformation_mode"] = "asymmetric"
    return writer.node("Resize", [*given, "", "", writer.constant(*sides)], **named)


def _slice(writer: Writer, operator: Operator, given: list[str]) -> str:
    parts = [writer.constant(n) for n in (0, operator.of("length"), operator.of("axis"))]
    return writer.node("Slice", [*given, *parts])


def _transpose(writer: Writer, operator: Operator, given: list[str]) -> str:
    return writer.node("Transpose", given, perm=operator.attributes["order"])


_EMITTERS: Mapping[str, Callable[[Writer, Operator, list[str]], str]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "embedding": _embedding,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "mean": _mean,
    "softmax": _softmax,
    "concat": _concat,
    "pad": _pad,
    "resize": _resize,
    "slice": _slice,
    "transpose": _transpose,
}
