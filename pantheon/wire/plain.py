"""Each message as plain values and payloads, and back from an untrusted side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pantheon.errors import ProtocolError, SchemaError
from pantheon.quote import quoted
from pantheon.schema import MAX_NAME, KnowledgeSchema
from pantheon.wire.fields import MAX_TEXT, UINT64, Fields, tensor_bytes
from pantheon.wire.messages import (
    Buffer,
    Cancel,
    Goodbye,
    Heartbeat,
    Hello,
    Inquiry,
    Limits,
    Message,
    RawTensor,
    Refused,
    Score,
    Scored,
    Status,
    Welcome,
)

MAX_FRAMES = 1024
"""Frames of the longest message."""


def describe(message: Message) -> tuple[dict[str, Any], list[Buffer]]:
    """A message as plain values (for msgpack or JSON) and its payloads, in order."""
    for kind, (cls, write, _) in _KINDS.items():
        if type(message) is cls:
            body, payloads = write(message)
            return {"kind": kind, **body}, payloads
    raise TypeError(f"not a message: {type(message).__name__}")


def restore(body: dict[str, Any], payloads: Sequence[Buffer] = ()) -> Message:
    """The message that `describe` took apart; `ProtocolError` when it cannot be one."""
    kind = body.get("kind")
    if type(kind) is not str or kind not in _KINDS:
        raise ProtocolError(f"unknown message {quoted(kind)}; expected one of {', '.join(_KINDS)}")
    try:
        return _KINDS[kind][2](Fields(kind, body), payloads)
    except SchemaError as error:
        raise ProtocolError(f"{kind}: {error}") from None


def _plain(text: str) -> str:
    """Text any receiver accepts: an exception's message may hold lone surrogates, or be endless."""
    return text[: MAX_TEXT // 2].encode("utf-8", "replace").decode()


def _int64(values: NDArray[np.int64]) -> Buffer:
    return np.ascontiguousarray(values, dtype="<i8").data.cast("B") if len(values) else b""


def _payload(tensor: RawTensor) -> Buffer:
    expected = tensor_bytes("tensor", tensor.dtype, list(tensor.shape))
    if memoryview(tensor.data).nbytes != expected:
        raise ProtocolError(
            f"a {tensor.dtype} tensor of shape {tensor.shape} needs {expected} bytes, "
            f"found {memoryview(tensor.data).nbytes}"
        )
    return tensor.data


def _ids(kind: str, key: str, frame: Buffer) -> NDArray[np.int64]:
    size = memoryview(frame).nbytes
    if size % 8:
        raise ProtocolError(f"{kind}: {key} are {size} bytes, which is no multiple of 8")
    return np.frombuffer(frame, dtype="<i8") if size else np.empty(0, np.int64)


def _tensor(kind: str, dtype: Any, shape: Any, frame: Buffer) -> RawTensor:
    expected, found = tensor_bytes(kind, dtype, shape), memoryview(frame).nbytes
    if expected != found:
        raise ProtocolError(
            f"{kind}: a {dtype} tensor of shape {tuple(shape)} needs {expected} bytes, "
            f"found {found}"
        )
    return RawTensor(dtype, tuple(shape), frame)


def _none_left(kind: str, expected: int, payloads: Sequence[Buffer]) -> None:
    if len(payloads) != expected:
        raise ProtocolError(f"{kind}: {len(payloads)} payload frames, the header says {expected}")


Body = tuple[dict[str, Any], list[Buffer]]


def _write_hello(m: Hello) -> Body:
    return {
        "session": m.session,
        "model": m.model,
        "rank": m.rank,
        "protocol": list(m.protocol),
        "dataset": m.dataset,
        "fields": None if m.fields is None else list(m.fields),
        "integrity": m.integrity,
    }, []


def _read_hello(f: Fields, payloads: Sequence[Buffer]) -> Hello:
    _none_left(f.kind, 0, payloads)
    protocol = f.integers("protocol")
    if len(protocol) != 2 or protocol[0] > protocol[1]:
        raise ProtocolError(f"hello: 'protocol' must be a range of two, found {protocol[:4]}")
    return Hello(
        session=f.text("session", 1024),
        model=f.text("model", 1024),
        rank=f.integer("rank"),
        protocol=(protocol[0], protocol[1]),
        dataset=f.maybe("dataset", lambda k: f.text(k, 1024)),
        fields=f.maybe("fields", f.texts),
        integrity=f.flag("integrity"),
    )


def _write_welcome(m: Welcome) -> Body:
    return {
        "model": m.model,
        "revision": m.revision,
        "schema": m.schema.to_wire(),
        "dataset": m.dataset,
        "size": m.size,
        "views": m.views,
        "accepts_ids": m.accepts_ids,
        "accepts_inputs": m.accepts_inputs,
        "version": m.version,
        "heartbeat": m.heartbeat,
        "limits": list(astuple(m.limits)),
        "instance": m.instance,
    }, []


def _read_welcome(f: Fields, payloads: Sequence[Buffer]) -> Welcome:
    _none_left(f.kind, 0, payloads)
    limits = f.integers("limits")
    if len(limits) != len(fields(Limits)) or 0 in limits:
        raise ProtocolError(f"welcome: 'limits' must be {len(fields(Limits))} numbers from 1")
    return Welcome(
        model=f.text("model", 1024),
        revision=f.text("revision", 1024),
        schema=KnowledgeSchema.from_wire(f.items("schema")),
        dataset=f.maybe("dataset", lambda k: f.text(k, 1024)),
        size=f.maybe("size", f.integer),
        views=f.integer("views"),
        accepts_ids=f.flag("accepts_ids"),
        accepts_inputs=f.flag("accepts_inputs"),
        version=f.integer("version"),
        heartbeat=f.seconds("heartbeat"),
        limits=Limits(*limits),
        instance=f.maybe("instance", lambda k: f.text(k, 64)) or "",
    )


def _write_score(m: Score) -> Body:
    payloads = [_int64(v) for v in (m.ids, m.views) if v is not None]
    payloads += [_payload(t) for t in m.inputs.values()]
    return {
        "request": m.request,
        "ids": m.ids is not None,
        "views": m.views is not None,
        "inputs": [[name, t.dtype, list(t.shape)] for name, t in m.inputs.items()],
    }, payloads


def _read_score(f: Fields, payloads: Sequence[Buffer]) -> Score:
    has_ids, has_views, inputs = f.flag("ids"), f.flag("views"), f.items("inputs", MAX_FRAMES)
    _none_left(f.kind, has_ids + has_views + len(inputs), payloads)
    rest = iter(payloads)
    ids = _ids(f.kind, "ids", next(rest)) if has_ids else None
    views = _ids(f.kind, "views", next(rest)) if has_views else None
    if views is not None and (ids is None or len(ids) != len(views)):
        raise ProtocolError(f"score: {len(views)} views for {0 if ids is None else len(ids)} ids")
    tensors: dict[str, RawTensor] = {}
    for item, frame in zip(inputs, rest, strict=True):
        if type(item) is not list or len(item) != 3 or type(item[0]) is not str:
            raise ProtocolError(
                f"score: an input must be name, dtype and shape, found {quoted(item)}"
            )
        if len(item[0]) > MAX_NAME or item[0] in tensors:
            raise ProtocolError(f"score: an input's name is too long or twice: {item[0]!r:.80}")
        tensors[item[0]] = _tensor(f.kind, item[1], item[2], frame)
    if (ids is None) == (not tensors):
        raise ProtocolError("score: it must carry either ids or inputs")
    return Score(f.integer("request"), ids, views, tensors)


def _write_scored(m: Scored) -> Body:
    return {
        "request": m.request,
        "revision": m.revision,
        "rows": m.rows,
        "parts": [[p.dtype, list(p.shape)] for p in m.parts],
        "digest": m.digest,
    }, [_payload(p) for p in m.parts]


def _read_scored(f: Fields, payloads: Sequence[Buffer]) -> Scored:
    described = f.items("parts", MAX_FRAMES)
    _none_left(f.kind, len(described), payloads)
    parts = []
    for item, frame in zip(described, payloads, strict=True):
        if type(item) is not list or len(item) != 2:
            raise ProtocolError(f"scored: a part must be dtype and shape, found {quoted(item)}")
        parts.append(_tensor(f.kind, item[0], item[1], frame))
    digest = f.maybe("digest", lambda k: f.integer(k, 0, UINT64))
    return Scored(
        f.integer("request"), f.text("revision", 1024), f.integer("rows"), tuple(parts), digest
    )


def _write_refused(m: Refused) -> Body:
    return {"request": m.request, "code": m.code, "message": _plain(m.message)}, []


def _read_refused(f: Fields, payloads: Sequence[Buffer]) -> Refused:
    _none_left(f.kind, 0, payloads)
    return Refused(f.maybe("request", f.integer), f.text("code", 64), f.text("message", MAX_TEXT))


def _write_requests(m: Heartbeat | Cancel) -> Body:
    return {"requests": list(m.requests)}, []


def _read_heartbeat(f: Fields, payloads: Sequence[Buffer]) -> Heartbeat:
    _none_left(f.kind, 0, payloads)
    return Heartbeat(f.integers("requests"))


def _read_cancel(f: Fields, payloads: Sequence[Buffer]) -> Cancel:
    _none_left(f.kind, 0, payloads)
    return Cancel(f.integers("requests"))


def _write_goodbye(m: Goodbye) -> Body:
    return {"reason": _plain(m.reason)}, []


def _read_goodbye(f: Fields, payloads: Sequence[Buffer]) -> Goodbye:
    _none_left(f.kind, 0, payloads)
    return Goodbye(f.text("reason", MAX_TEXT))


COUNTS = (
    *("requests", "rows", "bytes", "refused", "cancelled"),
    *("sessions", "queued", "scoring", "unsent", "stalled"),
)
"""The numbers of a `Status`."""

MAX_MODELS = 256


def _write_status(m: Status) -> Body:
    return {
        "version": m.version,
        "uptime": m.uptime,
        "draining": m.draining,
        "models": [list(model) for model in m.models[:MAX_MODELS]],
        **{name: getattr(m, name) for name in COUNTS},
    }, []


def _read_status(f: Fields, payloads: Sequence[Buffer]) -> Status:
    _none_left(f.kind, 0, payloads)
    models = f.items("models", MAX_MODELS)
    for model in models:
        texts = type(model) is list and [t for t in model if type(t) is str and len(t) <= 1024]
        if not texts or len(texts) != 2 or texts != model:
            raise ProtocolError(f"status: a model must be name and revision, found {quoted(model)}")
    return Status(
        version=f.text("version", 64),
        uptime=f.age("uptime"),
        draining=f.flag("draining"),
        models=tuple((name, revision) for name, revision in models),
        **{name: f.integer(name) for name in COUNTS},
    )


def _read_inquiry(f: Fields, payloads: Sequence[Buffer]) -> Inquiry:
    _none_left(f.kind, 0, payloads)
    return Inquiry()


_Kind = tuple[type[Any], Callable[[Any], Body], Callable[[Fields, Sequence[Buffer]], Message]]
_KINDS: dict[str, _Kind] = {
    "scored": (Scored, _write_scored, _read_scored),
    "score": (Score, _write_score, _read_score),
    "heartbeat": (Heartbeat, _write_requests, _read_heartbeat),
    "hello": (Hello, _write_hello, _read_hello),
    "welcome": (Welcome, _write_welcome, _read_welcome),
    "refused": (Refused, _write_refused, _read_refused),
    "cancel": (Cancel, _write_requests, _read_cancel),
    "goodbye": (Goodbye, _write_goodbye, _read_goodbye),
    "inquiry": (Inquiry, lambda _: ({}, []), _read_inquiry),
    "status": (Status, _write_status, _read_status),
}
