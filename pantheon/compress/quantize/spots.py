"""Which tensors of a model are rounded to integers, found on its exported graph."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from pantheon.compress.quantize.graph import exported, floats, op_of, path_of
from pantheon.errors import ConfigError

COMPUTE = {
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "conv_transpose1d": "conv",
    "conv_transpose2d": "conv",
    "conv_transpose3d": "conv",
    "linear": "linear",
    "add": "add",
    "mul": "mul",
    "cat": "cat",
    "avg_pool1d": "pool",
    "avg_pool2d": "pool",
    "adaptive_avg_pool1d": "pool",
    "adaptive_avg_pool2d": "pool",
    "mean": "pool",
}
"""Operations of PyTorch that are computed with integers, by the kind that they are."""

WEIGHTED = ("conv", "linear")
"""Kinds with weights of their own."""

FUSED = ("relu", "hardtanh", "relu6")
"""Activations that cost nothing after an operation with integers, which is clipped for them."""

MOVES = (
    "flatten", "view", "reshape", "unsqueeze", "squeeze", "permute", "transpose", "contiguous",
    "clone", "dropout", "feature_dropout", "identity", "max_pool1d", "max_pool2d", "max_pool3d",
    "slice", "select", "expand", "unflatten", "alias", "detach",
)  # fmt: skip
"""Operations that answer values that they were given, so that the same integers stand for them."""


SPLITS = ("split", "split_with_sizes", "chunk", "unbind", "tensor_split")
"""Operations that answer parts of what they are given."""


INPUT = "input"
"""The call of a site that is what the whole model is given."""


PART = "part"
"""The call of a site that is one of several tensors that an operation has answered; a model's code
takes it out by no function of PyTorch, so that it is never met."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """Where in a model's code a tensor is made.

    Args:
        path: of the module whose code makes it.
        call: the name of the function that answers it; ``""`` for the module's own answer;
            ``"input"`` of the whole model for what that is given.
        number: which of such calls in one run of the model, from 0; of inputs, its place.

    Example:
        >>> str(Site("layer1.0", "add", 1)), str(Site("layer1.0.relu"))
        ('layer1.0:add@1', 'layer1.0.relu')
    """

    path: str
    call: str = ""
    number: int = 0

    def __str__(self) -> str:
        call = f":{self.call}" if self.call else ""
        return f"{self.path}{call}{f'@{self.number}' if self.number else ''}"


@dataclass(frozen=True, slots=True)
class Spot:
    """Tensors that share one quantizer.

    Args:
        name: the first of its sites.
        sites: where they are made and have to be rounded.
        same: where they are answered as they are, after a concatenation, a pooling by maximum, or
            another shape.
    """

    name: str
    sites: tuple[Site, ...]
    same: tuple[Site, ...] = ()


@dataclass(frozen=True, slots=True)
class Spots:
    """What of a model is rounded.

    Args:
        activations: in the order in which they are made.
        weights: paths of the layers whose weights are, in the order in which they are called.
        float: other operations that compute, by the site of what they answer: what they are.
        answers: of layers whose weights are rounded, by path: the place in `activations` of what
            they answer; of one that is called twice, of the last. Those whose answer is not rounded
            are not in it.
        given: the same of what they are given. Only those whose bias kernels add as an integer are
            in it: none that is given something else when it is called again, and no linear layer
            of more than two dimensions, which is exported as a product and a sum.
    """

    activations: tuple[Spot, ...]
    weights: tuple[str, ...]
    float: Mapping[Site, str] = field(default_factory=dict)
    answers: Mapping[str, int] = field(default_factory=dict)
    given: Mapping[str, int] = field(default_factory=dict)


def spots_of(
    model: nn.Module,
    example_inputs: Any,
    keep: Collection[str] = (),
    avoid: Collection[Site] = (),
) -> Spots:
    """Find what to round: one quantizer for each tensor, where it is made.

    What convolutions, linear layers, additions, products, concatenations and averages are given is
    rounded, and what they answer, after the activation that is fused with them; what the model
    answers is not. All that reads a tensor reads the same integers. A concatenation and what it is
    given share a scale, and so does what only moves values.

    Args:
        model: with its batch norms folded; it is run in evaluation mode and not changed.
        example_inputs: a tensor; or a tuple, list or mapping of the model's arguments.
        keep: paths of modules that go on with real numbers.
        avoid: sites that cannot be rounded; what reads or makes them goes on with real numbers.

    Raises:
        CompressionError: torch.export cannot follow the model.
        ConfigError: nothing in it can be rounded.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
        >>> found = spots_of(net, torch.ones(1, 3, 1, 1))
        >>> [spot.name for spot in found.activations], found.weights
        ([':input', '1'], ('0', '3'))
    """
    program = exported(model, example_inputs)
    found = _Reading(model, program, keep, avoid).spots()
    if not found.weights:
        raise ConfigError(
            f"the {type(model).__name__} has no convolution or linear layer that is called and not "
            "kept out; there is nothing to quantize"
        )
    return found


class _Reading:
    """A model's graph, read from its beginning to its end."""

    def __init__(
        self,
        model: nn.Module,
        program: torch.export.ExportedProgram,
        keep: Collection[str],
        avoid: Collection[Site],
    ) -> None:
        self._model, self._keep, self._avoid = model, keep, set(avoid)
        inputs = [str(name) for name in program.graph_signature.user_inputs]
        self._place = {node: place for place, node in enumerate(program.graph.nodes)}
        self._nodes = [n for n in program.graph.nodes if n.op == "call_function" and floats(n)]
        self._inputs = [n for n in program.graph.nodes if n.name in inputs and floats(n)]
        self._known = {*self._nodes, *self._inputs}
        self._site = {n: Site("", INPUT, inputs.index(n.name)) for n in self._inputs}
        self._site |= _sites(model, self._nodes)
        self._above = {node: node for node in self._known}

    def spots(self) -> Spots:
        """What is rounded."""
        computed = [node for node in self._nodes if self._computes(node)]
        wanted = {given for node in computed for given in self._given(node)}
        wanted |= {_fused(n) for n in computed if op_of(n) != "linear" or self._read_on(_fused(n))}
        for node in self._nodes:
            if _moves(node) or (op_of(node) == "cat" and node in computed):
                for given in self._given(node):
                    self._above[self._top(given)] = self._top(node)
        alike: dict[Node, list[Node]] = defaultdict(list)
        for node in sorted(self._known, key=self._place.__getitem__):
            alike[self._top(node)].append(node)
        weighted = [node for node in computed if COMPUTE[op_of(node)] in WEIGHTED]
        integer = {*computed, *map(_fused, computed)}
        others = [n for n in self._nodes if n not in integer and not _moves(n)]
        shared = [nodes for nodes in alike.values() if wanted.intersection(nodes)]
        places = {node: place for place, nodes in enumerate(shared) for node in nodes}
        made = {path_of(node): places.get(_fused(node)) for node in weighted}
        return Spots(
            tuple(map(self._spot, shared)),
            tuple(made),
            {self._site[node]: op_of(node) for node in others},
            {path: place for path, place in made.items() if place is not None},
            self._read(weighted, places),
        )

    def _read(self, weighted: Sequence[Node], places: Mapping[Node, int]) -> dict[str, int]:
        """What layers are given whose bias is an integer."""
        found: dict[str, set[int | None]] = defaultdict(set)
        for node in weighted:
            added = op_of(node) != "linear" or node.meta["val"].ndim == 2
            given = self._given(node)
            found[path_of(node)].add(places.get(given[0]) if added and given else None)
        only = {path: next(iter(some)) for path, some in found.items() if len(some) == 1}
        return {path: place for path, place in only.items() if place is not None}

    def _spot(self, nodes: Sequence[Node]) -> Spot:
        same = [n for n in nodes if _moves(n) or (op_of(n) == "cat" and len(nodes) > 1)]
        made = [self._site[node] for node in nodes if node not in same]
        return Spot(str(made[0]), tuple(made), tuple(self._site[node] for node in same))

    def _computes(self, node: Node) -> bool:
        """Whether a node can be computed with integers, and is not kept out."""
        kind, path = COMPUTE.get(op_of(node)), path_of(node)
        if kind is None or any(path == k or path.startswith(f"{k}.") for k in self._keep):
            return False
        about = [*self._given(node), node, _fused(node)]
        if any(self._site[n] in self._avoid for each in about for n in self._made(each)):
            return False
        if kind in WEIGHTED:
            # A weight that is no layer's own cannot be rounded once and for all.
            layer = self._model.get_submodule(path)
            if isinstance(layer, nn.modules.conv._ConvTransposeNd) and layer.groups > 1:
                return False  # ONNX Runtime cannot round its bias.
            return isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
        return len(self._given(node)) >= (2 if kind in ("add", "mul") else 1)

    def _made(self, node: Node) -> set[Node]:
        """Where the values that a node answers were made, before they were only moved."""
        if not _moves(node):
            return {node}
        return {node}.union(*map(self._made, self._given(node)))

    def _given(self, node: Node) -> list[Node]:
        """The activations that a node is given."""
        return [given for given in node.all_input_nodes if given in self._known]

    def _read_on(self, node: Node) -> bool:
        """Whether something computes with what a node answers, so that it is no final answer."""
        users = [user for user in node.users if user.op != "output"]
        return any(not _moves(user) or self._read_on(user) for user in users)

    def _top(self, node: Node) -> Node:
        above = self._above[node]
        return node if above is node else self._top(above)


