"""What a teacher is asked: ids, or the student's own inputs, for the rows wanted of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pantheon.errors import DatasetError
from pantheon.sampling.itinerary import Stretch
from pantheon.sampling.reading import Reader
from pantheon.schema import KnowledgeSchema
from pantheon.store.arranged import taken
from pantheon.wire.buffers import from_raw, to_raw
from pantheon.wire.messages import RawTensor, Score
from student_client.plan import Wanted


@dataclass(frozen=True, slots=True)
class Held:
    """Some of a teacher's answer to a request.

    Args:
        rows: positions among the ids wanted, sorted.
        parts: coded tensors of these.
    """

    rows: NDArray[np.int64]
    parts: Sequence[Tensor]


@dataclass(slots=True)
class Request:
    """Some local rows of an epoch, asked of every teacher at once.

    Args:
        rows: their ids.
        wanted: for teachers that are not asked for all rows, which ones.
        views: int64 ``[n]``, or None for view 0.
        held: for teachers some of whose answer is known already, that part of it.
    """

    rows: Stretch
    wanted: Mapping[str, Wanted]
    views: NDArray[np.int64] | None
    held: Mapping[str, Held] = field(default_factory=dict)

    def ids_wanted(self, teacher: str) -> NDArray[np.int64]:
        """The ids one teacher has to answer; may be empty."""
        wanted = self.wanted.get(teacher)
        return self.rows.ids if wanted is None else self.rows.ids[wanted]

    def ids_for(self, teacher: str) -> NDArray[np.int64]:
        """The ids one teacher is asked for: those wanted that are not known already."""
        ids, held = self.ids_wanted(teacher), self.held.get(teacher)
        return ids if held is None else np.delete(ids, held.rows)

    def holding(self, teacher: str, held: Held) -> Request:
        """The same request, of which some of a teacher's answer is known."""
        return replace(self, held={**self.held, teacher: held})

    def completed(
        self, teacher: str, schema: KnowledgeSchema, parts: tuple[RawTensor, ...]
    ) -> tuple[RawTensor, ...]:
        """A teacher's answer together with what was known already, in the order wanted."""
        held = self.held.get(teacher)
        if held is None:
            return parts
        asked = np.delete(np.arange(len(self.ids_wanted(teacher))), held.rows)
        order = np.argsort(np.concatenate((held.rows, asked)))
        whole = taken(schema, [held.parts, [from_raw(p) for p in parts]], order)
        return tuple(map(to_raw, whole))

    def score(self, number: int, teacher: str, reader: Reader | None) -> Score:
        """The message for one teacher.

        Args:
            number: the request's number on the wire.
            reader: reads the student's inputs, for a teacher that has no dataset of its own.
        """
        ids = self.ids_for(teacher)
        views = None if self.views is None else self.views[: len(ids)]
        if reader is None:
            return Score(number, ids, views)
        return Score(number, inputs=raw_inputs(reader.batch(ids, views)))


def raw_inputs(inputs: Any) -> dict[str, RawTensor]:
    """A batch of inputs as named raw tensors; a single tensor is named ``""``.

    Raises:
        DatasetError: inputs that are no tensor and no dict of tensors.

    Example:
        >>> import torch
        >>> {k: v.shape for k, v in raw_inputs({"x": torch.zeros(2, 3)}).items()}
        {'x': (2, 3)}
    """
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    wrong = {k: type(v).__name__ for k, v in named.items() if not isinstance(v, Tensor)}
    if wrong or not named:
        raise DatasetError(
            f"inputs that are sent to a teacher must be a tensor or a dict of tensors, found "
            f"{wrong or 'none'}; convert them in the dataset or in collate_fn"
        )
    return {name: to_raw(tensor) for name, tensor in named.items()}


def input_bytes(reader: Reader, id: int) -> int:
    """Bytes of one sample's inputs as they would be sent."""
    raws = raw_inputs(reader.batch(np.array([id], np.int64), None))
    return sum(memoryview(r.data).nbytes for r in raws.values())
