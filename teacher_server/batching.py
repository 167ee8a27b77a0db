"""Requests of several students answered by one forward, and errors turned into refusals."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pantheon.codec import PartSpec, schema_parts
from pantheon.errors import (
    CodecError,
    DatasetError,
    IdOutOfRange,
    ModelError,
    NotFiniteError,
    PantheonError,
    SchemaError,
)
from pantheon.scoring.scorer import Scorer
from pantheon.wire.buffers import digest, from_raw, to_raw
from pantheon.wire.messages import Refused, Scored
from teacher_server import trace
from teacher_server.abandoning import Abandoned
from teacher_server.jobs import Job

logger = logging.getLogger(__name__)

ELSEWHERE = "the teacher's log has the rest"
"""Where somebody who may see it finds what the model or the dataset said."""


def answer(scorer: Scorer, jobs: Sequence[Job], max_bytes: int) -> list[Scored | Refused]:
    """Answer requests of one kind, with one call of the scorer where they are several.

    Args:
        max_bytes: a reply larger than this is refused.

    Returns:
        An answer for each request. An error is raised never: it becomes a `Refused`, of the
        requests it belongs to alone. A panic of a library in Rust is one, though no `Exception`.
    """
    try:
        parts = _score(scorer, jobs)
        return [
            _scored(scorer, job, own, max_bytes)
            for job, own in zip(jobs, _split(scorer, jobs, parts), strict=True)
        ]
    except Abandoned:
        raise
    except BaseException as error:  # noqa: BLE001  # without an answer its students wait for ever
        if len(jobs) > 1:
            return [reply for job in jobs for reply in answer(scorer, [job], max_bytes)]
        return [_refused(jobs[0], error)]


def _refused(job: Job, error: BaseException) -> Refused:
    if isinstance(error, PantheonError):
        return refusal(job, error)
    logger.error("scoring failed", exc_info=error, extra=trace.together([job]))
    message = f"the teacher failed: {type(error).__name__}; {ELSEWHERE}"
    return Refused(job.score.request, "error", message)


def _score(scorer: Scorer, jobs: Sequence[Job]) -> list[Tensor]:
    first = jobs[0]
    fields = first.session.fields
    if first.score.ids is None:
        inputs = {name: from_raw(raw) for name, raw in first.score.inputs.items()}
        return scorer.score_inputs(inputs, fields)
    if len(jobs) == 1:
        return scorer.score(first.score.ids, first.score.views, fields)
    return scorer.score(
        _joined([job.score.ids for job in jobs]),
        None if first.score.views is None else _joined([job.score.views for job in jobs]),
        fields,
    )


def _joined(arrays: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64]:
    return np.concatenate([a for a in arrays if a is not None])


def _split(scorer: Scorer, jobs: Sequence[Job], parts: list[Tensor]) -> list[list[Tensor]]:
    """The parts of each request, as views."""
    if len(jobs) == 1:
        return [parts]
    specs = schema_parts(scorer.select(jobs[0].session.fields))
    return split_parts(specs, parts, [job.rows for job in jobs])


def split_parts(
    specs: Sequence[PartSpec], parts: Sequence[Tensor], rows: Sequence[int]
) -> list[list[Tensor]]:
    """Cut coded parts into those of consecutive groups of samples, as views.

    Args:
        specs: what the parts are; packed rows are cut by the lengths that come before them.
        rows: samples of each group.

    Example:
        >>> import torch
        >>> specs = (PartSpec("x.lengths", "int64", ()), PartSpec("x", "int64", (), "row"))
        >>> parts = [torch.tensor([2, 1]), torch.tensor([5, 6, 7])]
        >>> [p[1].tolist() for p in split_parts(specs, parts, [1, 1])]
        [[5, 6], [7]]
    """
    ends = np.cumsum([0, *rows])
    cuts = ends
    groups: list[list[Tensor]] = [[] for _ in rows]
    for i, (spec, part) in enumerate(zip(specs, parts, strict=True)):
        if spec.per == "sample":
            cuts = ends
            if i + 1 < len(specs) and specs[i + 1].per == "row":
                packed = np.concatenate([[0], np.cumsum(part.numpy())])
                row_cuts = packed[ends]
        else:
            cuts = row_cuts
        for group, start, stop in zip(groups, cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            group.append(part[start:stop])
    return groups


def _scored(scorer: Scorer, job: Job, parts: list[Tensor], max_bytes: int) -> Scored | Refused:
    raws = tuple(to_raw(part) for part in parts)
    nbytes = sum(part.nbytes for part in parts)
    if nbytes > max_bytes:
        message = (
            f"{job.rows} samples weigh {nbytes} bytes, this server sends at most {max_bytes} in a "
            "reply; ask for fewer rows (request_rows=)"
        )
        return Refused(job.score.request, "limits", message)
    checksum = digest(raw.data for raw in raws) if job.session.integrity else None
    return Scored(job.score.request, scorer.revision, job.rows, raws, checksum)


def refusal(job: Job, error: PantheonError) -> Refused:
    """What a student is told about an error: what went wrong, never where in our code or on disk.

    What a model, a dataset or a library said in its own words goes to the log, and is told too
    where it is one short line that names no path.
    """
    said = str(error)
    if (cause := error.__cause__) is not None and not _is_harmless(str(cause)):
        logger.warning("%s", said, exc_info=error, extra=trace.together([job]))
        about, found, _ = said.rpartition(str(cause))
        own = about.rstrip(": ") if found and str(cause) else type(cause).__name__
        said = f"{own}; {ELSEWHERE}"
    return Refused(job.score.request, _code(job, error), said)


def _is_harmless(text: str) -> bool:
    return len(text) <= 200 and text.isprintable() and not set(text) & set("/\\")


def _code(job: Job, error: PantheonError) -> str:
    """The code of an error; see `pantheon.wire.messages.Refused`."""
    match error:
        case IdOutOfRange():
            return "range"
        case NotFiniteError():
            return "finite"
        case ModelError() if error.__cause__ is not None:
            return "error"
        case ModelError() | CodecError():
            return "wrong"
        case DatasetError() | SchemaError():
            return "error" if error.__cause__ is not None else "inputs"
    return "error"
