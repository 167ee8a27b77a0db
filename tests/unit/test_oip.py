"""The embedded protocol is the public one, is what proto/ says, and reads what it should."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.internal.encoder import _VarintBytes
from hypothesis import given
from hypothesis import strategies as st

from pantheon.errors import ProtocolError
from pantheon.transport import oip
from pantheon.transport.oip_fields import MAX_VARINTS, bounded
from pantheon.transport.oip_messages import (
    read_request,
    read_response,
    read_score,
    write_request,
    write_scored,
)
from pantheon.transport.oip_tensors import MAX_TYPED, read_tensors
from pantheon.wire.messages import Message, Score, Scored
from tests.unit.test_wire import comparable, messages

PROTO = Path(__file__).parents[2] / "proto"
SHIPPED = resources.files("pantheon.transport").joinpath("open_inference.binpb")


def test_the_shipped_descriptor_is_the_compiled_proto(tmp_path: Path) -> None:
    out = tmp_path / "out.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO)]
    command += [f"--descriptor_set_out={out}", "open_inference.proto"]
    subprocess.run(command, check=True, timeout=50)
    assert out.read_bytes() == SHIPPED.read_bytes(), "run make -C proto"


def fields_of(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    nested = {
        f"{kind}.{name}": value
        for kind, inner in descriptor.nested_types_by_name.items()
        for name, value in fields_of(inner).items()
    }
    own = {
        f.name: (f.number, f.type, f.is_repeated, f.message_type and f.message_type.full_name)
        for f in descriptor.fields
    }
    return {**own, **nested}


@pytest.mark.parametrize("method", sorted(oip.METHODS))
def test_field_numbers_are_those_of_another_implementation(method: str) -> None:
    from tritonclient.grpc import service_pb2

    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    theirs = service.methods_by_name[method]
    for ours, their in zip(
        oip.METHODS[method], (theirs.input_type, theirs.output_type), strict=True
    ):
        assert ours.DESCRIPTOR.full_name == their.full_name
        found, expected = fields_of(ours.DESCRIPTOR), fields_of(their)
        assert found == {name: expected[name] for name in found}
        assert set(found) == set(expected)


@given(messages)
def test_every_message_travels_in_the_protocol(message: Message) -> None:
    if isinstance(message, Score):
        if {"sample_id", "view"} & set(message.inputs):
            return
        sent = write_request(message, "m")
        found = read_request(oip.ModelInferRequest.FromString(sent.SerializeToString()))
    elif isinstance(message, Scored):
        names = [f"part{i}" for i in range(len(message.parts))]
        sent = oip.ModelStreamInferResponse(infer_response=write_scored(message, "m", names))
        found = read_response(oip.ModelStreamInferResponse.FromString(sent.SerializeToString()))
    else:
        found = read_request(write_request(message, "m"))
    assert comparable(found) == comparable(message)


@given(st.text(max_size=100), st.text(max_size=100))
def test_control_messages_that_are_none_are_protocol_errors(text: str, number: str) -> None:
    request = oip.ModelInferRequest(id=number)
    request.parameters["pantheon"].string_param = text
    with pytest.raises(ProtocolError):
        read_request(request)
    with pytest.raises(ProtocolError):
        read_request(oip.ModelInferRequest(id=number))


def test_deeply_nested_json_is_a_protocol_error() -> None:
    request = oip.ModelInferRequest()
    request.parameters["pantheon"].string_param = "[" * 100_000
    with pytest.raises(ProtocolError):
        read_request(request)


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-5, 5]),
        ("INT32", "int_contents", [-5, 5]),
        ("INT64", "int64_contents", [-(1 << 62), 5]),
        ("UINT8", "uint_contents", [0, 255]),
        ("FP32", "fp32_contents", [0.5, -2.0]),
        ("FP64", "fp64_contents", [0.1, -2.0]),
    ],
)
def test_typed_contents_are_read(datatype: str, field: str, values: list[Any]) -> None:
    request = oip.ModelInferRequest()
    entry = request.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(entry.contents, field).extend(values)
    tensor = read_tensors(request.inputs, request.raw_input_contents)["x"]
    assert np.frombuffer(tensor.data, tensor.dtype).tolist() == values


def test_a_request_has_so_many_typed_values_and_is_told_to_send_raw_ones() -> None:
    request = oip.ModelInferRequest()
    for name, count in (("x", MAX_TYPED), ("y", 1)):
        entry = request.inputs.add(name=name, datatype="FP32", shape=[count])
        entry.contents.fp32_contents.extend([1.0] * count)
    with pytest.raises(ProtocolError, match=r"'y'.*65536 values.*send raw_input_contents"):
        read_score(request, 1)
    request.inputs.pop()
    assert read_score(request, 1).inputs["x"].shape == (MAX_TYPED,)


def test_a_stock_servers_answer_may_have_any_number_of_typed_values() -> None:
    response = oip.ModelInferResponse()
    entry = response.outputs.add(name="y", datatype="FP32", shape=[MAX_TYPED + 1])
    entry.contents.fp32_contents.extend([1.0] * (MAX_TYPED + 1))
    assert read_tensors(response.outputs, [])["y"].shape == (MAX_TYPED + 1,)


def test_typed_values_that_do_not_fill_the_shape_are_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(np, "fromiter", None)
    request = oip.ModelInferRequest()
    entry = request.inputs.add(name="x", datatype="INT64", shape=[2])
    entry.contents.int64_contents.extend(range(100_000))
    with pytest.raises(ProtocolError, match=r"needs 2 values in int64_contents, found 100000"):
        read_score(request, 1)


def packed(field: str, count: int, lists: int = 1) -> bytes:
    """A request on the wire that has lists of numbers of one byte each."""
    tensor = oip.ModelInferRequest.DESCRIPTOR.fields_by_name["inputs"]
    contents = tensor.message_type.fields_by_name["contents"]
    data = bytes(count // lists)
    if field == "shape":
        inner = delimited(tensor.message_type.fields_by_name[field], data)
    else:
        inner = delimited(contents, delimited(contents.message_type.fields_by_name[field], data))
    return delimited(tensor, inner) * lists


def delimited(field: Any, data: bytes) -> bytes:
    """A field on the wire."""
    return bytes(_VarintBytes(field.number << 3 | 2) + _VarintBytes(len(data)) + data)


@pytest.mark.parametrize("field", ["shape", "bool_contents", "int_contents", "int64_contents"])
@pytest.mark.parametrize("lists", [1, 2])
def test_more_numbers_than_a_message_may_have_are_refused_unparsed(field: str, lists: int) -> None:
    parse = bounded(oip.ModelInferRequest)
    assert len(parse(packed(field, MAX_VARINTS, lists)).inputs) == lists
    with pytest.raises(ProtocolError, match=r"1048576 integers.*send tensors as raw contents"):
        parse(packed(field, MAX_VARINTS + 2, lists))


@pytest.mark.parametrize("lists", [1, 2, 3])
def test_a_message_takes_little_more_memory_than_its_bytes_once_parsed(lists: int) -> None:
    code = (
        "import re; from pantheon.transport import oip; from tests.unit import test_oip\n"
        f"data = test_oip.packed('int64_contents', {MAX_VARINTS}, {lists})\n"
        "def peak():\n"
        "    said = open('/proc/self/status').read()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', said)[1]) << 10\n"
        "before = peak(); kept = test_oip.bounded(oip.ModelInferRequest)(data)\n"
        "print(peak() - before - len(data))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=50, capture_output=True, text=True
    )
    assert int(run.stdout) < 32 << 20


def bad(change: str) -> Any:
    request = oip.ModelInferRequest()
    entry = request.inputs.add(name="x", datatype="INT8", shape=[2])
    if change == "mixed":
        entry.contents.int_contents.extend([1, 2])
        request.raw_input_contents.append(b"12")
    elif change == "beyond":
        entry.contents.int_contents.extend([1, 300])
    elif change == "short":
        request.raw_input_contents.append(b"1")
    elif change == "more raw":
        request.raw_input_contents.extend([b"12", b"12"])
    elif change == "half":
        entry.datatype = "FP16"
        entry.contents.fp32_contents.extend([1, 2])
    elif change == "bytes":
        entry.datatype = "BYTES"
    elif change == "negative":
        entry.shape[0] = -1
    elif change == "twice":
        request.inputs.add().CopyFrom(entry)
        request.raw_input_contents.extend([b"12", b"12"])
    return request


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("mixed", "typed contents beside raw"),
        ("beyond", "out of bounds|300"),
        ("short", "needs 2 bytes, found 1"),
        ("more raw", "2 raw contents for 1 tensors"),
        ("half", "raw contents only"),
        ("bytes", "BYTES.*not supported"),
        ("negative", "dimension beyond"),
        ("twice", "comes twice"),
    ],
)
def test_contents_that_cannot_be_are_named(change: str, says: str) -> None:
    request = bad(change)
    with pytest.raises(ProtocolError, match=says):
        read_tensors(request.inputs, request.raw_input_contents)


def test_the_transports_import_no_torch() -> None:
    code = (
        "import sys, pantheon.transport.zmq_connection, pantheon.transport.zmq_listener, "
        "pantheon.transport.grpc_connection, pantheon.transport.grpc_listener, "
        "pantheon.transport.inproc; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


def test_generated_stubs_live_in_the_same_process_in_either_order() -> None:
    modules = ("pantheon.transport.oip", "tritonclient.grpc")
    for first, second in (modules, modules[::-1]):
        code = f"import {first}, {second}"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
