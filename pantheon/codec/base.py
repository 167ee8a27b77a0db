"""What a codec is, and the compiled way of a schema's values to coded parts and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pantheon.codec.parts import field_parts, schema_parts
from pantheon.errors import CodecError
from pantheon.knowledge import Value, value_rows
from pantheon.ragged import Ragged, Rows
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.wire.buffers import from_raw, to_raw


class Codec(ABC):
    """How a field is coded. Stateless; runs on whatever device the value is on.

    A codec sees rows: those of the samples, or the packed rows of a ragged field.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The canonical name, which `parse_codec` reads back."""

    @abstractmethod
    def decoded_dtype(self, dtype: str) -> str:
        """dtype after decoding of a value that had `dtype`."""

    @abstractmethod
    def encode_rows(self, value: Rows, spec: FieldSpec) -> list[Tensor]:
        """Coded, contiguous tensors of rows ``[r, *shape]``; `CodecError` if they do not fit."""

    @abstractmethod
    def decode_rows(self, parts: Sequence[Tensor], spec: FieldSpec) -> Rows:
        """The rows again; no copy where none is needed."""

    @abstractmethod
    def bound(self, value: Tensor) -> Tensor:
        """Largest absolute error of each element after decoding, broadcasts to ``[r, *shape]``."""

    def encode(self, value: Value, spec: FieldSpec) -> list[Tensor]:
        """A field's coded parts in the order of `field_parts`.

        Raises:
            CodecError: a value of another dtype or shape than `spec` says, or that the codec cannot
                carry; names the field.
        """
        if spec.ragged is None:
            if isinstance(value, Ragged):
                raise CodecError(f"field {spec.name!r} is dense, but its value is ragged")
            return self.encode_rows(value, spec)
        if not isinstance(value, Ragged):
            raise CodecError(
                f"field {spec.name!r} is ragged; expected a Ragged, found {type(value).__name__}"
            )
        return [value.lengths.to(torch.int64).contiguous(), *self.encode_rows(value.values, spec)]

    def decode(self, parts: Sequence[Tensor], spec: FieldSpec) -> Value:
        """A field's value from its coded parts, whose dtypes and shapes have been checked."""
        if spec.ragged is None:
            return self.decode_rows(parts, spec)
        return Ragged(self.decode_rows(parts[1:], spec), parts[0])

    def __repr__(self) -> str:
        return f"<codec {self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codec) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class SchemaCodec:
    """A schema made ready to code many values.

    Args:
        schema: the fields.
        codecs: the codec of each, in the order of the schema.
    """

    def __init__(self, schema: KnowledgeSchema, codecs: Sequence[Codec]) -> None:
        self.schema = schema
        self.parts = schema_parts(schema)
        self._plan: list[tuple[FieldSpec, Codec, int, int]] = []
        start = 0
        for spec, codec in zip(schema, codecs, strict=True):
            count = len(field_parts(spec))
            self._plan.append((spec, codec, start, start + count))
            start += count

    def encode(self, values: Mapping[str, Value]) -> list[Tensor]:
        """Coded parts of all fields; names not in the schema are left out."""
        missing = [s.name for s in self.schema if s.name not in values]
        if missing:
            raise CodecError(
                f"no value for the field {missing[0]!r}; found {', '.join(values) or 'none'}"
            )
        counts = {s.name: value_rows(values[s.name]) for s in self.schema}
        if len(set(counts.values())) > 1:
            raise CodecError(f"fields have different numbers of samples: {counts}")
        return [
            t for spec, codec, _, _ in self._plan for t in codec.encode(values[spec.name], spec)
        ]

    def decode(self, parts: Sequence[Tensor]) -> dict[str, Value]:
        """The values of all fields; float32 and raw ones on the memory of their parts."""
        if len(parts) != len(self.parts):
            names = ", ".join(p.name for p in self.parts)
            raise CodecError(f"{len(parts)} coded parts; expected {names}")
        parts = [_trainable(p) for p in parts]
        return {
            spec.name: codec.decode(parts[start:stop], spec)
            for spec, codec, start, stop in self._plan
        }


def _trainable(part: Tensor) -> Tensor:
    """A part that a loss may save for its backward pass, which inference tensors refuse."""
    if not part.is_inference() or torch.is_inference_mode_enabled():
        return part
    return from_raw(to_raw(part)) if part.device.type == "cpu" else part.clone()
