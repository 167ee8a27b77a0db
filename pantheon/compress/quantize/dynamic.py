"""Integers whose scales are found at run time, as an ONNX file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pantheon.compress.quantize.exported import MARK
from pantheon.compress.quantize.lighter import forget
from pantheon.compress.quantize.placing import WEIGHTED, named, round_weights
from pantheon.compress.quantize.scales import (
    Scale,
    activation_scales,
    dynamic_sites,
    weight_scales,
)
from pantheon.errors import ConfigError

SAME = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "Slice")
"""Operators that answer some of the integers that they are given, and that ONNX Runtime has."""

Integers = tuple[str, str, str]
"""Names of a tensor's integers, of what one step of them stands for, and of that of 0."""


def write_dynamic(model: nn.Module, inputs: Any, float_file: Path, file: Path) -> None:
    """Write a model whose scales are found at run time: DynamicQuantizeLinear, ConvInteger.

    Convolutions and linear layers compute with integers. What else reads a rounded tensor reads it
    as real numbers; transposed convolutions do, with rounded weights, as no kernel has integers.

    Args:
        model: quantized; all its activations by their own extremes.
        inputs: of the model.
        float_file: what `plain` of it was exported to.

    Raises:
        ConfigError: fewer than 8 bits, or some activations have a scale of their own.
        CompressionError: a rounded tensor is not in the file.
    """
    import onnx

    if fixed := activation_scales(model):
        raise ConfigError(
            f"{next(iter(fixed))} has a scale of its own and others are rounded by extremes at run "
            "time; freeze these, or have all of one kind"
        )
    source = onnx.load(float_file)
    rounded = named(source.graph, dynamic_sites(model), model, inputs, float_file)
    weights = round_weights(source.graph, model, weight_scales(model))
    _Rewriting(source.graph, rounded, weights).run()
    forget(source.graph)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        partial = Path(folder, file.name)
        onnx.save(source, partial)
        os.replace(partial, file)


class _Rewriting:
    """A graph, written anew from its beginning to its end.

    Args:
        graph: is changed.
        rounded: names of its tensors.
        weights: scales, by the name of the weight.
    """

    def __init__(self, graph: Any, rounded: Collection[str], weights: Mapping[str, Scale]) -> None:
        self._graph, self._rounded, self._weights = graph, set(rounded), weights
        self._known = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._integers: dict[str, Integers] = {}
        self._instead: dict[str, str] = {}
        self._nodes: list[Any] = []

    def run(self) -> None:
        """Write it."""
        for tensor in self._graph.input:
            if tensor.name in self._rounded:
                self._instead[tensor.name] = f"{tensor.name}_rounded"
                self._round(tensor.name, tensor.name, self._instead[tensor.name])
        for node in list(self._graph.node):
            given = list(node.input)
            for place, name in enumerate(given):
                node.input[place] = self._instead.get(name, name)
            made = {name: f"{name}_real" for name in node.output if name in self._rounded}
            for place, name in enumerate(node.output):
                node.output[place] = made.get(name, name)
            if not self._computed(node, given):
                self._nodes.append(node)
            for name, real in made.items():
                self._round(name, real, name)
        self._tidy()

    def _add(self, kind: str, given: Iterable[str], made: Iterable[str], **attributes: Any) -> None:
        from onnx import helper

        outputs = list(made)
        name = f"{outputs[0]}{MARK}"
        self._nodes.append(helper.make_node(kind, list(given), outputs, name, **attributes))

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _round(self, name: str, real: str, back: str) -> None:
        """Find a tensor's scale, and round it."""
        found = (f"{name}_integers", f"{name}_step", f"{name}_zero")
        self._integers[name] = found
        self._add("DynamicQuantizeLinear", [real], found)
        self._add("DequantizeLinear", found, [back])

    def _of(self, name: str) -> Integers | None:
        """A tensor's integers; None where it has none."""
        maker = self._makers.get(name)
        if name in self._integers or maker is None or maker.op_type not in SAME:
            return self._integers.get(name)
        # Its inputs have other names by now, where they are inputs of the graph.
        before = {new: old for old, new in self._instead.items()}
        found = self._of(before.get(maker.input[0], maker.input[0]))
        if found is None:
            return None
        moved = f"{name}_integers"
        copied = type(maker)()
        copied.CopyFrom(maker)
        copied.name, copied.input[0], copied.output[0] = f"{moved}{MARK}", found[0], moved
        self._nodes.append(copied)
        self._integers[name] = moved, found[1], found[2]
        return self._integers[name]

    def _computed(self, node: Any, given: list[str]) -> bool:
        """Compute with integers in place of a node; False if it cannot be."""
        if node.op_type not in WEIGHTED or node.op_type == "ConvTranspose":
            return False
        scale, found = self._weights.get(given[1]), self._of(given[0])
        options = {each.name: each for each in node.attribute}
        plain = all(n not in options or options[n].f == 1 for n in ("alpha", "beta"))
        turned = "transA" in options and options["transA"].i
        fixed = all(name in self._known for name in given[2:] if name)
        if scale is None or found is None or not plain or turned or not fixed:
            return False
        integers, step, zero = found
        answer = node.output[0]
        weight, steps = self._weight(given[1], scale, "transB" in options and options["transB"].i)
        sums = f"{answer}_sums"
        if node.op_type == "Conv":
            self._add("ConvInteger", [integers, weight, zero], [sums])
            self._nodes[-1].attribute.extend(node.attribute)
            shape = [-1] + [1] * (len(self._known[given[1]].dims) - 2)
        else:
            self._add("MatMulInteger", [integers, weight, zero], [sums])
            shape = [-1]
        steps = self._constant(f"{answer}_steps", steps.reshape(shape))
        self._add("Cast", [sums], [f"{sums}_real"], to=1)
        self._add("Mul", [step, steps], [f"{answer}_scale"])
        bias = given[2] if len(given) > 2 else ""
        scaled = f"{answer}_scaled" if bias else answer
        self._add("Mul", [f"{sums}_real", f"{answer}_scale"], [scaled])
        if bias:
            self._add("Add", [scaled, self._bias(bias, answer, shape)], [answer])
        # Its module is what is left of the node.
        self._nodes[-1].metadata_props.extend(node.metadata_props)
        return True

    def _weight(self, name: str, scale: Scale, transposed: Any) -> tuple[str, Any]:
        """The name of a weight's integers, and what one step of them stands for."""
        from onnx import numpy_helper

        value = numpy_helper.to_array(self._known[name])
        shape = [1] * value.ndim
        if scale.axis is not None:
            shape[scale.axis] = -1
        places = np.rint(value / scale.step.reshape(shape)).astype(np.int8)
        made = f"{name}_{'turned' if transposed else 'integers'}"
        if made not in self._known:
            kept = np.ascontiguousarray(places.T) if transposed else places
            self._constant(made, kept)
            self._known[made] = self._graph.initializer[-1]
        return made, scale.step

    def _bias(self, name: str, answer: str, shape: list[int]) -> str:
        from onnx import numpy_helper

        value = numpy_helper.to_array(self._known[name])
        return self._constant(f"{answer}_bias", value.reshape(shape))

    def _tidy(self) -> None:
        """Leave out what nobody reads any longer."""
        read = {tensor.name for tensor in self._graph.output}
        kept: list[Any] = []
        for node in reversed(self._nodes):
            if read.intersection(node.output):
                read.update(node.input)
                kept.append(node)
        del self._graph.node[:]
        self._graph.node.extend(reversed(kept))
        for tensor in [t for t in self._graph.initializer if t.name not in read]:
            self._graph.initializer.remove(tensor)
