"""What a merge is, and what all merges ask of the values they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from pantheon.errors import MergeError
from pantheon.knowledge import Value, value_rows
from pantheon.ragged import Ragged, Rows
from pantheon.schema import FieldSpec
from pantheon.wire.buffers import TORCH_DTYPES

Positions = Mapping[str, Tensor | None]
"""Per teacher, int64 positions of the rows it answered, ascending; None for all."""


class Merge(ABC):
    """One value out of several teachers' values for a field.

    Half precision is merged in float32, float64 in float64. Teachers are taken in the order of the
    mappings, so that a merge gives the same bits every time.
    """

    name: str
    """What to call it in messages and in ``describe()``."""

    @abstractmethod
    def spec(self, field: str, specs: Mapping[str, FieldSpec]) -> FieldSpec:
        """The merged field's specification, before any value is there.

        Args:
            field: its name.
            specs: the field's specification at each teacher.

        Raises:
            MergeError: specifications that cannot be merged this way; names field and teachers.
        """

    @abstractmethod
    def __call__(self, field: str, values: Mapping[str, Value], rows: Positions, n: int) -> Value:
        """The merged value of n samples.

        Args:
            field: its name.
            values: each teacher's value.
            rows: which of the n samples each teacher answered.
            n: samples.

        Raises:
            MergeError: values that cannot be merged this way; names field and teachers.
        """

    def without(self, field: str, absent: Collection[str]) -> Merge:
        """The same merge of the other teachers, for rows that some did not answer.

        Raises:
            MergeError: it has a meaning only for all of them.
        """
        raise self.fail(
            field,
            "it cannot do without any of its teachers; a quorum is of mean, weighted, mixture",
        )

    def needed(self, teachers: Collection[str], absent: Collection[str]) -> bool:
        """Whether a field of some teachers cannot be had while some teachers are absent."""
        return any(t in absent for t in teachers)

    def mask(self, teachers: Collection[str], rows: Positions, n: int) -> Tensor | None:
        """bool ``[n]``, the rows that have a value; None where all have."""
        return None

    def __repr__(self) -> str:
        return f"<merge {self.name}>"

    def fail(self, field: str, why: str) -> MergeError:
        """The error that says why a field cannot be merged this way."""
        return MergeError(f"field {field!r} cannot be merged by {self.name}: {why}")

    def require_all(self, field: str, values: Mapping[str, Value], rows: Positions, n: int) -> None:
        """Raise unless every teacher answered all n samples."""
        for teacher, value in values.items():
            answered = rows.get(teacher)
            count = value_rows(value)
            if count != n or (answered is not None and len(answered) != n):
                raise self.fail(
                    field,
                    f"teacher {teacher!r} answered {count} of {n} samples; expected all of them "
                    "(merge teachers that answer some samples each by Route)",
                )

    def require_alike(self, field: str, specs: Mapping[str, FieldSpec], *keys: str) -> FieldSpec:
        """The first teacher's specification, which all others equal in `keys`."""
        if not specs:
            raise self.fail(field, "no teacher serves it")
        (first, spec), *others = specs.items()
        for teacher, other in others:
            for key in keys:
                ours, theirs = getattr(spec, key), getattr(other, key)
                if ours != theirs:
                    raise self.fail(
                        field,
                        f"its {key} is {ours!r} at teacher {first!r} and {theirs!r} at "
                        f"{teacher!r}; serve both alike",
                    )
        return spec

    def require_weights(
        self, field: str, weights: Mapping[str, float], teachers: Mapping[str, object]
    ) -> None:
        """Raise unless there is one weight for each teacher."""
        odd = sorted(weights.keys() ^ teachers.keys())
        if odd:
            known = ", ".join(teachers)
            what = "has no weight" if odd[0] in teachers else "has a weight but does not serve it"
            raise self.fail(field, f"teacher {odd[0]!r} {what}; its teachers are {known}")


def is_topk(spec: FieldSpec) -> bool:
    """Whether values of a field are top-k."""
    return spec.codec.startswith(("topk", "mixture"))


def common_dtype(dtypes: list[str]) -> str | None:
    """The dtype to merge in: float64 or float32 for floats, the integers' own, None for a mix.

    >>> common_dtype(["float16", "float32"]), common_dtype(["int64", "float32"])
    ('float32', None)
    """
    floats = [d for d in dtypes if TORCH_DTYPES[d].is_floating_point]
    if len(floats) == len(dtypes):
        return "float64" if "float64" in dtypes else "float32"
    return dtypes[0] if len(set(dtypes)) == 1 else None


def unpack(
    merge: Merge, field: str, values: Mapping[str, Value]
) -> tuple[dict[str, Rows], Ragged | None]:
    """Each teacher's rows; of ragged values the packed ones, if all teachers' lengths are equal.

    Returns:
        The rows by teacher, and the ragged value whose lengths they have, or None for dense ones.
    """
    (first, model), *others = values.items()
    for teacher, value in others:
        if isinstance(value, Ragged) != isinstance(model, Ragged):
            raise merge.fail(field, f"teachers {first!r} and {teacher!r}: one is ragged, one dense")
        if isinstance(value, Ragged) and isinstance(model, Ragged):
            _require_lengths(merge, field, (first, model.lengths), (teacher, value.lengths))
    rows = {t: v.values if isinstance(v, Ragged) else v for t, v in values.items()}
    return rows, model if isinstance(model, Ragged) else None


def _require_lengths(
    merge: Merge, field: str, ours: tuple[str, Tensor], theirs: tuple[str, Tensor]
) -> None:
    if torch.equal(ours[1], theirs[1]):
        return
    row = int((ours[1] != theirs[1]).nonzero()[0])
    raise merge.fail(
        field,
        f"sample {row} of the batch has {int(ours[1][row])} rows from teacher {ours[0]!r} and "
        f"{int(theirs[1][row])} from {theirs[0]!r}; teachers must cut samples alike",
    )


def pack(rows: Rows, like: Ragged | None) -> Value:
    """Merged rows as a value again, ragged where the teachers' were."""
    return rows if like is None else like.with_values(rows)


def tensors(merge: Merge, field: str, rows: Mapping[str, Rows]) -> dict[str, Tensor]:
    """Dense rows by teacher; raises and names a teacher whose rows are top-k."""
    dense = {t: v for t, v in rows.items() if isinstance(v, Tensor)}
    for teacher in rows:
        if teacher not in dense:
            raise merge.fail(field, topk_reason(teacher))
    return dense


def topk_reason(teacher: str) -> str:
    """Why top-k is refused."""
    return (
        f"teacher {teacher!r} serves top-k, whose classes differ from row to row; merge top-k by "
        "'mixture', or serve the field densely"
    )
