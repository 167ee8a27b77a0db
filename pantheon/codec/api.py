"""From names to codecs, from values to specifications, from values to coded parts and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from torch import Tensor

from pantheon.codec.base import Codec, SchemaCodec
from pantheon.codec.dense import BFloat16, Float16, Float32, Int8, Raw
from pantheon.codec.names import parse_name
from pantheon.codec.topk import TopK
from pantheon.errors import CodecError
from pantheon.knowledge import Value
from pantheon.ragged import Ragged, Rows
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.topk import TopKLogits
from pantheon.wire.buffers import dtype_name

_DENSE: Mapping[str, Codec] = {c.name: c for c in (Raw(), Float32(), Float16(), BFloat16(), Int8())}


def parse_codec(value: Codec | str) -> Codec:
    """The codec of a name; a codec is returned as it is.

    Raises:
        CodecError: a name that no codec has.

    Example:
        >>> parse_codec("topk:64@1,2").name, parse_codec(Float16())
        ('topk:64@1,2', <codec float16>)
    """
    if isinstance(value, Codec):
        return value
    if not isinstance(value, str):
        raise CodecError(f"expected a codec or its name, found {type(value).__name__}")
    name = parse_name(value)
    if name.kind == "topk":
        return TopK(name.k, name.temperatures, name.dtype)
    return _DENSE[name.kind]


def spec_for(
    name: str, codec: Codec | str | None, value: Value, labels: str | None = None
) -> FieldSpec:
    """The specification of a field with values such as `value`.

    Args:
        name: the field's name.
        codec: a codec or its name; None keeps what the value is (float32, float16 and bfloat16 as
            they are, top-k as it is, everything else raw).
        value: an example, any number of samples.
        labels: fingerprint of the list of classes or tokens of the last dimension.

    Raises:
        CodecError: a codec that cannot carry such a value; names the field.

    Example:
        >>> import torch
        >>> spec = spec_for("logits", "int8", torch.zeros(2, 10))
        >>> spec.dtype, spec.shape, spec.codec
        ('float32', (10,), 'int8')
    """
    rows = value.values if isinstance(value, Ragged) else value
    chosen = _own_codec(rows) if codec is None else parse_codec(codec)
    if isinstance(rows, Tensor):
        shape, dtype = tuple(rows.shape[1:]), dtype_name(rows.dtype)
    elif isinstance(rows, TopKLogits):
        shape, dtype = (*rows.values.shape[1:-1], rows.classes), "float32"
    else:
        raise CodecError(f"field {name!r}: a {type(rows).__name__} is a merged value, never coded")
    ragged = "rows" if isinstance(value, Ragged) else None
    spec = FieldSpec(name, chosen.decoded_dtype(dtype), shape, chosen.name, ragged, labels)
    chosen.encode(value, spec)
    return spec


def _own_codec(rows: Rows) -> Codec:
    """The codec that changes nothing."""
    if isinstance(rows, TopKLogits):
        return TopK(rows.k, rows.temperatures)
    if isinstance(rows, Tensor):
        return _DENSE.get(dtype_name(rows.dtype), Raw()) if rows.is_floating_point() else Raw()
    return Raw()


@lru_cache(maxsize=256)
def compiled(schema: KnowledgeSchema) -> SchemaCodec:
    """The schema made ready to code many values; kept, so that asking again is cheap."""
    return SchemaCodec(schema, [parse_codec(spec.codec) for spec in schema])


def encode(schema: KnowledgeSchema, values: Mapping[str, Value]) -> list[Tensor]:
    """Coded parts of all fields, contiguous, in the order of `schema_parts`, on the values' device.

    Raises:
        CodecError: a missing field, or a value that does not fit; names the field.

    Example:
        >>> import torch
        >>> schema = KnowledgeSchema((spec_for("x", "float16", torch.zeros(1, 2)),))
        >>> parts = encode(schema, {"x": torch.tensor([[1.0, 2.0]])})
        >>> parts[0].dtype, decode(schema, parts)["x"]
        (torch.float16, tensor([[1., 2.]]))
    """
    return compiled(schema).encode(values)


def decode(schema: KnowledgeSchema, parts: Sequence[Tensor]) -> dict[str, Value]:
    """Values of all fields from their coded parts, whose dtypes and shapes have been checked.

    float32 and raw fields are the same memory; float16, bfloat16 and int8 become float32.

    Raises:
        SchemaError: lengths of a ragged field that do not add up to its packed rows.
    """
    return compiled(schema).decode(parts)
