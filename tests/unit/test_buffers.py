"""Tensors become bytes and come back, bit by bit, on the same memory wherever that is possible."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
import xxhash
import zmq
from hypothesis import given
from hypothesis import strategies as st

from pantheon.errors import ProtocolError, SchemaError
from pantheon.schema import DTYPES
from pantheon.wire.buffers import DTYPE_NAMES, TORCH_DTYPES, digest, dtype_name, from_raw, to_raw
from pantheon.wire.messages import RawTensor

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def random_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Any bit pattern (NaN too), except for booleans."""
    count = int(np.prod(shape)) * dtype.itemsize
    top = 2 if dtype is torch.bool else 256
    bits = torch.randint(0, top, (max(count, 1),), dtype=torch.uint8)[:count]
    return bits.view(dtype).reshape(shape)


@given(st.sampled_from(sorted(DTYPES)), shapes, st.sampled_from(["same", "frozen", "misaligned"]))
def test_every_dtype_shape_and_alignment_comes_back_bit_by_bit(
    dtype: str, shape: tuple[int, ...], memory: str
) -> None:
    tensor = random_bits(TORCH_DTYPES[dtype], shape)
    raw = to_raw(tensor)
    data = raw.data
    if memory == "frozen":
        data = bytes(data)
    if memory == "misaligned":
        data = memoryview(b"x" + bytes(data))[1:]
    back = from_raw(RawTensor(raw.dtype, raw.shape, data))
    assert back.dtype is tensor.dtype
    assert back.shape == tensor.shape
    assert bytes(to_raw(back).data) == bytes(raw.data)


def test_contiguous_memory_is_shared_both_ways() -> None:
    tensor = torch.rand(3, 4)
    back = from_raw(to_raw(tensor))
    assert back.data_ptr() == tensor.data_ptr()
    tensor[0, 0] = 7
    assert back[0, 0] == 7


def test_read_only_memory_is_shared_without_a_warning_and_kept_alive() -> None:
    data = np.arange(1000, dtype=np.float32).tobytes()
    address = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    back = from_raw(RawTensor("float32", (1000,), data))
    assert back.data_ptr() == address
    del data
    gc.collect()
    assert back.equal(torch.arange(1000.0))


def test_a_received_frame_is_used_without_a_copy() -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as a, context.socket(zmq.PAIR) as b:
        a.bind("inproc://frames")
        b.connect("inproc://frames")
        sent = torch.rand(100_000)
        a.send(to_raw(sent).data, copy=False)
        frame = b.recv(copy=False)
        tensor = from_raw(RawTensor("float32", (100_000,), frame.buffer))
        assert tensor.data_ptr() == np.frombuffer(frame.buffer, np.uint8).ctypes.data
        del frame
        gc.collect()
        assert tensor.equal(sent)


def test_strided_and_requiring_grad_tensors_are_made_plain() -> None:
    tensor = torch.rand(4, 6, requires_grad=True)[:, ::2].T
    assert from_raw(to_raw(tensor)).equal(tensor.detach())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (RawTensor("float32", (3,), b"\0" * 8), r"float32 tensor of shape \(3,\) has 8 .* 12"),
        (RawTensor("float32", (-1,), b""), r"shape \(-1,\)"),
        (RawTensor("float32", (-1, -2), b"\0" * 8), r"shape \(-1, -2\)"),
        (RawTensor("complex64", (1,), b"\0" * 8), "complex64"),
        (RawTensor("bool", (2,), b"\0\2"), "other than 0 and 1"),
    ],
)
def test_bytes_that_are_no_such_tensor_are_refused(raw: RawTensor, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        from_raw(raw)


def test_a_dtype_that_cannot_travel_is_named() -> None:
    with pytest.raises(SchemaError, match="complex64"):
        to_raw(torch.zeros(1, dtype=torch.complex64))


def test_dtype_names_are_those_of_the_schema() -> None:
    assert {dtype_name(d) for d in DTYPE_NAMES} == set(DTYPES)
    assert all(TORCH_DTYPES[n].itemsize == size for n, size in DTYPES.items())


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_a_digest_is_xxh3_of_all_payloads_in_order(payloads: list[bytes]) -> None:
    assert digest(payloads) == xxhash.xxh3_64_intdigest(b"".join(payloads))
