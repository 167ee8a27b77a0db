"""From answers to batches: decoded once a request, cut and joined only where needed. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pantheon.codec.base import SchemaCodec
from pantheon.knowledge import Value, concat_values, slice_value
from pantheon.wire.buffers import from_raw
from pantheon.wire.messages import RawTensor
from student_client.plan import Answer


@dataclass(slots=True)
class Piece:
    """One teacher's answer to one request.

    Args:
        start, stop: the local rows of the request.
        rows: which of them are answered, sorted positions from 0; None: all.
        codec: the teacher's schema, made ready.
        parts: coded tensors, let go of once they are decoded; empty when no row was asked for.
    """

    start: int
    stop: int
    rows: NDArray[np.int64] | None
    codec: SchemaCodec
    parts: tuple[RawTensor, ...]
    _values: dict[str, Value] | None = field(default=None, repr=False)

    @property
    def values(self) -> Mapping[str, Value]:
        """Decoded fields of the rows answered; none when no row was asked for."""
        if self._values is None:
            parts = self.parts
            self._values = self.codec.decode([from_raw(p) for p in parts]) if parts else {}
            self.parts = ()
        return self._values

    def cut(self, start: int, stop: int) -> Answer:
        """The fields of local rows ``[start, stop)``; positions count from `start`."""
        if self.rows is None:
            a, b = start - self.start, stop - self.start
            return {f: slice_value(v, a, b) for f, v in self.values.items()}, None
        a, b = map(int, np.searchsorted(self.rows, [start - self.start, stop - self.start]))
        values = {f: slice_value(v, a, b) for f, v in self.values.items()}
        return values, self.rows[a:b] - (start - self.start)


def collect(pieces: Sequence[Piece], start: int, stop: int) -> Answer:
    """One teacher's fields for local rows ``[start, stop)``, from the pieces that cover them.

    A single piece of just these rows is handed on as it is: nothing is cut or copied.
    """
    first = pieces[0]
    if len(pieces) == 1:
        whole = first.start == start and first.stop == stop
        return (first.values, first.rows) if whole else first.cut(start, stop)
    begins = [max(start, p.start) for p in pieces]
    cuts = [p.cut(a, min(stop, p.stop)) for p, a in zip(pieces, begins, strict=True)]
    # A teacher that is gone, or that was asked for none of a piece's rows, has no fields there.
    filled = [values for values, rows in cuts if values and (rows is None or len(rows))]
    fields = {f: concat_values([v[f] for v in filled]) for f in (filled[0] if filled else ())}
    if all(rows is None for _, rows in cuts):
        return fields, None
    shifted = [
        (np.arange(min(stop, p.stop) - a) if rows is None else rows) + (a - start)
        for p, (_, rows), a in zip(pieces, cuts, begins, strict=True)
    ]
    return fields, np.concatenate(shifted)


def masks(real: NDArray[np.bool_] | None, batch: int, rows: int) -> Sequence[Tensor | None]:
    """For each batch which rows are real, or None where all are.

    >>> masks(np.array([True, True, True, False]), 2, 4)
    [None, tensor([ True, False])]
    """
    if real is None:
        return [None] * -(-rows // batch)
    cut = [torch.from_numpy(real[a : a + batch]) for a in range(0, rows, batch)]
    return [None if bool(m.all()) else m for m in cut]
