"""Nested state as JSON beside named tensors, and back; the bytes of both as safetensors. No I/O."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.nn.parameter import is_lazy

from pantheon.errors import StoreError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""What safetensors can carry, and its names for it."""


class ModuleState(OrderedDict[Any, Any]):
    """What a module's `state_dict` answers: its values, and beside them its parts' versions."""

    _metadata: Any = None


def pack(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors copied to `tensors` under the path they were found at.

    Raises:
        StoreError: a value of a type that a checkpoint does not hold; names where it is.

    Example:
        >>> found = {}
        >>> pack({"step": 3, "pair": (1, None)}, "state", found)
        {'map': [['step', 3], ['pair', {'tuple': [1, None]}]]}
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            name = _free(where, tensors)
            tensors[name] = _copy(value, where)
            return {"tensor": name}
        case Mapping():
            # Schedulers keep their milestones in a Counter, and ask it what a dict cannot answer.
            kind = "counter" if isinstance(value, Counter) else "map"
            pairs = [[_key(k, where), pack(v, f"{where}.{k}", tensors)] for k, v in value.items()]
            # A module reads by the versions of its parts which of its older formats a state has.
            versions = getattr(value, "_metadata", None)
            if versions:
                return {"module": [pairs, pack(versions, f"{where}._metadata", tensors)]}
            return {kind: pairs}
        case list() | tuple():
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [pack(v, f"{where}.{i}", tensors) for i, v in enumerate(value)]}
    raise StoreError(
        f"{where} is a {type(value).__name__}; a checkpoint holds tensors, numbers, texts, None, "
        "and mappings and lists of them"
    )


def _free(name: str, tensors: Mapping[str, Tensor]) -> str:
    """A name that is not taken: ``{"a.b": x, "a": {"b": y}}`` has two tensors at one path."""
    while name in tensors:
        name += "'"
    return name


def _copy(tensor: Tensor, where: str) -> Tensor:
    """A copy on the CPU of its own, because safetensors refuses what shares memory (tied weights).

    Lazy weights, shards of a distributed tensor and the like are not what they seem, so only plain
    tensors are taken.
    """
    kind = type(tensor).__name__
    if is_lazy(tensor):
        raise StoreError(f"{where} is a {kind}, which has no values yet; run the model once before")
    plain = tensor.detach()
    dense = type(plain) is Tensor and plain.layout is torch.strided and not plain.is_meta
    if not dense or plain.dtype not in DTYPES:
        raise StoreError(
            f"{where} is a {kind} of {plain.dtype}, {plain.layout}, on {plain.device}; a "
            "checkpoint holds plain dense tensors of the dtypes of safetensors: gather or convert "
            "it in the part's state_dict"
        )
    plain = plain.resolve_conj().resolve_neg()
    return plain.to("cpu", copy=True, memory_format=torch.contiguous_format)


def _key(key: Any, where: str) -> str | int:
    if type(key) in (str, int):
        return key  # type: ignore[no-any-return]  # mypy does not narrow by type() in a tuple
    raise StoreError(f"{where} has a key of type {type(key).__name__}; expected text or integer")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given.

    Raises:
        KeyError, TypeError, ValueError, RecursionError: JSON that `pack` does not answer.
    """
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "tensor":
            return tensors[inner]
        case "map" | "counter":
            pairs = {key: unpack(v, tensors) for key, v in inner}
            return pairs if kind == "map" else Counter(pairs)
        case "module":
            pairs, versions = inner
            state = ModuleState((key, unpack(v, tensors)) for key, v in pairs)
            state._metadata = unpack(versions, tensors)
            return state
        case "list":
            return [unpack(v, tensors) for v in inner]
        case "tuple":
            return tuple(unpack(v, tensors) for v in inner)
    raise ValueError(f"unknown kind {kind!r}")


def content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """The bytes of a safetensors file, piece by piece, so that no second copy of all is made.

    Args:
        tensors: contiguous ones on the CPU.

    Example:
        >>> from safetensors.torch import load
        >>> load(b"".join(content({"x": torch.ones(2)}, {})))
        {'x': tensor([1., 1.])}
    """
    # The widest dtype first, so that every tensor is aligned to its items.
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name in names:
        tensor = tensors[name]
        stop = start + tensor.nbytes
        entry = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = entry | {"data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        if tensors[name].numel():
            yield _bytes(tensors[name])


def _bytes(tensor: Tensor) -> Any:
    """A tensor's bytes, without a copy."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """xxh3_64 of a text and of the names, dtypes, shapes and bytes of tensors, in hexadecimal.

    >>> checksum("a", {}) == checksum("b", {})
    False
    """
    state = xxhash.xxh3_64(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            state.update(_bytes(tensor))
    return str(state.hexdigest())
