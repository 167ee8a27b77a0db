"""Finding what a model rounds in the ONNX file that it was exported to, and putting weights in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from torch import Tensor, nn

from pantheon.compress.quantize.exported import module_of, tensors_at
from pantheon.compress.quantize.scales import Scale
from pantheon.compress.quantize.simulated import plain
from pantheon.compress.quantize.spots import Site
from pantheon.errors import CompressionError

T = TypeVar("T")

COME_TO = {"adaptive_avg_pool2d": "mean", "adaptive_avg_pool1d": "mean"}
"""Calls that the exporter writes as another operation."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with weights."""


def named(
    graph: Any, by_site: Mapping[Site, T], model: nn.Module, inputs: Any, file: Path
) -> dict[str, T]:
    """What there is for a model's tensors, by the names that a file has for these.

    Args:
        graph: of the file, which `plain` of the model was exported to.
        by_site: of each rounded tensor, by where it is made.

    Raises:
        CompressionError: the file has none for one.
    """
    names = tensors_at(graph, plain(model), inputs)
    found, missing = {}, []
    for site, value in by_site.items():
        other = replace(site, call=COME_TO.get(site.call, site.call))
        name = names.get(site, names.get(other))
        if name is None:
            missing.append(str(site))
        else:
            found[name] = value
    if missing:
        raise CompressionError(
            f"{file} has no tensor for {', '.join(missing[:5])}, which the model rounds; keep that "
            "module out of quantization"
        )
    return found


def round_weights(graph: Any, model: nn.Module, weights: Mapping[str, Scale]) -> dict[str, Scale]:
    """Put rounded weights in, so that no value lies between two integers and may go either way.

    The exporter may name a weight otherwise, and turn that of a linear layer round.

    Args:
        weights: scales, by the path of the layer.

    Returns:
        Scales by the name of the graph's weight.

    Raises:
        CompressionError: the graph has no such weight.
    """
    from onnx import numpy_helper

    known = {tensor.name: tensor for tensor in graph.initializer}
    missing, found = dict(weights), {}
    for node in graph.node:
        where = module_of(node)
        if where is None or where[0] not in weights or node.op_type not in WEIGHTED:
            continue
        scale = weights[where[0]]
        value = cast(Tensor, model.get_submodule(where[0]).weight).detach().float().numpy()
        for name in node.input:
            shape = tuple(known[name].dims) if name in known else ()
            turned = node.op_type == "MatMul" and shape == value.shape[::-1]
            if (shape != value.shape and not turned) or len(shape) < 2:
                continue
            if turned:
                axis = None if scale.axis is None else 1 - scale.axis
                scale, value = replace(scale, axis=axis), np.ascontiguousarray(value.T)
            known[name].CopyFrom(numpy_helper.from_array(value, name))
            found[name] = scale
            missing.pop(where[0], None)
            break
    if missing:
        raise CompressionError(
            f"the exported graph has no weight of {', '.join(list(missing)[:5])}, which the model "
            "rounds; keep these layers out of quantization"
        )
    return found
