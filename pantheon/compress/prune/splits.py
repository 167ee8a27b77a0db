"""Which part of a split goes where, which torch-pruning takes from the order it meets them in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


@dataclass(frozen=True, slots=True)
class _Part:
    """Maps indices between a tensor and one part of it, in torch-pruning's own terms.

    Args:
        start, stop: where the part is in the tensor.
        back: from the part to the tensor.
    """

    start: int
    stop: int
    back: bool

    def __call__(self, indices: list[Any]) -> list[Any]:
        if self.back:
            return [each._replace(idx=each.idx + self.start) for each in indices]
        inside = (each for each in indices if self.start <= each.idx < self.stop)
        return [each._replace(idx=each.idx - self.start) for each in inside]


def put_right(graph: Any) -> None:
    """Have a graph's dependencies follow the parts of each split of channels.

    torch-pruning 1.6 numbers the parts by the order in which it meets their consumers, from the
    model's end, and takes each consumer for a part of its own. So channels of one branch would be
    removed for those of another, silently where both have the same size. autograd knows which part
    a consumer reads.
    """
    for node in graph.module2node.values():
        if type(node.module).__name__ == "_ConcatOp":
            node.module.concat_sizes = None  # Found anew, from the sizes that are put right below.
    for node in graph.module2node.values():
        bounds = _bounds(node)
        if bounds is None:
            continue
        sizes = []
        for out_node, number in _edges(node):
            start, stop = bounds[number]
            sizes.append(stop - start)
            _link(node, out_node, _Part(start, stop, back=False))
            _link(out_node, node, _Part(start, stop, back=True))
        node.module.split_sizes = sizes
        node.enable_index_mapping = False  # Else torch-pruning would put its own there again.


def _bounds(node: Any) -> list[tuple[int, int]] | None:
    """Where each part of a split of channels begins and ends; None for other operations."""
    function = node.grad_fn
    shape = getattr(function, "_saved_self_sym_sizes", None)
    if type(node.module).__name__ != "_SplitOp" or shape is None:
        return None
    dim = function._saved_dim
    dim = dim - (1 << 64) if dim >= 1 << 63 else dim  # It is kept without a sign.
    features = len(shape) - 1 if len(shape) == 3 else 1
    if dim % len(shape) != features:
        return None
    size = getattr(function, "_saved_split_size", None)
    if size is None:
        stops = list(accumulate(function._saved_split_sizes))
    else:
        stops = [min(stop, shape[features]) for stop in range(size, shape[features] + size, size)]
    return list(zip([0, *stops], stops, strict=False))


def _edges(node: Any) -> Iterator[tuple[Any, int]]:
    """Who reads which part, as often as it does, in the order of torch-pruning's outputs."""
    read: dict[int, Iterator[int]] = {}
    for out_node in node.outputs:
        numbers = read.setdefault(
            id(out_node),
            iter([n for f, n in out_node.grad_fn.next_functions if f == node.grad_fn]),
        )
        yield out_node, next(numbers)


def _link(source: Any, target: Any, part: _Part) -> None:
    """Give a part to the next dependency between two nodes that has none."""
    for dependency in source.dependencies:
        mapping = dependency.index_mapping
        if dependency.target is target and not isinstance(mapping[0], _Part):
            mapping[0] = part
            return
