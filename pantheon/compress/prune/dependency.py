"""What else goes when channels go: torch-pruning's dependencies, as an edit of our own."""

from __future__ import annotations

import copy
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pantheon.compress.layers import channels
from pantheon.compress.prune.splits import put_right
from pantheon.compress.select import SelectChannels
from pantheon.errors import CompressionError, ConfigError, PantheonError
from pantheon.paths import module_at
from pantheon.quote import quoted

Removed = Mapping[str, Mapping[Any, Collection[int]]]
"""Indices to remove by path, and by side of a layer or dimension of a parameter."""


MAKERS = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
"""Layers that make channels of their own."""


@dataclass(frozen=True, slots=True)
class Member:
    """Channels of a layer, or positions of a bare parameter, that go with another layer's.

    Args:
        path: of the layer or parameter.
        side: ``"out"`` or ``"in"`` of a layer, a dimension of a parameter.
        indices: ``[k]``, which go.
        channels: ``[k]``, the output channel of the layer asked for with which each goes.
    """

    path: str
    side: str | int
    indices: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Deadline:
    """Raises when the time is over; put among the steps of a search that may never end."""

    at: float
    path: str

    def __call__(self, indices: list[Any]) -> list[Any]:
        if time.monotonic() > self.at:
            raise CompressionError(
                f"torch-pruning did not find in time what depends on the channels of {self.path!r};"
                " it does not come to an end on some models, such as those with grouped-query "
                "attention: keep that layer out, select its channels yourself (SelectChannels), or "
                "allow more seconds"
            )
        return indices


class Dependencies:
    """What depends on what in a model: torch-pruning's `DependencyGraph`.

    Fang et al., "DepGraph: Towards Any Structural Pruning", 2023. It is found by running a copy of
    the model once in evaluation mode; the model is not changed.

    Args:
        model: on the device of the inputs.
        example_inputs: a tensor; or a tuple, list or mapping of the model's arguments.
        seconds: the longest that the search for what depends on one layer may take.

    Raises:
        ConfigError: torch-pruning is not installed, or a model that cannot be copied or called.
        CompressionError: torch-pruning cannot read the model.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
        >>> Dependencies(model, torch.ones(1, 3, 2, 2)).members("0", [1])[1]
        Member(path='2', side='in', indices=(4, 5, 6, 7), channels=(1, 1, 1, 1))
    """

    def __init__(self, model: nn.Module, example_inputs: Any, seconds: float = 60.0) -> None:
        with torch.inference_mode(False):
            self.model = _copied(model)
        self.inputs, self.seconds = example_inputs, seconds
        self._graph = _graph(self.model, example_inputs)
        self._paths = {module: path for path, module in self.model.named_modules()}

    def layers(self) -> list[str]:
        """The layers of the traced model that make channels of their own, in its order."""
        there = self._graph.module2node
        return [p for m, p in self._paths.items() if isinstance(m, MAKERS) and m in there]

    def untraced(self) -> list[str]:
        """Layers that make channels of which none is known to come to the model's answer."""
        there = self._graph.module2node
        return [p for m, p in self._paths.items() if isinstance(m, MAKERS) and m not in there]

    def between(self, makers: Collection[str], reader: str) -> list[str]:
        """The operations without weights on the way from layers to one that reads them."""
        seen, found = set[Any](), list[str]()
        waiting = [self._graph.module2node[module_at(self.model, reader)]]
        while waiting:
            for node in waiting.pop().inputs:
                if node in seen or self._paths.get(node.module) in makers:
                    continue
                seen.add(node)
                waiting.append(node)
                if node.module not in self._paths and node.grad_fn is not None:
                    name = re.sub(r"Backward\d*$", "", node.grad_fn.name()).lower()
                    found.append(name)
        return list(dict.fromkeys(reversed(found)))

    def size(self, path: str) -> int:
        """How many output channels a layer has.

        Raises:
            ConfigError: no such layer, or one that cannot be cut.
        """
        return _sizes(self.model, path)["out"]

    def members(self, path: str, channels: Iterable[int] | None = None) -> list[Member]:
        """All that goes with output channels of a layer, these themselves first.

        Args:
            path: of the layer.
            channels: which; all of them if left out.

        Raises:
            ConfigError: no such layer or channel, or a layer that has no part in the outputs.
            CompressionError: the search takes too long.
        """
        layer = module_at(self.model, path)
        size = self.size(path)
        wanted = list(range(size)) if channels is None else _wanted(path, channels, size)
        found = []
        for item in _group(self._graph, layer, path, wanted, self.seconds) if wanted else ():
            where = self._where(item.dep)
            if where is not None:
                found.append(Member(*where, tuple(item.idxs), tuple(item.root_idxs)))
        return found

    def _where(self, dependency: Any) -> tuple[str, str | int] | None:
        """What an entry of a group is about; None for operations without weights."""
        target, graph = dependency.target.module, self._graph
        if isinstance(target, nn.Parameter):
            path: str = graph._param_to_name[target]
            owner = path.rpartition(".")[0]
            # Its attributes say how many channels it has, which torch-pruning does not know.
            if isinstance(module_at(self.model, owner), nn.RMSNorm):
                return owner, "out"
            return path, int(dependency.target.pruning_dim % target.ndim)
        shared_slope = isinstance(target, nn.PReLU) and target.num_parameters == 1
        if target not in self._paths or shared_slope:
            return None
        out = graph.is_out_channel_pruning_fn(dependency.handler)
        return self._paths[target], "out" if out else "in"

    def is_batch_norm(self, member: Member) -> bool:
        """Whether a member is a batch norm with a scale."""
        if member.side != "out":
            return False
        layer = module_at(self.model, member.path)
        return isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine

    def edit(self, removed: Removed) -> SelectChannels:
        """The edit that removes indices of layers and parameters.

        Raises:
            ConfigError: nothing to remove, a layer that would lose all of a side, or one whose
                channels cannot be selected.
        """
        modules, parameters = {}, {}
        for path, sides in removed.items():
            if all(isinstance(side, str) for side in sides):
                modules[path] = _kept(path, sides, _sizes(self.model, path))
            else:
                shape = dict(enumerate(self.model.get_parameter(path).shape))
                parameters[path] = _kept(path, sides, shape)
        return SelectChannels(modules, parameters)