def _moves(node: Node) -> bool:
    """Whether a node answers values that it was given."""
    if op_of(node) == "getitem":
        return op_of(node.all_input_nodes[0]) in SPLITS
    return op_of(node) in (*MOVES, *SPLITS)


def _fused(node: Node) -> Node:
    """The activation that reads a node alone; else the node itself."""
    users = list(node.users)
    fits = COMPUTE.get(op_of(node)) in (*WEIGHTED, "add") and len(users) == 1
    return users[0] if fits and op_of(users[0]) in FUSED else node


def _sites(model: nn.Module, nodes: Sequence[Node]) -> dict[Node, Site]:
    """Where each node's tensor is made, in the terms of a running model."""
    last: dict[str, Node] = {}
    for node in nodes:
        stack = node.meta.get("nn_module_stack")
        if stack and path_of(node) and not list(model.get_submodule(path_of(node)).children()):
            last[str(list(stack)[-1])] = node  # Of each call of a module without parts.
    answers = set(last.values())
    counts: Counter[tuple[str, str]] = Counter()
    found = {}
    for node in nodes:
        path, op = path_of(node), op_of(node)
        if op == "getitem":
            op = PART  # Not what `tensor[...]` is called, which answers a tensor's own values.
        call = "" if node in answers else op
        found[node] = Site(path, call, counts[path, call])
        # What a module answers is made by a call, too.
        counts.update({(path, op), (path, call)})
    return found
