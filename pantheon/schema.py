"""What a teacher's knowledge looks like: field specifications, schemas and their fingerprints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from pantheon.errors import SchemaError, SchemaMismatch
from pantheon.quote import quoted

DTYPES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of one element, by the names dtypes have in schemas, on the wire and on disk."""

MAX_FIELDS = 256
MAX_RANK = 8
MAX_NAME = 256
MAX_DIM = 1 << 40
MAX_ROW = 1 << 44
"""Elements of the largest row."""
MAX_EMPTY_ROWS = 1 << 24
"""Packed rows of no bytes at all that one value or one shard may claim."""


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One named tensor of knowledge, as it is after decoding.

    Args:
        name: the field's name, at most 256 characters.
        dtype: dtype after decoding, one of `DTYPES`.
        shape: shape of one row, without the sample dimension. A ragged field's row is one of the
            packed values of a sample (one token, one box).
        codec: canonical name of the codec, such as ``"float16"`` or ``"topk:64@1,2"``.
        ragged: name of the ragged dimension, or None for a dense field.
        labels: fingerprint of the list of classes or tokens the last dimension names, or None.

    Raises:
        SchemaError: a name, dtype or dimension that cannot be.

    Example:
        >>> FieldSpec("logits", "float32", (10,)).row_shape
        (10,)
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: str = "float32"
    ragged: str | None = None
    labels: str | None = None

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > MAX_NAME:
            raise SchemaError(
                f"a field name has {len(self.name)} characters; expected 1 to {MAX_NAME}"
            )
        if self.dtype not in DTYPES:
            raise SchemaError(
                f"field {self.name!r} has dtype {self.dtype!r}; expected one of {', '.join(DTYPES)}"
            )
        if len(self.shape) > MAX_RANK or any(not 0 <= d <= MAX_DIM for d in self.shape):
            raise SchemaError(
                f"field {self.name!r} has row shape {self.shape}; expected at most {MAX_RANK} "
                f"dimensions of 0 to {MAX_DIM}"
            )
        if math.prod(d or 1 for d in self.shape) > MAX_ROW:
            raise SchemaError(
                f"field {self.name!r} has row shape {self.shape}; expected at most {MAX_ROW} "
                "elements, a dimension of 0 taken as 1"
            )

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row after decoding."""
        return self.shape

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row (of one packed row, for a ragged field)."""
        return math.prod(self.shape) * DTYPES[self.dtype]

    def to_wire(self) -> dict[str, Any]:
        """The specification as plain values for msgpack and JSON."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "codec": self.codec,
            "ragged": self.ragged,
            "labels": self.labels,
        }

    @classmethod
    def from_wire(cls, wire: Any) -> FieldSpec:
        """Read `to_wire`'s answer from an untrusted side; `SchemaError` names what is off."""
        if not isinstance(wire, dict):
            raise SchemaError(
                f"a field specification must be a mapping, found {type(wire).__name__}"
            )
        texts = {k: wire.get(k) for k in ("name", "dtype", "codec")}
        optional = {k: wire.get(k) for k in ("ragged", "labels")}
        shape = wire.get("shape")
        bad = [k for k, v in texts.items() if not isinstance(v, str) or len(v) > MAX_NAME]
        bad += [
            k
            for k, v in optional.items()
            if v is not None and (not isinstance(v, str) or len(v) > MAX_NAME)
        ]
        if not isinstance(shape, list) or not all(type(d) is int for d in shape):
            bad.append("shape")
        if bad:
            raise SchemaError(
                f"a field specification has no valid {', '.join(bad)}: {quoted(wire)}"
            )
        return cls(
            str(wire["name"]),
            str(wire["dtype"]),
            tuple(wire["shape"]),
            str(wire["codec"]),
            optional["ragged"],
            optional["labels"],
        )


@dataclass(frozen=True, slots=True)
class KnowledgeSchema:
    """The fields of a teacher, ordered by name.

    Raises:
        SchemaError: no field, too many, or two of one name.

    Example:
        >>> schema = KnowledgeSchema((FieldSpec("logits", "float32", (10,)),))
        >>> schema["logits"].shape, len(schema.fingerprint)
        ((10,), 16)
    """

    fields: tuple[FieldSpec, ...]

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        if not 0 < len(names) <= MAX_FIELDS or len(set(names)) != len(names):
            raise SchemaError(
                f"a schema needs 1 to {MAX_FIELDS} fields of different names, found {names[:20]}"
            )
        object.__setattr__(self, "fields", tuple(sorted(self.fields, key=lambda f: f.name)))

    def __iter__(self) -> Iterator[FieldSpec]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __contains__(self, name: object) -> bool:
        return any(f.name == name for f in self.fields)

    def __getitem__(self, name: str) -> FieldSpec:
        for field in self.fields:
            if field.name == name:
                return field
        raise SchemaError(f"no field {name!r}; this schema has {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Field names, sorted."""
        return tuple(f.name for f in self.fields)

    @property
    def fingerprint(self) -> str:
        """xxh3_64 of the canonical JSON of the fields, 16 hexadecimal digits."""
        canonical = json.dumps(self.to_wire(), sort_keys=True, separators=(",", ":"))
        return str(xxhash.xxh3_64_hexdigest(canonical.encode()))

    def select(self, names: tuple[str, ...]) -> KnowledgeSchema:
        """The schema of some of the fields; `SchemaError` for an unknown name."""
        return KnowledgeSchema(tuple(self[n] for n in names))

    def to_wire(self) -> list[dict[str, Any]]:
        """The fields as plain values for msgpack and JSON."""
        return [f.to_wire() for f in self.fields]

    @classmethod
    def from_wire(cls, wire: Any) -> KnowledgeSchema:
        """Read `to_wire`'s answer from an untrusted side."""
        if not isinstance(wire, list) or len(wire) > MAX_FIELDS:
            raise SchemaError(f"a schema must be a list of at most {MAX_FIELDS} fields")
        return cls(tuple(FieldSpec.from_wire(f) for f in wire))

    def require_equal(self, other: KnowledgeSchema, ours: str, theirs: str) -> None:
        """Raise `SchemaMismatch` naming the first field and attribute that differ.

        Args:
            ours, theirs: what to call the two sides in the message.
        """
        if self == other:
            return
        if self.names != other.names:
            raise SchemaMismatch(
                f"{ours} has the fields {', '.join(self.names)}, {theirs} has "
                f"{', '.join(other.names)}; make both serve the same fields"
            )
        for a, b in zip(self.fields, other.fields, strict=True):
            for key in ("dtype", "shape", "codec", "ragged", "labels"):
                x, y = getattr(a, key), getattr(b, key)
                if x != y:
                    raise SchemaMismatch(
                        f"field {a.name!r} differs in {key}: {ours} has {x!r}, {theirs} has {y!r}; "
                        "serve both with the same schema"
                    )
