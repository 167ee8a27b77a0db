"""Nets and operators as ONNX files, with real numbers or as integers."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pantheon.compress.export import Export
from pantheon.compress.latency_table.precision import REAL
from pantheon.compress.quantize.fitting import rounded_by
from pantheon.compress.quantize.integers import OneBatch, write_integers
from pantheon.compress.quantize.simulated import plain
from pantheon.compress.quiet import quiet


def write_net(model: nn.Module, inputs: Any, file: Path, precision: str) -> None:
    """Write a model's ONNX file.

    Integers are what `pantheon.compress.quantize` makes of it by default, with the thresholds of
    one batch, on which no time depends.

    Args:
        model: with real numbers; it is not changed.
        inputs: of as many rows as the batch.
        file: where it goes.
        precision: one of `PRECISIONS`.
    """
    export = Export(dynamic_batch=False)
    if precision == REAL:
        export.write(model.eval(), inputs, file)
        return
    model = rounded_by(model, inputs)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        real = Path(folder, "real.onnx")
        export.write(plain(model), inputs, real)
        write_integers(model, inputs, real, file)


def in_integers(graph: bytes, nodes: Collection[str], feed: Mapping[str, Any]) -> bytes:
    """An ONNX graph of real numbers with some of its nodes as integers.

    What ONNX Runtime puts between nodes is named by the tensors there.

    Args:
        graph: the file.
        nodes: the names of those that are rounded.
        feed: what it is run with.
    """
    if not nodes:
        return graph  # No nodes would be taken for all of them.
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, quiet(""):  # of advice to preprocess
        file = Path(folder, "integers.onnx")
        quantize_static(
            onnx.load_from_string(graph),
            file,
            OneBatch(feed),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(nodes),
            extra_options={"WeightSymmetric": True},
        )
        return file.read_bytes()
