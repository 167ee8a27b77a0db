"""Our messages inside those of the Open Inference Protocol.

Score and Scored are its tensors; what it has no words for (Hello, Welcome, Heartbeat, ...) travels
as JSON in a string parameter named ``pantheon``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pantheon.errors import ProtocolError
from pantheon.schema import KnowledgeSchema
from pantheon.transport import oip
from pantheon.transport.oip_tensors import MAX_TYPED, read_tensors, write_tensors
from pantheon.wire.fields import INT64
from pantheon.wire.framing import MAX_HEADER
from pantheon.wire.messages import Message, RawTensor, Score, Scored
from pantheon.wire.plain import describe, restore

SAMPLE_ID = "sample_id"
VIEW = "view"
INPUT = "input"
"""What a stock client calls a model's single positional input, whose name is empty for us."""

PARAMETER = "pantheon"
MAX_MESSAGE = (1 << 31) - (1 << 20)
"""Bytes of the largest payload; protobuf ends at 2 GiB."""


def part_names(schema: KnowledgeSchema) -> tuple[str, ...]:
    """What the coded parts of a schema are called, in order."""
    from pantheon.codec.parts import schema_parts

    return tuple(part.name for part in schema_parts(schema))


def write_request(message: Message, model: str) -> Any:
    """A student's message as a ``ModelInferRequest``."""
    request = oip.ModelInferRequest(model_name=model)
    if not isinstance(message, Score):
        request.parameters[PARAMETER].string_param = json.dumps(describe(message)[0])
        return request
    request.id = str(message.request)
    named = [(name, _int64(v)) for name, v in _numbers(message) if v is not None]
    if any(name in (SAMPLE_ID, VIEW) for name in message.inputs):
        raise ProtocolError(f"an input must not be called {SAMPLE_ID!r} or {VIEW!r}; rename it")
    named += message.inputs.items()
    write_tensors(named, request.inputs, request.raw_input_contents)
    return request


def read_request(request: Any) -> Message:
    """What `write_request` wrote, from an untrusted side; `ProtocolError` names what is off."""
    if PARAMETER in request.parameters:
        return _control(request)
    return read_score(request, _number(request.id))


def read_score(request: Any, number: int) -> Score:
    """The Score in a ``ModelInferRequest``, ours or a stock client's, as request `number`."""
    tensors = read_tensors(request.inputs, request.raw_input_contents, MAX_TYPED)
    ids = _ids(SAMPLE_ID, tensors.pop(SAMPLE_ID, None))
    views = _ids(VIEW, tensors.pop(VIEW, None))
    if (ids is None) == (not tensors):
        raise ProtocolError(f"a request must carry either {SAMPLE_ID!r} or inputs, one of both")
    if views is not None and (ids is None or len(ids) != len(views)):
        raise ProtocolError(f"{len(views)} views for {0 if ids is None else len(ids)} ids")
    return Score(number, ids, views, tensors)


def write_control(message: Message, model: str) -> Any:
    """A teacher's message that carries no tensors as a ``ModelStreamInferResponse``."""
    response = oip.ModelStreamInferResponse()
    response.infer_response.model_name = model
    response.infer_response.parameters[PARAMETER].string_param = json.dumps(describe(message)[0])
    return response


def write_scored(scored: Scored, model: str, names: Sequence[str]) -> Any:
    """The answer to a Score as a ``ModelInferResponse``."""
    response = oip.ModelInferResponse(model_name=model, id=str(scored.request))
    response.parameters["revision"].string_param = scored.revision
    response.parameters["rows"].int64_param = scored.rows
    if scored.digest is not None:
        response.parameters["digest"].string_param = f"{scored.digest:016x}"
    if len(names) != len(scored.parts):
        names = [f"part.{i}" for i in range(len(scored.parts))]
    named = zip(names, scored.parts, strict=True)
    write_tensors(named, response.outputs, response.raw_output_contents)
    return response


def read_response(response: Any) -> Message:
    """A Pantheon teacher's message out of a ``ModelStreamInferResponse``."""
    if response.error_message:
        raise ProtocolError(f"the server reports: {response.error_message:.500}")
    inner = response.infer_response
    if PARAMETER in inner.parameters:
        return _control(inner)
    tensors = read_tensors(inner.outputs, inner.raw_output_contents)
    revision, rows = inner.parameters["revision"], inner.parameters["rows"]
    if len(revision.string_param) > 1024 or rows.int64_param < 0:
        raise ProtocolError("a response has no valid revision and rows")
    return Scored(
        _number(inner.id),
        revision.string_param,
        rows.int64_param,
        tuple(tensors.values()),
        _digest(inner.parameters["digest"].string_param),
    )


def _control(message: Any) -> Message:
    text = message.parameters[PARAMETER].string_param
    if len(text) > MAX_HEADER:
        raise ProtocolError(f"a control message has {len(text)} characters, beyond {MAX_HEADER}")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a control message is not JSON: {error!s:.200}") from None
    if type(body) is not dict:
        raise ProtocolError(f"a control message must be an object, found {type(body).__name__}")
    return restore(body)


def _numbers(score: Score) -> tuple[tuple[str, NDArray[np.int64] | None], ...]:
    return (SAMPLE_ID, score.ids), (VIEW, score.views)


def _int64(values: NDArray[np.int64]) -> RawTensor:
    return RawTensor("int64", (len(values),), np.ascontiguousarray(values, "<i8").tobytes())


def _ids(name: str, tensor: RawTensor | None) -> NDArray[np.int64] | None:
    if tensor is None:
        return None
    if tensor.dtype != "int64" or len(tensor.shape) != 1:
        raise ProtocolError(
            f"{name!r} must be INT64 of shape [n], found {tensor.dtype} of {list(tensor.shape)}"
        )
    return np.frombuffer(tensor.data, "<i8") if tensor.shape[0] else np.empty(0, np.int64)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= INT64):
        raise ProtocolError(f"a request's id must be a number, found {text!r:.80}")
    return int(text)


def _digest(text: str) -> int | None:
    try:
        return int(text[:17], 16) & ((1 << 64) - 1) if text else None
    except ValueError:
        raise ProtocolError(f"a digest must be hexadecimal, found {text!r:.80}") from None