def prune_edit(
    model: nn.Module,
    example_inputs: Any,
    remove: Mapping[str, Iterable[int]],
    *,
    seconds: float = 60.0,
) -> SelectChannels:
    """The edit that removes output channels of layers, and all that depends on them.

    All indices count in the model as it is. Layers that must lose the same channels, such as those
    that a residual connection adds, lose what any of them is to lose. The model is not changed; a
    copy is edited and run.

    Args:
        model, example_inputs, seconds: see `Dependencies`.
        remove: path of a layer to the output channels it is to lose.

    Raises:
        ConfigError: torch-pruning is not installed, no such layer or channel, nothing to remove, a
            layer that would lose all its channels or does not run, a dependent layer whose channels
            cannot be selected, or a model that cannot be copied or called.
        CompressionError: torch-pruning cannot read the model or takes too long, or the edited model
            does not run.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
        >>> prune_edit(model, torch.ones(1, 3, 2, 2), {"0": [1, 2]}).modules
        {'0': {'out': (0, 3)}, '2': {'in': (0, 1, 2, 3, 12, 13, 14, 15)}}
    """
    found = Dependencies(model, example_inputs, seconds)
    removed: dict[str, dict[Any, set[int]]] = defaultdict(lambda: defaultdict(set))
    for path, wanted in remove.items():
        for member in found.members(path, wanted):
            removed[member.path][member.side].update(member.indices)
    edit = found.edit(removed)
    _require_running(edit, found.model, example_inputs)
    return edit


