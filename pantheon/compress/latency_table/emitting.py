"""Operators as nodes of an ONNX graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pantheon.compress.latency_table.operators import Operator, Shape

OPSET, VERSION = 20, 10
"""Of operators, and of the file format."""

WEIGHTS: Mapping[str, Callable[[Operator], int]] = {
    "conv": lambda o: o.of("out") * o.shapes[0][1] // o.of("groups") * _area(o),
    "conv_transpose": lambda o: o.of("out") * o.shapes[0][1] // o.of("groups") * _area(o),
    "linear": lambda o: o.of("out") * o.shapes[0][1],
    "embedding": lambda o: o.of("rows") * o.of("width"),
}


def weights_of(operator: Operator) -> int:
    """How many numbers an operator's weight has.

    Example:
        >>> weights_of(Operator.read("linear 1x512 out=10"))
        5120
    """
    return WEIGHTS[operator.kind](operator) if operator.kind in WEIGHTS else 0


def _area(operator: Operator) -> int:
    return math.prod(operator.attributes["kernel"])


ROUNDED = (
    "Conv", "ConvTranspose", "Gemm", "Add", "Mul", "Concat", "AveragePool", "MaxPool", "Relu",
    "Clip", "Transpose", "Slice",
)  # fmt: skip
"""Nodes that a quantized model has as integers; but for those within `KEPT` operators."""

KEPT = ("hard_swish", "silu")
"""Operators that a quantized model computes with real numbers, though they have such nodes."""

CHAINED = ("conv", "max_pool", "average_pool", "mean")
"""Operators that no runtime fuses with a convolution before them."""


class Graph:
    """An ONNX graph that operators are put into.

    An operator is given what an earlier one answered, where that has the shape: operators in the
    order of a net are nearly that net again, with the caches as they are there. What may be fused
    with the operator before it is fed by itself. Nodes and tensors of an operator begin with its
    mark, by which they are known after a runtime fused and renamed them. Weights are random.
    """

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._inputs: dict[str, Shape] = {}
        self._latest: dict[Shape, str] = {}
        self._answers: list[str] = []
        self._read: Counter[str] = Counter()
        self._real: set[str] = set()
        self._chance = np.random.default_rng(0)

    def put(self, mark: str, operator: Operator) -> None:
        """Put an operator in, with what it is fused with."""
        writer = _Writer(self, mark)
        if _stays_real(operator):
            self._real.add(writer.mark)
        given = [self._given(writer, operator, shape) for shape in operator.shapes]
        name = _EMITTERS.get(operator.kind, _plain)(writer, operator, given)
        for kind in operator.after:
            if kind == "add":
                name = writer.node("Add", [name, self._shortcut(answer_of(operator))])
            else:
                name = _activated(writer, kind, name)
        self._answers.append(name)
        if operator.kind == "conv":
            self._latest[answer_of(operator)] = name

    def model(self) -> bytes:
        """The file."""
        from onnx import TensorProto, helper

        inputs = [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name.startswith("ids") else TensorProto.FLOAT, shape
            )
            for name, shape in self._inputs.items()
        ]
        answers = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in self._answers
            if not self._read[name]
        ]
        graph = helper.make_graph(self._nodes, "operators", inputs, answers, self._weights)
        opset = helper.make_opsetid("", OPSET)
        made = helper.make_model(graph, opset_imports=[opset], ir_version=VERSION)
        return bytes(made.SerializeToString())

    @property
    def rounded(self) -> list[str]:
        """The names of the nodes that a quantized model has as integers."""
        nodes = [node for node in self._nodes if node.op_type in ROUNDED]
        return [node.name for node in nodes if not node.name.startswith(tuple(self._real))]

    def feed(self) -> dict[str, Any]:
        """What to run it with."""
        return {
            name: np.zeros(shape, np.int64)
            if name.startswith("ids")
            else self._chance.random(shape, np.float32) + 0.5
            for name, shape in self._inputs.items()
        }

    def add_node(self, node: Any) -> None:
        """A node."""
        self._nodes.append(node)

    def weight(self, name: str, value: Any) -> str:
        """A constant."""
        from onnx import numpy_helper

        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def random(self, name: str, shape: Sequence[int]) -> str:
        """A weight of random numbers."""
        scale = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        value = self._chance.standard_normal(tuple(shape), np.float32) * np.float32(scale)
        return self.weight(name, value)

    def _given(self, writer: _Writer, operator: Operator, shape: Shape) -> str:
        if operator.kind == "embedding":
            return self._input("ids", shape)
        if operator.kind in CHAINED and shape in self._latest:
            self._read[self._latest[shape]] += 1
            return self._latest[shape]
        if operator.kind in ("conv", "conv_transpose") or len(shape) != 4:
            return self._input("given", shape)
        return self._fed(shape)

    def _shortcut(self, shape: Shape) -> str:
        """What is added to a convolution's answer.

        One that nobody else reads would have the sum fused with it.
        """
        earlier = self._latest.get(shape)
        if earlier is None or not self._read[earlier]:
            return self._fed(shape)
        self._read[earlier] += 1
        return earlier

    def _input(self, kind: str, shape: Shape) -> str:
        name = f"{kind}_{'x'.join(map(str, shape))}"
        self._inputs[name] = shape
        return name

    def _fed(self, shape: Shape) -> str:
        """A tensor that a convolution made: some runtimes lay these out in their own way."""
        if len(shape) != 4:
            return self._input("given", shape)
        feeder = _Writer(self, f"feeder{len(self._nodes)}")
        weight = self.random(f"{feeder.mark}_w", (shape[1], 1, 1, 1))
        given = self._input("given", shape)
        made = feeder.node("Conv", [given, weight], kernel_shape=[1, 1], group=shape[1])
        # Nothing is fused with a pool: what follows is in a kernel of its own.
        return feeder.node("MaxPool", [made], kernel_shape=[1, 1])


def _stays_real(operator: Operator) -> bool:
    """Whether a quantized model has it with real numbers, whatever nodes it is made of."""
    if operator.kind == "conv_transpose":
        return operator.of("groups") > 1
    return operator.kind in KEPT or (1,) in operator.shapes


class _Writer:
    """Names the nodes and tensors of one operator."""

    def __init__(self, graph: Graph, mark: str) -> None:
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


def answer_of(operator: Operator) -> Shape:
    """The shape of a convolution's answer.

    Example:
        >>> answer_of(Operator.read(
        ...     "conv 1x3x8x8 dilation=1x1 groups=1 kernel=3x3 out=8 pad=1x1 stride=2x2"))
        (1, 8, 4, 4)
    """
    a, (rows, _, *sides) = operator.attributes, operator.shapes[0]
    made = [
        (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for side, pad, dilation, kernel, stride in zip(
            sides, a["pad"], a["dilation"], a["kernel"], a["stride"], strict=True
        )
    ]
    return (rows, operator.of("out"), *made)


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


def _plain(writer: _Writer, operator: Operator, given: list[str]) -> str:
    if len(operator.shapes) == 2 and operator.shapes[1] == (1,):
        return writer.node(_SIMPLE[operator.kind], [given[0], writer.number(2.0)])
    if len(given) == 1:
        return _activated(writer, operator.kind, given[0])
    return writer.node(_SIMPLE[operator.kind], given)


def _activated(writer: _Writer, kind: str, name: str) -> str:
    if kind == "clip":
        return writer.node("Clip", [name, writer.number(0.0), writer.number(6.0)])
    if kind == "silu":
        return writer.node("Mul", [name, writer.node("Sigmoid", [name])])
    if kind == "hard_swish":
        return writer.node("Mul", [name, writer.node("HardSigmoid", [name], alpha=1 / 6)])
    return writer.node(_SIMPLE[kind], [name])


def _conv(writer: _Writer, operator: Operator, given: list[str]) -> str:
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


def _conv_transpose(writer: _Writer, operator: Operator, given: list[str]) -> str:
    a, out, inner = operator.attributes, operator.of("out"), operator.shapes[0][1]
    weight = writer.random(inner, out // operator.of("groups"), *a["kernel"])
    named = _windows(operator) | {"output_padding": a["more"]}
    return writer.node("ConvTranspose", [*given, weight, writer.random(out)], **named)


def _linear(writer: _Writer, operator: Operator, given: list[str]) -> str:
    out = operator.of("out")
    weight = writer.random(out, operator.shapes[0][1])
    return writer.node("Gemm", [*given, weight, writer.random(out)], transB=1)


def _embedding(writer: _Writer, operator: Operator, given: list[str]) -> str:
    weight = writer.random(operator.of("rows"), operator.of("width"))
    return writer.node("Gather", [weight, *given])


def _batch_norm(writer: _Writer, operator: Operator, given: list[str]) -> str:
    shape = operator.shapes[0]
    ones = [
        writer.graph.weight(f"{writer.mark}{part}", np.ones(shape[1], np.float32))
        for part in ("scale", "shift", "mean", "var")
    ]
    return writer.node("BatchNormalization", [*given, *ones])


def _layer_norm(writer: _Writer, operator: Operator, given: list[str]) -> str:
    axis = operator.of("axis")
    normed = operator.shapes[0][axis:]
    parts = [writer.random(*normed), writer.random(*normed)]
    return writer.node("LayerNormalization", [*given, *parts], axis=axis)


def _max_pool(writer: _Writer, operator: Operator, given: list[str]) -> str:
    return writer.node("MaxPool", given, **_windows(operator))


def _average_pool(writer: _Writer, operator: Operator, given: list[str]) -> str:
    return writer.node("AveragePool", given, count_include_pad=1, **_windows(operator))


def _mean(writer: _Writer, operator: Operator, given: list[str]) -> str:
    axes = writer.constant(*operator.attributes["axes"])
    return writer.node("ReduceMean", [*given, axes], keepdims=1)


def _softmax(writer: _Writer, operator: Operator, given: list[str]) -> str:
    return writer.node("Softmax", given, axis=operator.of("axis"))


def _concat(writer: _Writer, operator: Operator, given: list[str]) -> str:
    return writer.node("Concat", given, axis=operator.of("axis"))


def _pad(writer: _Writer, operator: Operator, given: list[str]) -> str:
    a = operator.attributes
    return writer.node("Pad", [*given, writer.constant(*a["before"], *a["past"])])


def _resize(writer: _Writer, operator: Operator, given: list[str]) -> str:
    factors = operator.attributes["factors"]
    sides = [s * f for s, f in zip(operator.shapes[0], factors, strict=True)]
    named = {"mode": "nearest", "nearest_mode": "floor"}
    named["coordinate_transformation_mode"] = "asymmetric"
    return writer.node("Resize", [*given, "", "", writer.constant(*sides)], **named)


def _slice(writer: _Writer, operator: Operator, given: list[str]) -> str:
    parts = [writer.constant(n) for n in (0, operator.of("length"), operator.of("axis"))]
    return writer.node("Slice", [*given, *parts])


def _transpose(writer: _Writer, operator: Operator, given: list[str]) -> str:
    return writer.node("Transpose", given, perm=operator.attributes["order"])


_EMITTERS: Mapping[str, Callable[[_Writer, Operator, list[str]], str]] = {
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
