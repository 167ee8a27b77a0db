"""Codecs keep their stated bounds, and refuse what they cannot carry by the field's name."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pantheon.codec import (
    BFloat16,
    Codec,
    Float16,
    Float32,
    Int8,
    Raw,
    TopK,
    decode,
    encode,
    field_parts,
    parse_codec,
    schema_parts,
    spec_for,
)
from pantheon.errors import CodecError, SchemaError
from pantheon.knowledge import Ragged, Value
from pantheon.schema import FieldSpec, KnowledgeSchema
from tests.unit.values import logits, same, tensors_of

DENSE: tuple[Codec, ...] = (Raw(), Float32(), Float16(), BFloat16(), Int8())

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
rows = st.lists(st.lists(floats, min_size=3, max_size=3), min_size=1, max_size=5)


def through(codec: Codec | str | None, value: Value) -> Value:
    """The value after coding and decoding, the coded parts being those its schema says."""
    schema = KnowledgeSchema((spec_for("x", codec, value),))
    parts = encode(schema, {"x": value})
    assert all(p.is_contiguous() for p in parts)
    for part, spec in zip(parts, schema_parts(schema), strict=True):
        assert str(part.dtype) == f"torch.{spec.dtype}"
        assert tuple(part.shape[1:]) == spec.shape
    return decode(schema, parts)["x"]


def within_bound(codec: Codec, value: Tensor) -> bool:
    back = through(codec, value)
    assert isinstance(back, Tensor)
    return bool(((back.double() - value.double()).abs() <= codec.bound(value)).all())


@given(rows)
def test_float32_and_raw_change_no_bit(values: list[list[float]]) -> None:
    value = torch.tensor(values)
    assert same(through("float32", value), value)
    assert same(through("raw", value), value)


@given(st.lists(st.floats(-65504, 65504, width=32), min_size=1, max_size=20))
def test_float16_stays_within_its_bound(values: list[float]) -> None:
    assert within_bound(Float16(), torch.tensor(values))


@given(st.lists(st.floats(-3.38e38, 3.38e38, width=64).map(float), min_size=1, max_size=20))
def test_bfloat16_stays_within_its_bound(values: list[float]) -> None:
    assert within_bound(BFloat16(), torch.tensor(values))


@given(rows)
def test_int8_stays_within_its_bound_in_every_row(values: list[list[float]]) -> None:
    assert within_bound(Int8(), torch.tensor(values))


@given(st.lists(st.floats(-3e38, 3e38), min_size=1, max_size=20))
def test_float64_sent_as_float32_stays_within_its_bound(values: list[float]) -> None:
    assert within_bound(Float32(), torch.tensor(values, dtype=torch.float64))


def test_the_bound_of_int8_is_the_largest_value_of_the_row_over_254() -> None:
    value = torch.tensor([[1.0, 0.4999, -0.25], [254.0, 1.0, 0.0]])
    assert torch.allclose(Int8().bound(value), torch.tensor([[1 / 254], [1.0]]).double(), rtol=1e-4)
    worst = through(Int8(), torch.tensor([[254.0, 1.0, 0.0]]))
    assert isinstance(worst, Tensor)
    assert worst.tolist() in ([[254.0, 0.0, 0.0]], [[254.0, 2.0, 0.0]])


def test_int8_keeps_rows_of_zeros_and_scalars() -> None:
    zeros = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    assert same(through("int8", zeros), zeros)
    assert within_bound(Int8(), torch.tensor([0.0, 3.0, -5.5]))
    assert same(through("int8", torch.zeros(2, 0)), torch.zeros(2, 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8"])
def test_every_floating_dtype_decodes_to_float32(codec: str, dtype: torch.dtype) -> None:
    value = logits(4, 3).to(dtype)
    back = through(codec, value)
    assert isinstance(back, Tensor)
    assert back.dtype is torch.float32
    assert within_bound(parse_codec(codec), value)


@pytest.mark.parametrize("codec", [c.name for c in DENSE])
@pytest.mark.parametrize("n", [0, 1])
def test_few_rows_are_coded_too(codec: str, n: int) -> None:
    assert same(through(codec, torch.zeros(n, 2)), torch.zeros(n, 2))


@pytest.mark.parametrize("codec", [*(c.name for c in DENSE), "topk:2@1,2"])
def test_ragged_rows_are_coded_as_dense_ones_are(codec: str) -> None:
    value = Ragged(logits(5, 4), torch.tensor([2, 0, 3]))
    back = through(codec, value)
    assert isinstance(back, Ragged)
    assert back.lengths.equal(value.lengths)
    assert same(back.values, through(codec, value.values))


def test_decoding_float32_and_raw_copies_nothing() -> None:
    values: dict[str, Value] = {
        "a": logits(2, 3),
        "b": torch.arange(2),
        "c": torch.rand(2).double(),
    }
    schema = KnowledgeSchema(tuple(spec_for(k, None, v) for k, v in values.items()))
    decoded = decode(schema, encode(schema, values))
    for name, value in values.items():
        assert isinstance(value, Tensor)
        assert decoded[name].data_ptr() == value.data_ptr()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "codec", "dtype"),
    [
        (torch.zeros(1), "float32", "float32"),
        (torch.zeros(1).half(), "float16", "float32"),
        (torch.zeros(1).bfloat16(), "bfloat16", "float32"),
        (torch.zeros(1).double(), "raw", "float64"),
        (torch.zeros(1).int(), "raw", "int32"),
        (torch.zeros(1).bool(), "raw", "bool"),
    ],
)
def test_without_a_codec_a_value_keeps_its_own_dtype(value: Tensor, codec: str, dtype: str) -> None:
    spec = spec_for("x", None, value)
    if dtype == "float64":
        codec = "raw"
    assert (spec.codec, spec.dtype) == (codec, dtype)


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8", "topk:2"])
def test_integers_need_the_raw_codec(codec: str) -> None:
    with pytest.raises(CodecError, match=r"'votes'.*int64: use the codec raw"):
        spec_for("votes", codec, torch.zeros(2, 3, dtype=torch.int64))


def test_a_value_of_another_dtype_than_its_raw_field_is_refused() -> None:
    schema = KnowledgeSchema((FieldSpec("votes", "int64", (), "raw"),))
    with pytest.raises(CodecError, match="'votes' is int64; its value is float32"):
        encode(schema, {"votes": torch.zeros(2)})


def test_a_value_of_another_shape_is_refused() -> None:
    schema = KnowledgeSchema((FieldSpec("x", "float32", (3,)),))
    with pytest.raises(CodecError, match=r"'x'.*\(2, 4\); expected \(rows, 3\)"):
        encode(schema, {"x": torch.zeros(2, 4)})
    with pytest.raises(SchemaError, match="scalar"):
        encode(schema, {"x": torch.tensor(1.0)})


def test_missing_fields_and_unequal_rows_are_named() -> None:
    schema = KnowledgeSchema(tuple(FieldSpec(n, "float32", ()) for n in "ab"))
    with pytest.raises(CodecError, match="no value for the field 'b'; found a, c"):
        encode(schema, {"a": torch.zeros(2), "c": torch.zeros(2)})
    with pytest.raises(CodecError, match=r"different numbers of samples: .*'a': 2, 'b': 3"):
        encode(schema, {"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(CodecError, match="1 coded parts; expected a, b"):
        decode(schema, [torch.zeros(2)])


def test_dense_and_ragged_are_not_confused() -> None:
    ragged = Ragged(torch.zeros(3), torch.tensor([1, 2]))
    dense_spec, ragged_spec = (spec_for("x", None, v) for v in (torch.zeros(3), ragged))
    with pytest.raises(CodecError, match="'x' is dense, but its value is ragged"):
        Float32().encode(ragged, dense_spec)
    with pytest.raises(CodecError, match="'x' is ragged; expected a Ragged, found Tensor"):
        Float32().encode(torch.zeros(3), ragged_spec)


@pytest.mark.parametrize("value", [65520.0, -1e6])
def test_what_float16_cannot_hold_raises_and_names_the_value(value: float) -> None:
    with pytest.raises(CodecError, match=re.escape(f"'x' has the value {value:g}, beyond")):
        spec_for("x", "float16", torch.tensor([1.0, value]))


def test_what_float32_and_bfloat16_cannot_hold_raises() -> None:
    for codec in ("float32", "bfloat16", "int8"):
        with pytest.raises(CodecError, match="'x' has the value 1e"):
            spec_for("x", codec, torch.tensor([1e300], dtype=torch.float64))
    with pytest.raises(CodecError, match=r"'x' has the value 3\.4"):
        spec_for("x", "bfloat16", torch.tensor([torch.finfo(torch.float32).max]))


def test_values_just_past_the_largest_float16_are_rounded_to_it() -> None:
    assert through("float16", torch.tensor([65519.0])).tolist() == [65504.0]  # type: ignore[union-attr]


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16"])
def test_nan_and_infinity_that_the_teacher_allowed_travel(codec: str) -> None:
    back = through(codec, torch.tensor([math.inf, -math.inf, math.nan, 1.0]))
    assert isinstance(back, Tensor)
    assert back[[0, 1, 3]].tolist() == [math.inf, -math.inf, 1.0]
    assert back[2].isnan()


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_int8_refuses_nan_and_infinity(value: float) -> None:
    with pytest.raises(CodecError, match="'x' holds NaN or infinity"):
        spec_for("x", "int8", torch.tensor([[1.0, value]]))


@pytest.mark.parametrize("codec", ["float32", "float16", "int8", "topk:2"])
def test_a_local_teachers_knowledge_can_be_trained_on(codec: str) -> None:
    with torch.inference_mode():
        value = logits(2, 3) * 1
        schema = KnowledgeSchema((spec_for("x", codec, value),))
        parts = encode(schema, {"x": value})
    assert all(p.is_inference() for p in parts)
    assert not any(t.is_inference() for t in tensors_of(decode(schema, parts)["x"]))


def test_gradients_do_not_travel() -> None:
    value = torch.rand(2, 3, requires_grad=True)
    for codec in ("float32", "float16", "int8"):
        back = through(codec, value)
        assert isinstance(back, Tensor)
        assert not back.requires_grad


@pytest.mark.parametrize("codec", [*DENSE, TopK(8, (2, 1)), TopK(8, dtype="float16")])
def test_codecs_are_read_back_from_their_names(codec: Codec) -> None:
    assert parse_codec(codec.name) == codec
    assert parse_codec(codec) is codec
    assert hash(parse_codec(codec.name)) == hash(codec)


def test_what_is_no_codec_is_refused() -> None:
    with pytest.raises(CodecError, match="float8"):
        parse_codec("float8")
    with pytest.raises(CodecError, match="found int"):
        parse_codec(8)  # type: ignore[arg-type]


def test_labels_are_kept_in_the_specification() -> None:
    assert spec_for("x", None, torch.zeros(1, 2), labels="imagenet").labels == "imagenet"
    assert field_parts(spec_for("x", None, torch.zeros(1, 2)))[0].shape == (2,)
