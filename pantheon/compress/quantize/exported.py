"""An exported ONNX file, read by the names that a model's modules and calls have."""

from __future__ import annotations

import ast
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pantheon.compress.quantize.graph import bound
from pantheon.compress.quantize.spots import INPUT, Site
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student

SCOPES, NODE = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.fx_node"
"""What torch's exporter notes of each node: the modules that it is in, and the traced call."""

MOVING = ("QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Flatten", "Squeeze",
          "Unsqueeze", "Identity", "Concat", "Slice", "Split", "Gather", "MaxPool", "Shape",
          "ReorderInput", "ReorderOutput", "Constant", "Cast", "Expand")  # fmt: skip
"""Operators that compute nothing."""

INTEGER = ("QLinear", "QGemm", "DynamicQuantize")
"""How operators of integers begin, but for those that are called so."""

MARK = "/integers"
"""The end of the names of nodes that compute with integers together with others, see `dynamic`."""


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
        where = module_of(node)
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


def module_of(node: Any) -> tuple[str, str, str] | None:
    """The module that a node is in, the call that it was traced from, and that call's own name."""
    noted = {prop.key: prop.value for prop in node.metadata_props}
    if SCOPES not in noted:
        return None
    *_, path, name = ast.literal_eval(noted[SCOPES])
    call = noted.get(NODE, "").partition("torch.ops.aten.")[2].partition(".")[0].rstrip("_")
    return path, call, name


def float_operators(file: Path) -> list[tuple[str, str]]:
    """What ONNX Runtime computes with real numbers in a file, after its own optimisations.

    Returns:
        Each operator and the path of the module that it came from, in their order.
    """
    import onnx
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    paths: dict[str, str] = {}
    for node in onnx.load(file).graph.node:
        where = module_of(node)
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
        integers = node.op_type.startswith(INTEGER) or "Integer" in node.op_type
        integers |= node.name.endswith(MARK)
        if not integers and node.op_type not in MOVING and "MaxPool" not in node.op_type:
            found.append((node.op_type, path or ""))
    return found[::-1]
