"""Codecs that keep every element: raw, float32, float16, bfloat16 and int8 per row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pantheon.codec.base import Codec
from pantheon.errors import CodecError
from pantheon.ragged import Rows
from pantheon.schema import FieldSpec
from pantheon.wire.buffers import TORCH_DTYPES, dtype_name


def require_tensor(value: Rows, spec: FieldSpec) -> Tensor:
    """The value, a tensor of the rows the field says; `CodecError` names the field otherwise."""
    if not isinstance(value, Tensor):
        raise CodecError(
            f"field {spec.name!r} has the codec {spec.codec}; expected a tensor, found "
            f"{type(value).__name__}; give it a top-k codec"
        )
    if tuple(value.shape[1:]) != spec.shape or value.ndim == 0:
        raise CodecError(
            f"field {spec.name!r} has a value of shape {tuple(value.shape)}; expected "
            f"(rows, {', '.join(map(str, spec.shape))})"
        )
    return value.detach()


def require_float(value: Rows, spec: FieldSpec) -> Tensor:
    """`require_tensor` of a floating dtype."""
    tensor = require_tensor(value, spec)
    if not tensor.is_floating_point():
        raise CodecError(
            f"field {spec.name!r} has the codec {spec.codec}, which carries floating numbers; its "
            f"value is {dtype_name(tensor.dtype)}: use the codec raw"
        )
    return tensor


def narrow(value: Tensor, dtype: torch.dtype, field: str) -> Tensor:
    """Cast to a dtype of smaller range; `CodecError` names a finite number that does not fit."""
    coded = value.to(dtype)
    limit = torch.finfo(dtype).max
    if value.numel() == 0 or torch.finfo(value.dtype).max <= limit:
        return coded
    low, high = value.aminmax()
    if bool((low >= -limit) & (high <= limit)):
        return coded
    # Not a proof of overflow: NaN and infinity, which were allowed, come here as well.
    lost = coded.isinf() & value.isfinite()
    if bool(lost.any()):
        raise CodecError(
            f"field {field!r} has the value {float(value[lost][0]):g}, beyond the range of "
            f"{dtype_name(dtype)} ({limit:g}); use bfloat16 or float32"
        )
    return coded


class Raw(Codec):
    """Every bit as it is: integers, booleans, float64, or any dtype. Error 0.

    >>> from pantheon.codec import spec_for
    >>> spec_for("boxes", Raw(), torch.zeros(2, 4, dtype=torch.int32)).dtype
    'int32'
    """

    @property
    def name(self) -> str:
        return "raw"

    def decoded_dtype(self, dtype: str) -> str:
        return dtype

    def encode_rows(self, value: Rows, spec: FieldSpec) -> list[Tensor]:
        tensor = require_tensor(value, spec)
        if tensor.dtype is not TORCH_DTYPES[spec.dtype]:
            raise CodecError(
                f"field {spec.name!r} is {spec.dtype}; its value is {dtype_name(tensor.dtype)}"
            )
        return [tensor.contiguous()]

    def decode_rows(self, parts: Sequence[Tensor], spec: FieldSpec) -> Rows:
        return parts[0]

    def bound(self, value: Tensor) -> Tensor:
        return torch.zeros((), device=value.device)


class _Float(Codec):
    """A floating dtype on the wire, float32 after decoding."""

    dtype: torch.dtype
    relative: float
    smallest: float

    @property
    def name(self) -> str:
        return dtype_name(self.dtype)

    def decoded_dtype(self, dtype: str) -> str:
        return "float32"

    def encode_rows(self, value: Rows, spec: FieldSpec) -> list[Tensor]:
        return [narrow(require_float(value, spec), self.dtype, spec.name).contiguous()]

    def decode_rows(self, parts: Sequence[Tensor], spec: FieldSpec) -> Rows:
        return parts[0].to(torch.float32)

    def bound(self, value: Tensor) -> Tensor:
        return value.abs().double() * self.relative + self.smallest


class Float32(_Float):
    """float32. Error 0 for float32, float16 and bfloat16; ``2**-24 |x| + 2**-150`` for float64."""

    dtype, relative, smallest = torch.float32, 2.0**-24, 2.0**-150

    def bound(self, value: Tensor) -> Tensor:
        if value.dtype is torch.float64:
            return super().bound(value)
        return torch.zeros((), device=value.device)


class Float16(_Float):
    """float16. Error at most ``2**-11 |x| + 2**-25``; beyond ±65504 it raises `CodecError`."""

    dtype, relative, smallest = torch.float16, 2.0**-11, 2.0**-25


class BFloat16(_Float):
    """bfloat16. Error at most ``2**-8 |x| + 2**-134``; it has the range of float32."""

    dtype, relative, smallest = torch.bfloat16, 2.0**-8, 2.0**-134


_LARGEST_SCALE = float.fromhex("0x1.020406p+121")
"""The float32 below max / 127: 127 times it does not overflow."""


class Int8(Codec):
    """8-bit integers and a float32 scale, absmax / 127, per row (all of a sample's elements).

    Error at most ``absmax / 254 * (1 + 2**-14) + 2**-140``, absmax being the row's largest absolute
    value; the second terms are float32's own rounding. A row of zeros stays zeros; NaN and infinity
    raise `CodecError`.
    """

    @property
    def name(self) -> str:
        return "int8"

    def decoded_dtype(self, dtype: str) -> str:
        return "float32"

    def encode_rows(self, value: Rows, spec: FieldSpec) -> list[Tensor]:
        rows = narrow(require_float(value, spec), torch.float32, spec.name)
        scale = _absmax(rows) / 127
        if not bool(scale.isfinite().all()):
            raise CodecError(f"field {spec.name!r} holds NaN or infinity, which int8 cannot carry")
        scale.clamp_(max=_LARGEST_SCALE)
        coded = rows / torch.where(scale > 0, scale, 1.0).view(-1, *[1] * (rows.ndim - 1))
        return [coded.round_().clamp_(-127, 127).to(torch.int8).contiguous(), scale]

    def decode_rows(self, parts: Sequence[Tensor], spec: FieldSpec) -> Rows:
        coded, scale = parts
        return coded.to(torch.float32).mul_(scale.view(-1, *[1] * (coded.ndim - 1)))

    def bound(self, value: Tensor) -> Tensor:
        limit = _absmax(value.double()) / 254 * (1 + 2.0**-14) + 2.0**-140
        return limit.view(-1, *[1] * (value.ndim - 1))


def _absmax(rows: Tensor) -> Tensor:
    """Largest absolute value of each row, ``[r]``; 0 for rows without elements."""
    flat = rows.reshape(rows.shape[0], -1) if rows.numel() else rows.new_zeros(rows.shape[0], 1)
    low, high = flat.aminmax(dim=1)
    return torch.maximum(-low, high)
