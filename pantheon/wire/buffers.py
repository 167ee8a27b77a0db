"""Tensors as bytes and back without copies: bf16, empties, alignment, read-only memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
import xxhash
from torch import Tensor

from pantheon.errors import ProtocolError, SchemaError
from pantheon.schema import DTYPES
from pantheon.wire.fields import MAX_ELEMENTS
from pantheon.wire.messages import Buffer, RawTensor

TORCH_DTYPES: Mapping[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
"""torch's dtype by the name it has in schemas, on the wire and on disk."""

DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
"""The name of each torch dtype that may travel."""


def dtype_name(dtype: torch.dtype) -> str:
    """The schema's name of a torch dtype; `SchemaError` for one that cannot travel.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    try:
        return DTYPE_NAMES[dtype]
    except KeyError:
        raise SchemaError(f"a tensor is {dtype}; expected one of {', '.join(DTYPES)}") from None


def to_raw(tensor: Tensor) -> RawTensor:
    """The bytes of a tensor, C order; the same memory where the tensor is contiguous on the CPU.

    The bytes keep the tensor's memory alive; writing to the tensor afterwards changes them.

    Args:
        tensor: any shape and device, dtype one of `TORCH_DTYPES`.

    Raises:
        SchemaError: a dtype that cannot travel.

    Example:
        >>> raw = to_raw(torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
        >>> raw.dtype, raw.shape, bytes(raw.data)
        ('bfloat16', (2,), b'\\x80?\\x00@')
    """
    name, shape = dtype_name(tensor.dtype), tuple(tensor.shape)
    if tensor.numel() == 0:
        return RawTensor(name, shape, b"")
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return RawTensor(name, shape, flat.numpy().data)


class _Exposed:
    """A buffer offered to NumPy as writable memory.

    torch warns about read-only arrays, and nobody writes to received tensors in place; the array
    keeps this object, and with it the buffer, alive.
    """

    __slots__ = ("__array_interface__", "buffer")

    def __init__(self, data: memoryview, array: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> None:
        self.buffer = data
        self.__array_interface__ = {
            "shape": array.shape,
            "typestr": "|u1",
            "data": (array.__array_interface__["data"][0], False),
            "version": 3,
        }


def from_raw(raw: RawTensor) -> Tensor:
    """A tensor on the memory of `raw`, which stays alive as long as the tensor does.

    Memory may be read-only (a received frame, a mapped file): do not write to the tensor in place.
    Memory that is not aligned to the dtype's size is copied.

    Raises:
        ProtocolError: a dtype unknown here, bytes that are not ``prod(shape) * itemsize`` many, or
            booleans other than 0 and 1.

    Example:
        >>> from_raw(RawTensor("int16", (2, 1), b"\\x01\\x00\\xff\\xff")).tolist()
        [[1], [-1]]
    """
    data = memoryview(raw.data)
    dtype = TORCH_DTYPES.get(raw.dtype)
    if dtype is None:
        raise ProtocolError(
            f"a tensor has dtype {raw.dtype!r}; expected one of {', '.join(DTYPES)}"
        )
    if min(raw.shape, default=0) < 0 or data.nbytes != math.prod(raw.shape) * dtype.itemsize:
        raise ProtocolError(
            f"a {raw.dtype} tensor of shape {tuple(raw.shape)} has {data.nbytes} bytes; "
            f"expected {math.prod(raw.shape) * dtype.itemsize}"
        )
    if data.nbytes == 0:
        if math.prod(d or 1 for d in raw.shape) > MAX_ELEMENTS:
            raise ProtocolError(f"an empty tensor has shape {tuple(raw.shape)}; no strides fit it")
        return torch.empty(raw.shape, dtype=dtype)
    if not data.readonly and dtype is not torch.bool:
        # Received frames come this way, in a third of the time.
        tensor = torch.frombuffer(data, dtype=dtype)
        if tensor.data_ptr() % dtype.itemsize == 0:
            return tensor.view(raw.shape)
    flat = _bytes_tensor(data, dtype.itemsize)
    if dtype is torch.bool and int(flat.max()) > 1:
        raise ProtocolError(
            f"a bool tensor of shape {tuple(raw.shape)} has bytes other than 0 and 1"
        )
    return flat.view(dtype).view(raw.shape)


def _bytes_tensor(data: memoryview, alignment: int) -> Tensor:
    """uint8 ``[nbytes]`` on the buffer's memory, or on a copy of it if it is misaligned."""
    array = np.frombuffer(data, np.uint8)
    if array.__array_interface__["data"][0] % alignment:
        return torch.from_numpy(array.copy())
    if not array.flags.writeable:
        array = np.asarray(_Exposed(data, array))
    return torch.from_numpy(array)


def digest(buffers: Iterable[Buffer]) -> int:
    """xxh3_64 over payloads, one after the other; where they are cut does not matter.

    >>> digest([b"know", b"ledge"]) == digest([b"knowledge"])
    True
    """
    state = xxhash.xxh3_64()
    for buffer in buffers:
        state.update(buffer)
    return int(state.intdigest())
