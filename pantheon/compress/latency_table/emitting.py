"""An ONNX graph of operators, in which a runtime finds them as in a net."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pantheon.compress.latency_table.nodes import Writer, activated, emitted
from pantheon.compress.latency_table.operators import Operator, Shape, answer_of

OPSET, VERSION = 20, 10
"""Of operators, and of the file format."""

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
        writer = Writer(self, mark)
        if _stays_real(operator):
            self._real.add(writer.mark)
        given = [self._given(writer, operator, shape) for shape in operator.shapes]
        name = emitted(writer, operator, given)
        for kind in operator.after:
            if kind == "add":
                name = writer.node("Add", [name, self._shortcut(answer_of(operator))])
            else:
                name = activated(writer, kind, name)
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

    def _given(self, writer: Writer, operator: Operator, shape: Shape) -> str:
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
        feeder = Writer(self, f"feeder{len(self._nodes)}")
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
