"""Tensors of the Open Inference Protocol, raw and typed, to and from `RawTensor`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from pantheon.errors import ProtocolError
from pantheon.schema import MAX_NAME
from pantheon.wire.fields import tensor_bytes
from pantheon.wire.messages import RawTensor
from pantheon.wire.plain import MAX_FRAMES

DATATYPES = {
    "float64": "FP64",
    "float32": "FP32",
    "float16": "FP16",
    "bfloat16": "BF16",
    "int64": "INT64",
    "int32": "INT32",
    "int16": "INT16",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "BOOL",
}
"""The protocol's names of our dtypes."""

_DTYPES = {theirs: ours for ours, theirs in DATATYPES.items()}
_CONTENTS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
}

MAX_TYPED = 1 << 16
"""Values of typed contents in a request. Reading them one by one keeps all threads waiting, with so
many for about as long as Python lets any thread run."""


def dtype_of(datatype: str, name: str) -> str:
    """Our name of a datatype; `ProtocolError` for one we do not carry, such as BYTES.

    >>> dtype_of("FP32", "logits")
    'float32'
    """
    if datatype not in _DTYPES:
        raise ProtocolError(
            f"tensor {name!r:.80} has datatype {datatype!r:.40}, which is not supported; expected "
            f"one of {', '.join(_DTYPES)}"
        )
    return _DTYPES[datatype]


def write_tensors(named: Iterable[tuple[str, RawTensor]], tensors: Any, raws: Any) -> None:
    """Append tensors to the repeated fields of a request or response, with raw contents."""
    for name, tensor in named:
        entry = tensors.add()
        entry.name, entry.datatype = name, DATATYPES[tensor.dtype]
        entry.shape.extend(tensor.shape)
        raws.append(tensor.data if isinstance(tensor.data, bytes) else bytes(tensor.data))


def read_tensors(tensors: Any, raws: Any, typed: int | None = None) -> dict[str, RawTensor]:
    """The tensors of a request or response by name, from raw or typed contents.

    Args:
        tensors: the repeated field that describes them.
        raws: the repeated field of raw contents; empty when they are typed.
        typed: most values that may come as typed contents, None for any number.

    Raises:
        ProtocolError: raw and typed contents mixed, a datatype we do not carry, a name that comes
            twice, contents that do not fill the shape, or more than `typed` values.
    """
    if raws and len(raws) != len(tensors):
        raise ProtocolError(f"{len(raws)} raw contents for {len(tensors)} tensors")
    if len(tensors) > MAX_FRAMES:
        raise ProtocolError(f"{len(tensors)} tensors in one message; expected at most {MAX_FRAMES}")
    found: dict[str, RawTensor] = {}
    values = 0
    for i, entry in enumerate(tensors):
        if len(entry.name) > MAX_NAME or entry.name in found:
            raise ProtocolError(f"a tensor's name is too long or comes twice: {entry.name!r:.80}")
        dtype, shape = dtype_of(entry.datatype, entry.name), list(entry.shape)
        size = tensor_bytes(f"tensor {entry.name!r}", dtype, shape)
        # MLServer sends an empty contents message beside raw contents.
        if raws and entry.contents.ListFields():
            raise ProtocolError(f"tensor {entry.name!r} has typed contents beside raw ones")
        values += 0 if raws else math.prod(shape)
        if typed is not None and values > typed:
            raise ProtocolError(
                f"tensor {entry.name!r}: typed contents of more than {typed} values in one "
                "request; send raw_input_contents"
            )
        data = raws[i] if raws else _typed(entry, dtype, tuple(shape))
        if len(data) != size:
            raise ProtocolError(
                f"tensor {entry.name!r}: {entry.datatype} of shape {tuple(shape)} needs {size} "
                f"bytes, found {len(data)}"
            )
        found[entry.name] = RawTensor(dtype, tuple(shape), data)
    return found


def _typed(entry: Any, dtype: str, shape: tuple[int, ...]) -> bytes:
    count = math.prod(shape)
    if count == 0:
        return b""
    if dtype not in _CONTENTS:
        raise ProtocolError(f"tensor {entry.name!r}: {entry.datatype} travels as raw contents only")
    values = getattr(entry.contents, _CONTENTS[dtype])
    if len(values) != count:
        raise ProtocolError(
            f"tensor {entry.name!r}: {entry.datatype} of shape {shape} needs {count} values in "
            f"{_CONTENTS[dtype]}, found {len(values)}"
        )
    try:
        # One by one: a list of all values would take many times their bytes.
        return np.fromiter(values, np.dtype(dtype).newbyteorder("<"), count).tobytes()
    except OverflowError as error:
        raise ProtocolError(f"tensor {entry.name!r}: {error}") from None
