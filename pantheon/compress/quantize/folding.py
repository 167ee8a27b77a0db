"""Which batch norms can be folded into the layers before them, found on the exported graph."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from pantheon.compress.fold import Layer, Norm, Transposed
from pantheon.compress.quantize.graph import exported, op_of, path_of


def foldable(model: nn.Module, example_inputs: Any) -> list[tuple[str, str]]:
    """Pairs of a layer and a batch norm that alone reads what the layer answers.

    Both have one name and are called once in a run, and the norm has running statistics.

    Args:
        model: is run in evaluation mode and not changed.
        example_inputs: a tensor; or a tuple, list or mapping of the model's arguments.

    Returns:
        Their paths, in the order in which they are called.

    Raises:
        CompressionError: torch.export cannot follow the model.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
        >>> foldable(net, torch.ones(1, 3, 2, 2))
        [('0', '1')]
    """
    nodes = [n for n in exported(model, example_inputs).graph.nodes if n.op == "call_function"]
    calls = Counter(path_of(node) for node in nodes)
    names = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    found = []
    for node in nodes:
        if op_of(node) != "batch_norm":
            continue
        before = node.all_input_nodes[0]
        if before not in nodes or len(before.users) != 1:
            continue
        paths = path_of(before), path_of(node)
        layer, norm = map(model.get_submodule, paths)
        fits = isinstance(layer, Layer | Transposed) and isinstance(norm, Norm)
        fits = fits and "weight" in layer._parameters and names[layer] == names[norm] == 1
        if fits and all(calls[path] == 1 for path in paths) and norm.running_mean is not None:
            found.append(paths)
    return found
