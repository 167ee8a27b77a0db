"""Names of codecs, the parts of a schema, and replies that do not fit it; all without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.codec.names import CodecName, parse_name, topk_name
from pantheon.codec.parts import (
    PartsCheck,
    PartSpec,
    canonical,
    check_parts,
    field_parts,
    schema_parts,
)
from pantheon.errors import CodecError, SchemaError
from pantheon.schema import FieldSpec, KnowledgeSchema

topk_names = st.builds(
    topk_name,
    st.integers(1, 1 << 24),
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=16).map(tuple),
    st.sampled_from(["float32", "float16", "bfloat16"]),
)


@given(topk_names)
def test_a_top_k_name_says_exactly_what_it_was_made_of(name: CodecName) -> None:
    assert parse_name(str(name)) == name
    assert canonical(str(name)) == str(name)
    assert len(str(name)) <= 512


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("raw", "raw"),
        ("bfloat16", "bfloat16"),
        ("topk:64", "topk:64"),
        ("topk:64@1", "topk:64"),
        ("topk:64@1.0,4,2,2.0", "topk:64@1,2,4"),
        ("topk:8@0.5", "topk:8@0.5"),
        ("topk:8:float16", "topk:8:float16"),
        ("topk:8@1,2:bfloat16", "topk:8@1,2:bfloat16"),
        ("topk:8:float32", "topk:8"),
    ],
)
def test_names_written_in_several_ways_have_one_canonical_form(given: str, name: str) -> None:
    assert canonical(given) == name


@pytest.mark.parametrize(
    "name",
    [
        *["", "float8", "topk", "topk:", "topk:x", "topk:0", "topk:-1", "topk:4@", "topk:4@a"],
        *["topk:4@0", "topk:4@-1", "topk:4@inf", "topk:4@nan", "topk:4:int8", "topk:4:", "int8:4"],
        *["topk:1e3", "topk:99999999999", "topk:4@" + ",".join(str(t) for t in range(1, 18))],
    ],
)
def test_a_name_that_no_codec_has_is_refused(name: str) -> None:
    with pytest.raises(CodecError, match=r"codec|top-k"):
        canonical(name)


def test_the_parts_of_every_codec() -> None:
    def parts(codec: str, shape: tuple[int, ...], dtype: str = "float32") -> list[Any]:
        return [
            (p.name, p.dtype, p.shape) for p in field_parts(FieldSpec("x", dtype, shape, codec))
        ]

    assert parts("raw", (2,), "bool") == [("x", "bool", (2,))]
    assert parts("float16", ()) == [("x", "float16", ())]
    assert parts("int8", (2, 3)) == [("x", "int8", (2, 3)), ("x.scale", "float32", ())]
    assert parts("topk:4@1,2:float16", (7, 10)) == [
        ("x", "float16", (7, 4)),
        ("x.indices", "int32", (7, 4)),
        ("x.tail", "float32", (7, 2)),
    ]
    assert parts("topk:64", (10,))[0] == ("x", "float32", (10,))


def test_lengths_of_a_ragged_field_come_first() -> None:
    spec = FieldSpec("boxes", "float32", (4,), "int8", ragged="box")
    assert field_parts(spec) == (
        PartSpec("boxes.lengths", "int64", (), "sample"),
        PartSpec("boxes", "int8", (4,), "row"),
        PartSpec("boxes.scale", "float32", (), "row"),
    )


@pytest.mark.parametrize("shape", [(), (0,), (2**31,)])
def test_top_k_needs_classes(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match="last dimension of classes"):
        field_parts(FieldSpec("x", "float32", shape, "topk:4"))


def test_a_field_called_like_another_fields_part_is_refused() -> None:
    fields = FieldSpec("x", "float32", (2,), "int8"), FieldSpec("x.scale", "float32", (2,))
    with pytest.raises(SchemaError, match=r"'x\.scale'"):
        schema_parts(KnowledgeSchema(fields))


SCHEMA = KnowledgeSchema(
    (
        FieldSpec("a", "float32", (3,), "int8"),
        FieldSpec("b", "float32", (10,), "topk:2", ragged="token"),
        FieldSpec("c", "int64", (), "raw"),
    )
)
GOOD: list[tuple[str, tuple[int, ...]]] = [
    ("int8", (2, 3)),
    ("float32", (2,)),
    ("int64", (2,)),
    ("float32", (7, 2)),
    ("int32", (7, 2)),
    ("float32", (7, 1)),
    ("int64", (2,)),
]


def test_a_reply_that_fits_passes() -> None:
    check_parts(SCHEMA, 2, GOOD)
    PartsCheck(SCHEMA)(2, GOOD)


@pytest.mark.parametrize(
    ("part", "found", "message"),
    [
        (0, ("int8", (3, 3)), r"'a' is int8 \(3, 3\); expected int8 \(2, 3\)"),
        (0, ("uint8", (2, 3)), r"'a' is uint8 \(2, 3\); expected int8 \(2, 3\)"),
        (1, ("float32", (2, 1)), r"'a\.scale' is .*; expected float32 \(2,\)"),
        (2, ("int64", (3,)), r"'b\.lengths'"),
        (3, ("float32", ()), r"'b' is .*; expected float32 \(packed rows, 2\)"),
        (3, ("float32", (-7, 2)), r"'b' is"),
        (4, ("int32", (6, 2)), r"'b\.indices' is int32 \(6, 2\); expected int32 \(7, 2\)"),
        (5, ("float32", (7,)), r"'b\.tail'"),
        (6, ("int64", ()), r"'c' is int64 \(\); expected int64 \(2,\)"),
    ],
)
def test_a_part_that_does_not_fit_is_named(
    part: int, found: tuple[str, tuple[int, ...]], message: str
) -> None:
    reply = [*GOOD[:part], found, *GOOD[part + 1 :]]
    with pytest.raises(SchemaError, match=message):
        check_parts(SCHEMA, 2, reply)


@given(st.integers(0, 6), st.integers(0, 2), st.integers(-3, 12))
def test_no_changed_dimension_of_fixed_parts_passes(part: int, axis: int, size: int) -> None:
    dtype, shape = GOOD[part]
    if axis >= len(shape) or shape[axis] == size:
        return
    changed = (*shape[:axis], size, *shape[axis + 1 :])
    with pytest.raises(SchemaError):
        check_parts(SCHEMA, 2, [*GOOD[:part], (dtype, changed), *GOOD[part + 1 :]])


@pytest.mark.parametrize("reply", [[], GOOD[:-1], [*GOOD, ("int64", (2,))]])
def test_too_few_or_too_many_parts_are_refused(reply: list[tuple[str, tuple[int, ...]]]) -> None:
    with pytest.raises(SchemaError, match=r"parts; expected a, a\.scale, b\.lengths"):
        check_parts(SCHEMA, 2, reply)


def test_parts_need_no_torch() -> None:
    code = "import sys, pantheon.codec.parts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
