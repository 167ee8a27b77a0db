"""What a point's model costs, found without training it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pantheon.compress.macs import macs
from pantheon.compress.search.space import Point, Space
from pantheon.compress.size import parameters


def static_costs(space: Space, inputs: Any) -> Callable[[Point], Mapping[str, float]]:
    """A function that tells what a point's model costs.

    Args:
        space: of the points.
        inputs: of one sample, on the CPU, where it is run once.

    Returns:
        Of a point, ``macs`` of one sample, ``parameters``, and ``bytes`` of parameters and buffers.

    Example:
        >>> import torch
        >>> from pantheon.compress.search.factory_space import FactorySpace
        >>> from pantheon.compress.search.space import Choice
        >>> space = FactorySpace("torch.nn:Linear", {"in_features": 4},
        ...                      (Choice("out_features", (2, 8)),))
        >>> static_costs(space, torch.zeros(1, 4))({"out_features": 0})
        {'macs': 8, 'parameters': 10, 'bytes': 40}
    """

    def costs(point: Point) -> Mapping[str, float]:
        model = space.artifact(point).model
        state = model.state_dict().values()
        return {
            "macs": macs(model, inputs).total,
            "parameters": parameters(model).total,
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in state),
        }

    return costs
