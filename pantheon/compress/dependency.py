"""What else goes when channels go: torch-pruning's dependencies, as an edit of our own."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pantheon.compress.layers import channels
from pantheon.compress.select import SelectChannels
from pantheon.errors import CompressionError, ConfigError, PantheonError
from pantheon.paths import module_at
from pantheon.quote import quoted

Removed = dict[str, dict[Any, set[int]]]
"""Indices to remove by path, and by side of a layer or dimension of a parameter."""


@dataclass(frozen=True, slots=True)
class _Deadline:
    """Raises when the time is over; put among the steps of a search that may never end."""

    at: float

    def __call__(self, indices: list[Any]) -> list[Any]:
        if time.monotonic() > self.at:
            raise CompressionError(
                "torch-pruning did not find in time what depends on the channels to remove; it "
                "does not come to an end on some models, such as those with grouped-query "
                "attention: select their channels yourself (SelectChannels), or allow more seconds"
            )
        return indices


def prune_edit(
    model: nn.Module,
    example_inputs: Any,
    remove: Mapping[str, Iterable[int]],
    *,
    seconds: float = 60.0,
) -> SelectChannels:
    """The edit that removes output channels of layers, and all that depends on them.

    What depends on what is torch-pruning's `DependencyGraph` (Fang et al., "DepGraph", 2023), found
    by running the model once in evaluation mode. All indices count in the model as it is. Layers
    that must lose the same channels, such as those that a residual connection adds, lose what any
    of them is to lose. The model is not changed; a copy is made for the search, edited and run.

    Args:
        model: on the device of the inputs.
        example_inputs: a tensor; or a tuple, list or mapping of the model's arguments.
        remove: path of a layer to the output channels it is to lose.
        seconds: the longest that the search for what depends on one layer may take.

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
    with torch.inference_mode(False):
        traced = _copied(model)
    graph = _graph(traced, example_inputs)
    modules: Removed = defaultdict(lambda: defaultdict(set))
    parameters: Removed = defaultdict(lambda: defaultdict(set))
    for path, indices in remove.items():
        wanted = _wanted(traced, path, indices)
        if wanted:
            group = _group(graph, module_at(traced, path), path, wanted, seconds)
            _collect(graph, traced, group, modules, parameters)
    edit = SelectChannels(
        {path: _kept(path, sides, _sizes(traced, path)) for path, sides in modules.items()},
        {path: _kept(path, dims, _shape(traced, path)) for path, dims in parameters.items()},
    )
    _require_running(edit, traced, example_inputs)
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


def _wanted(model: nn.Module, path: str, indices: Iterable[int]) -> list[int]:
    found = list(indices)
    size = _sizes(model, path)["out"]
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
    deadline = _Deadline(time.monotonic() + seconds)
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            # The first two are torch-pruning's own.
            dependency.index_mapping[2:] = [deadline]
    pruner = graph.get_pruner_of_module(layer)
    return graph.get_pruning_group(layer, pruner.prune_out_channels, indices)


def _collect(
    graph: Any, model: nn.Module, group: Any, modules: Removed, parameters: Removed
) -> None:
    """Add what a group removes; its entries for operations without weights are left out."""
    paths = {module: path for path, module in model.named_modules()}
    for dependency, indices in group:
        target = dependency.target.module
        if isinstance(target, nn.Parameter):
            path = graph._param_to_name[target]
            owner = path.rpartition(".")[0]
            # Its attributes say how many channels it has, which torch-pruning does not know.
            if isinstance(module_at(model, owner), nn.RMSNorm):
                modules[owner]["out"].update(indices)
            else:
                parameters[path][dependency.target.pruning_dim % target.ndim].update(indices)
        elif target in paths and not (isinstance(target, nn.PReLU) and target.num_parameters == 1):
            out = graph.is_out_channel_pruning_fn(dependency.handler)
            modules[paths[target]]["out" if out else "in"].update(indices)


def _sizes(model: nn.Module, path: str) -> dict[str, int]:
    try:
        return channels(module_at(model, path))
    except ConfigError as error:
        raise ConfigError(f"{path!r}: {error}") from error


def _shape(model: nn.Module, path: str) -> dict[int, int]:
    return dict(enumerate(model.get_parameter(path).shape))


def _kept(
    path: str, removed: Mapping[Any, set[int]], sizes: Mapping[Any, int]
) -> dict[Any, tuple[int, ...]]:
    kept = {}
    for side, indices in removed.items():
        kept[side] = tuple(i for i in range(sizes[side]) if i not in indices)
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
