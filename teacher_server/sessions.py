"""Who may ask what: checks of Hello and Score against what a server has. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pantheon.codec import schema_parts
from pantheon.errors import SchemaError
from pantheon.schema import DTYPES, KnowledgeSchema
from pantheon.wire.messages import PROTOCOL, Hello, Refused, Score, Welcome


def welcome(hello: Hello, models: Mapping[str, Welcome]) -> Welcome | Refused:
    """The answer to a Hello.

    Args:
        models: what each model would say to a student that asks for everything.
    """
    low, high = hello.protocol
    if not low <= PROTOCOL <= high:
        return Refused(
            None,
            "version",
            f"the student speaks protocol versions {low} to {high}, this teacher {PROTOCOL}; "
            "install matching versions of pantheon on both sides",
        )
    own = models.get(hello.model)
    if own is None and not hello.model and len(models) == 1:
        own = next(iter(models.values()))
    if own is None:
        return Refused(None, "model", _no_model(hello.model, sorted(models)))
    if hello.dataset is not None and own.dataset is not None and hello.dataset != own.dataset:
        return Refused(
            None,
            "dataset",
            f"the student's dataset has the fingerprint {hello.dataset!r}, the teacher's "
            f"{own.dataset!r}; give both the same samples in the same order, or the same "
            "dataset_fingerprint= where they prepare the same samples differently",
        )
    try:
        schema = own.schema if hello.fields is None else own.schema.select(hello.fields)
    except SchemaError as error:
        return Refused(None, "schema", str(error))
    return replace(own, schema=schema)


def _no_model(asked: str, names: list[str]) -> str:
    what = f"no model {asked!r} here" if asked else "no model was named"
    if names == [""]:
        return f"{what}; this server has one model without a name: leave it out of the address"
    return (
        f"{what}; this server has {', '.join(map(repr, names))}: put the name into the address, "
        "such as tcp://host:port/NAME"
    )


def check_score(score: Score, rows: int, own: Welcome, row_bytes: int) -> Refused | None:
    """Why a request can never be answered, or None.

    Args:
        rows: samples it asks for.
        own: what the student was told.
        row_bytes: least bytes of a sample's answer.
    """

    def refused(code: str, message: str) -> Refused:
        return Refused(score.request, code, message)

    if score.ids is not None and not own.accepts_ids:
        return refused("inputs", "this teacher has no dataset; send inputs instead of ids")
    if score.ids is None and not own.accepts_inputs:
        return refused("inputs", "this teacher answers ids only, not inputs")
    if rows < 1:
        return refused("inputs", "a request asks for no sample; expected at least one")
    if rows > own.limits.max_rows:
        return refused(
            "limits", f"{rows} rows in a request; at most {own.limits.max_rows} are answered"
        )
    if rows * row_bytes > own.limits.max_reply_bytes:
        most = own.limits.max_reply_bytes // row_bytes
        return refused(
            "limits",
            f"{rows} rows weigh {rows * row_bytes} bytes, more than a reply's "
            f"{own.limits.max_reply_bytes}; ask for at most {most} rows (request_rows=)",
        )
    return _check_range(score, own)


def _check_range(score: Score, own: Welcome) -> Refused | None:
    if score.ids is None or own.size is None:
        return None
    wrong = (score.ids < 0) | (score.ids >= own.size)
    if not wrong.any():
        return None
    return Refused(
        score.request,
        "range",
        f"sample id {int(score.ids[wrong][0])} is outside the teacher's dataset, whose ids are "
        f"0 to {own.size - 1}",
    )


def rows_of(score: Score) -> int:
    """Samples a request asks for; 0 for inputs whose first dimensions differ.

    Example:
        >>> import numpy as np
        >>> rows_of(Score(1, np.arange(3)))
        3
    """
    if score.ids is not None:
        return len(score.ids)
    counts = {raw.shape[0] if raw.shape else 0 for raw in score.inputs.values()}
    return counts.pop() if len(counts) == 1 else 0


def least_row_bytes(schema: KnowledgeSchema) -> int:
    """Bytes of a sample's coded parts; packed rows of ragged fields are not counted."""
    total = 0
    for part in schema_parts(schema):
        if part.per == "sample":
            size = DTYPES[part.dtype]
            for dim in part.shape:
                size *= dim
            total += size
    return max(1, total)