def _copied(model: nn.Module) -> nn.Module:
    """A copy to trace; all its weights need gradients, which the dependencies are read off."""
    try:
        traced = copy.deepcopy(model).eval()
    except Exception as error:  # the user's model may hold anything
        raise ConfigError(
            f"the {type(model).__name__} cannot be copied: {type(error).__name__}: {error}"
        ) from error
    for parameter in traced.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    return traced


def _graph(model: nn.Module, inputs: Any) -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise ConfigError(
            "torch-pruning is not installed; install it with: pip install 'pantheon-kd[compress]'"
        ) from error
    with torch.inference_mode(False), torch.enable_grad():
        graph = torch_pruning.DependencyGraph()
        try:
            graph.build_dependency(model, inputs, _traced, output_transform=_tensors, verbose=False)
            put_right(graph)
        except PantheonError:
            raise
        except Exception as error:  # what it meets in a model that it does not know
            raise CompressionError(
                f"torch-pruning cannot read the dependencies of the {type(model).__name__}: "
                f"{type(error).__name__}: {error}; select its channels yourself (SelectChannels)"
            ) from error
    return graph


def _tensors(output: Any) -> list[Tensor]:
    """Those tensors of what a model returned that depend on its weights."""
    if isinstance(output, Tensor):
        return [output] if output.grad_fn is not None else []
    if isinstance(output, Mapping):
        output = list(output.values())
    parts = output if isinstance(output, tuple | list) else []
    return [tensor for part in parts for tensor in _tensors(part)]


def _traced(model: nn.Module, inputs: Any) -> Any:
    try:
        return _forward(model, inputs)
    except Exception as error:  # the user's model may raise anything
        raise ConfigError(
            f"the {type(model).__name__} cannot be called with the example inputs: "
            f"{type(error).__name__}: {error}"
        ) from error


def _forward(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _wanted(path: str, channels: Iterable[int], size: int) -> list[int]:
    found = list(channels)
    wrong = [i for i in found if type(i) is not int or not 0 <= i < size]
    if wrong:
        raise ConfigError(
            f"{path!r} has the output channels 0 to {size - 1}; found {quoted(wrong[0])} to remove"
        )
    return sorted(set(found))


def _group(graph: Any, layer: nn.Module, path: str, indices: list[int], seconds: float) -> Any:
    """torch-pruning's group: what depends on these channels of a layer."""
    if layer not in graph.module2node:
        raise ConfigError(
            f"{path!r} has no part in what the model answers for the example inputs; name a layer "
            "that has"
        )
    deadline = _Deadline(time.monotonic() + seconds, path)
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            # The first two are torch-pruning's own.
            dependency.index_mapping[2:] = [deadline]
    pruner = graph.get_pruner_of_module(layer)
    return graph.get_pruning_group(layer, pruner.prune_out_channels, indices)


def _sizes(model: nn.Module, path: str) -> dict[str, int]:
    try:
        return channels(module_at(model, path))
    except ConfigError as error:
        raise ConfigError(f"{path!r}: {error}") from error


def _kept(
    path: str, removed: Mapping[Any, Collection[int]], sizes: Mapping[Any, int]
) -> dict[Any, tuple[int, ...]]:
    kept = {}
    for side, indices in removed.items():
        gone = set(indices)
        kept[side] = tuple(i for i in range(sizes[side]) if i not in gone)
        if not kept[side]:
            raise ConfigError(
                f"{path!r} would lose all its {sizes[side]} channels on its side {side!r}; remove "
                "fewer"
            )
    return kept


def _require_running(edit: SelectChannels, model: nn.Module, inputs: Any) -> None:
    """Edit and run the copy, so that an edit that does not fit the model is never handed out."""
    edit.apply(model)
    try:
        with torch.no_grad():
            _forward(model, inputs)
    except Exception as error:  # the user's model may raise anything
        raise CompressionError(
            "the model does not run without the channels to remove, nor what torch-pruning says "
            f"depends on them: {type(error).__name__}: {error}; its forward may hold sizes of its "
            "own: have it read them from its layers, or remove channels elsewhere"
        ) from error
