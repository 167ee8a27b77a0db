"""Payloads of the Open Inference Protocol: our messages in it, and what stock peers send."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from pantheon.errors import ProtocolError, SchemaError
from pantheon.transport import oip
from pantheon.transport.grpc_dialects import dialect_of
from pantheon.transport.grpc_stock import StockModel
from pantheon.transport.oip_fields import bounded
from pantheon.transport.oip_messages import (
    read_response,
    write_control,
    write_request,
    write_scored,
)
from pantheon.transport.oip_tensors import DATATYPES, read_tensors
from pantheon.wire.messages import Score, Scored
from tests.fuzz import tree
from tests.fuzz.octets import dig, scramble
from tests.fuzz.target import Target
from tests.fuzz.wire import MESSAGES

_NAMES = ("", "x", "sample_id", "view", "input", "n" * 257, *DATATYPES.values(), "BYTES")
_NUMBERS = (-1, 0, 1, 2, 3, 255, 300, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))


def _request(request: Any) -> None:
    dialect = dialect_of(request)
    try:
        dialect.read(request)
    except ProtocolError as error:
        dialect.blame(request, error)
        raise


def _answer(response: Any) -> None:
    read_tensors(response.outputs, response.raw_output_contents)


_KINDS: tuple[tuple[Any, Callable[[Any], object]], ...] = (
    (oip.ModelInferRequest, _request),
    (oip.ModelStreamInferResponse, read_response),
    (oip.ModelInferResponse, _answer),
    (oip.ModelMetadataResponse, StockModel.read),
)


def seeds() -> list[bytes]:
    """Every message of ours, a request with typed contents, and a stock server's answers."""
    found: list[tuple[int, Any]] = []
    for message in MESSAGES:
        if isinstance(message, Scored):
            answer = write_scored(message, "m", [])
            found += [(2, answer), (1, oip.ModelStreamInferResponse(infer_response=answer))]
        else:
            found += [(0, write_request(message, "m"))]
        if not isinstance(message, Score | Scored):
            found += [(1, write_control(message, "m"))]
    found += [(0, _typed())]
    metadata = oip.ModelMetadataResponse(name="m", inputs=[{"name": "x", "datatype": "FP32"}])
    metadata.outputs.add(name="y", datatype="FP16", shape=[-1, 10])
    found += [(3, metadata)]
    return [bytes([kind]) + message.SerializeToString() for kind, message in found]


def _typed() -> Any:
    request = oip.ModelInferRequest(model_name="m", id="a")
    for field, datatype, value in (
        ("bool_contents", "BOOL", True),
        ("int_contents", "INT8", -1),
        ("int64_contents", "INT64", 1 << 40),
        ("uint_contents", "UINT8", 255),
        ("fp32_contents", "FP32", 0.5),
        ("fp64_contents", "FP64", 0.5),
    ):
        entry = request.inputs.add(name=field, datatype=datatype, shape=[2])
        getattr(entry.contents, field).extend([value, value])
    return request


def read(data: bytes) -> None:
    """Parse a message as gRPC does, then read it as the project does."""
    kind, reads = _KINDS[data[0] % len(_KINDS)] if data else _KINDS[0]
    try:
        message = bounded(kind)(data[1:])
    except DecodeError:
        return
    reads(message)


def mutate(data: bytes, rng: Random) -> bytes:
    """Change one field of the message, or its bytes."""
    kind = _KINDS[data[0] % len(_KINDS)][0] if data else _KINDS[0][0]
    try:
        message = kind.FromString(data[1:])
    except DecodeError:
        return scramble(data, rng)
    if rng.random() < 0.1:
        return data[:1] + scramble(data[1:], rng)
    _change(message, rng)
    return data[:1] + bytes(message.SerializeToString())


def _change(message: Any, rng: Random) -> None:
    """Change a field that is set, or sometimes any."""
    fields = [f for f, _ in message.ListFields()]
    if not fields or rng.random() < 0.2:
        fields = list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _change_map(value, rng)
    elif field.is_repeated:
        _change_repeated(field, value, rng)
    elif field.message_type is not None:
        _change(value, rng)
    else:
        setattr(message, field.name, _scalar(field, value, rng))


def _change_map(value: Any, rng: Random) -> None:
    name = rng.choice([*value, "pantheon", "rows", "revision", "digest"])
    if rng.random() < 0.1:
        value.pop(name, None)
    elif name != "pantheon" or not value[name].string_param:
        _change(value[name], rng)
    else:
        text = _change_json(value[name].string_param, rng)
        value[name].string_param = text.encode(errors="replace").decode()


def _change_json(text: str, rng: Random) -> str:
    try:
        if rng.random() < 0.1:
            return dig(text.encode(), rng).decode(errors="replace")
        return json.dumps(tree.change(json.loads(text), rng))
    except (ValueError, RecursionError):
        return scramble(text.encode(), rng).decode(errors="replace")


def _change_repeated(field: Any, value: Any, rng: Random) -> None:
    at = rng.randrange(len(value)) if len(value) else 0
    how = rng.random()
    if field.message_type is not None:
        if how < 0.1 or not len(value):
            value.add()
        elif how < 0.3:
            value.add().CopyFrom(value[at])
        elif how < 0.4:
            del value[at]
        else:
            _change(value[at], rng)
    elif how < 0.4 or not len(value):
        value.append(_scalar(field, type(value[at])() if len(value) else None, rng))
    elif how < 0.5:
        del value[at]
    else:
        value[at] = _scalar(field, value[at], rng)


def _scalar(field: Any, value: Any, rng: Random) -> Any:
    match field.cpp_type:
        case field.CPPTYPE_STRING if field.type == field.TYPE_BYTES:
            return scramble(value or b"", rng)
        case field.CPPTYPE_STRING:
            return rng.choice((*_NAMES, str(rng.choice(_NUMBERS))))
        case field.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case field.CPPTYPE_FLOAT | field.CPPTYPE_DOUBLE:
            return rng.choice((0.0, 1e300, float("nan"), float("-inf")))
    bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
    number = int(rng.choice(_NUMBERS)) % (1 << bits)
    signed = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
    return number - (1 << bits) if signed and number >> (bits - 1) else number


TARGET = Target(seeds, mutate, read, (ProtocolError, SchemaError))
