"""The coded tensors each field becomes, on the wire and on disk alike; torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pantheon.codec.names import canonical, parse_name
from pantheon.errors import CodecError, SchemaError
from pantheon.schema import FieldSpec, KnowledgeSchema

__all__ = ["PartSpec", "PartsCheck", "canonical", "check_parts", "field_parts", "schema_parts"]


@dataclass(frozen=True, slots=True)
class PartSpec:
    """One coded tensor.

    Args:
        name: the field's name, or the field's and the part's: ``"logits.indices"``.
        dtype: a name from `pantheon.schema.DTYPES`.
        shape: without the first dimension.
        per: whether the first dimension counts samples or the packed rows of a ragged field.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    per: Literal["sample", "row"] = "sample"


def field_parts(spec: FieldSpec) -> tuple[PartSpec, ...]:
    """The coded tensors of a field in their order; a ragged field's lengths come first.

    Raises:
        CodecError: an unknown codec, or top-k of a field without classes.

    Example:
        >>> spec = FieldSpec("logits", "float32", (1000,), "topk:8@1,2", ragged="tokens")
        >>> [(p.name, p.dtype, p.shape, p.per) for p in field_parts(spec)][:2]
        [('logits.lengths', 'int64', (), 'sample'), ('logits', 'float32', (8,), 'row')]
        >>> [(p.name, p.dtype, p.shape) for p in field_parts(spec)][2:]
        [('logits.indices', 'int32', (8,)), ('logits.tail', 'float32', (2,))]
    """
    per: Literal["sample", "row"] = "row" if spec.ragged is not None else "sample"
    parts = tuple(PartSpec(n, d, s, per) for n, d, s in _coded(spec))
    if spec.ragged is None:
        return parts
    return (PartSpec(f"{spec.name}.lengths", "int64", ()), *parts)


def _coded(spec: FieldSpec) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and row shape of each part."""
    codec, name, shape = parse_name(spec.codec), spec.name, spec.shape
    if codec.kind == "raw":
        return [(name, spec.dtype, shape)]
    if codec.kind == "int8":
        return [(name, "int8", shape), (f"{name}.scale", "float32", ())]
    if codec.kind != "topk":
        return [(name, codec.kind, shape)]
    if not shape or not 1 <= shape[-1] < 1 << 31:
        raise CodecError(
            f"field {name!r} has row shape {shape}; {spec.codec} needs a last dimension of classes"
        )
    kept = (*shape[:-1], min(codec.k, shape[-1]))
    return [
        (name, codec.dtype, kept),
        (f"{name}.indices", "int32", kept),
        (f"{name}.tail", "float32", (*shape[:-1], len(codec.temperatures))),
    ]


@lru_cache(maxsize=256)
def schema_parts(schema: KnowledgeSchema) -> tuple[PartSpec, ...]:
    """The coded tensors of all fields, in the order in which they travel.

    Raises:
        SchemaError: two parts of one name (a field called like another field's part).

    Example:
        >>> schema = KnowledgeSchema((FieldSpec("x", "float32", (3,), "int8"),))
        >>> [p.name for p in schema_parts(schema)]
        ['x', 'x.scale']
    """
    parts = tuple(p for spec in schema for p in field_parts(spec))
    names = [p.name for p in parts]
    for name in names:
        if names.count(name) > 1:
            raise SchemaError(
                f"two parts of the schema are called {name!r}; rename the field {name!r}"
            )
    return parts


class PartsCheck:
    """A schema's parts, made ready for checking many replies.

    Example:
        >>> check = PartsCheck(KnowledgeSchema((FieldSpec("x", "float32", (3,)),)))
        >>> check(2, [("float32", (2, 3))])
        >>> check(2, [("float32", (2, 4))])
        Traceback (most recent call last):
        pantheon.errors.SchemaError: part 'x' is float32 (2, 4); expected float32 (2, 3)
    """

    __slots__ = ("_plan", "parts")

    def __init__(self, schema: KnowledgeSchema) -> None:
        self.parts = schema_parts(schema)
        # Parts of one ragged field share their packed rows; the group is the field's lengths part.
        group = -1
        plan: list[tuple[str, tuple[int, ...], int]] = []
        for i, part in enumerate(self.parts):
            follows = part.per == "row"
            group = i if not follows else group
            plan.append((part.dtype, part.shape, group + 1 if follows else -1))
        self._plan = tuple(plan)

    def __call__(self, rows: int, shapes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        """Raise `SchemaError` unless dtypes and shapes are those of `rows` samples.

        Args:
            rows: samples asked for.
            shapes: dtype and shape of each part received, in order.
        """
        if len(shapes) != len(self._plan):
            names = ", ".join(p.name for p in self.parts)
            raise SchemaError(f"a reply has {len(shapes)} parts; expected {names}")
        for i, (dtype, shape, first) in enumerate(self._plan):
            found_dtype, found = shapes[i]
            count = rows if first < 0 else (shapes[first][1] or (-1,))[0]
            if found_dtype != dtype or tuple(found) != (count, *shape) or count < 0:
                self._fail(i, (found_dtype, found), "packed rows" if first == i else str(count))

    def _fail(self, i: int, found: tuple[str, tuple[int, ...]], count: str) -> None:
        part = self.parts[i]
        shape = ", ".join([count, *map(str, part.shape)]) + ("," if not part.shape else "")
        raise SchemaError(
            f"part {part.name!r} is {found[0]} {tuple(found[1])}; expected {part.dtype} ({shape})"
        )


@lru_cache(maxsize=256)
def _checker(schema: KnowledgeSchema) -> PartsCheck:
    return PartsCheck(schema)


def check_parts(
    schema: KnowledgeSchema, rows: int, shapes: Sequence[tuple[str, tuple[int, ...]]]
) -> None:
    """Raise `SchemaError` unless coded parts fit a schema; see `PartsCheck` for many replies.

    >>> schema = KnowledgeSchema((FieldSpec("x", "int64", (), "raw", ragged="boxes"),))
    >>> check_parts(schema, 2, [("int64", (2,)), ("int64", (5,))])
    """
    _checker(schema)(rows, shapes)
