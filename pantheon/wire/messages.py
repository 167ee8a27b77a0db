"""What students and teachers say to each other: dataclasses and their frames, without I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pantheon.schema import KnowledgeSchema

PROTOCOL = 1
"""The protocol version spoken here; Hello carries a range."""

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as bytes: little-endian, C order, without a framework.

    Args:
        dtype: a name from `pantheon.schema.DTYPES`.
        shape: dimensions.
        data: exactly ``prod(shape) * itemsize`` bytes; memory may be read-only.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Buffer


@dataclass(frozen=True, slots=True)
class Hello:
    """A student introduces itself and says what it expects.

    Args:
        session: name of the student's session, for logs.
        model: which of the server's models; empty for its only one.
        rank: the student's data-parallel rank.
        protocol: lowest and highest protocol version spoken.
        dataset: fingerprint of the student's dataset, None to leave it unchecked.
        fields: names of the fields wanted, None for all.
        integrity: ask for a digest with every Scored.
    """

    session: str
    model: str = ""
    rank: int = 0
    protocol: tuple[int, int] = (PROTOCOL, PROTOCOL)
    dataset: str | None = None
    fields: tuple[str, ...] | None = None
    integrity: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one server, in rows, bytes and requests."""

    max_rows: int = 1 << 16
    max_request_bytes: int = 1 << 30
    max_reply_bytes: int = 1 << 31
    max_in_flight: int = 64


@dataclass(frozen=True, slots=True)
class Welcome:
    """A teacher answers Hello.

    Args:
        model: the model that will answer.
        revision: fingerprint of weights, preprocessing and dtype; empty when it is not known.
        schema: the fields that will be sent, already narrowed to those asked for.
        dataset: fingerprint of the teacher's dataset, None when it has none.
        size: number of samples ids can name, None when it has no dataset.
        views: how many views the dataset has, 0 for none.
        accepts_ids, accepts_inputs: what a Score may carry.
        heartbeat: seconds between heartbeats.
        instance: names this run of the server, another after every start; empty: it is not told.
    """

    model: str
    revision: str
    schema: KnowledgeSchema
    dataset: str | None = None
    size: int | None = None
    views: int = 0
    accepts_ids: bool = True
    accepts_inputs: bool = True
    version: int = PROTOCOL
    heartbeat: float = 1.0
    limits: Limits = field(default_factory=Limits)
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """A request for the knowledge of some samples.

    Args:
        request: number chosen by the student, unique in its session.
        ids: int64 ``[n]``, or None when inputs are sent instead.
        views: int64 ``[n]``, or None for view 0.
        inputs: tensors by name, first dimension n; empty when ids are sent. The name ``""`` stands
            for a model's single positional input.
    """

    request: int
    ids: NDArray[np.int64] | None = None
    views: NDArray[np.int64] | None = None
    inputs: dict[str, RawTensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to Score: coded parts of all fields, in the order of the schema's parts.

    Args:
        request: the request answered.
        revision: the teacher's revision when it answered.
        rows: number of samples.
        parts: coded tensors, see `pantheon.codec.field_parts`.
        digest: xxh3_64 over the payloads in order, or None where the transport authenticates.
    """

    request: int
    revision: str
    rows: int
    parts: tuple[RawTensor, ...]
    digest: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A Hello (request None) or Score was not answered; `code` says why.

    Codes: ``version``, ``model``, ``schema``, ``dataset``, ``revision`` (mismatches, never
    retried); ``hello`` (say Hello first), ``draining`` and ``busy`` (ask elsewhere or later);
    ``range``, ``inputs``, ``limits`` (the request can never be answered); ``error`` (the model
    raised), ``finite`` (NaN or infinity), ``wrong`` (the model returned what the schema does not
    say); ``protocol`` (bytes that were no message, answered by the transport itself).
    """

    request: int | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The teacher still works on these requests."""

    requests: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cancel:
    """The student no longer wants these requests."""

    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender leaves and says why."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Somebody asks how a teacher is doing; answered with `Status`, with and without a Hello."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a server is doing: totals since it was started, and how it stands now.

    Nothing in it is about one student.

    Args:
        version: of the package that serves.
        uptime: seconds since the start.
        draining: it is about to stop and takes no new work.
        models: names and revisions.
        requests, rows, bytes: answered, and the payload bytes of the answers.
        refused, cancelled: requests and Hellos refused; requests that nobody waited for any more.
        sessions: students connected now.
        queued, scoring: requests that wait, and that are being scored.
        unsent: bytes of replies that students have not taken yet.
        stalled: models that nothing can answer, as all their workers die again and again, or
            have died for good.
    """

    version: str
    uptime: float
    draining: bool
    models: tuple[tuple[str, str], ...]
    requests: int = 0
    rows: int = 0
    bytes: int = 0
    refused: int = 0
    cancelled: int = 0
    sessions: int = 0
    queued: int = 0
    scoring: int = 0
    unsent: int = 0
    stalled: int = 0


Message = (
    Hello | Welcome | Score | Scored | Refused | Heartbeat | Cancel | Goodbye | Inquiry | Status
)
