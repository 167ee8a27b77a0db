"""What a model returned, by name, and whether it is what its schema says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pantheon.errors import ModelError, NotFiniteError
from pantheon.knowledge import Ragged, TopKLogits, TopKMixture, Value
from pantheon.sampling.reading import IdArray, name_ids

SERVED = (Tensor, TopKLogits, Ragged)
"""What a model may return for a field."""


@dataclass(frozen=True, slots=True)
class Form:
    """What must stay the same of a field from one forward to the next.

    Args:
        dtype: of the values.
        shape: of one row; for top-k knowledge its leading dimensions and k.
        ragged: rows are packed.
        classes, temperatures: of top-k knowledge, else None.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    ragged: bool = False
    classes: int | None = None
    temperatures: tuple[float, ...] | None = None

    def __str__(self) -> str:
        top = f", top-k of {self.classes} at T {self.temperatures}" if self.classes else ""
        rows = "packed rows of " if self.ragged else "rows of "
        return f"{rows}{str(self.dtype).removeprefix('torch.')}{self.shape}{top}"


def form_of(value: Value) -> Form:
    """The form of a value.

    Example:
        >>> str(form_of(torch.zeros(4, 10)))
        'rows of float32(10,)'
    """
    if isinstance(value, Ragged):
        inner = form_of(value.values)
        return Form(inner.dtype, inner.shape, True, inner.classes, inner.temperatures)
    if isinstance(value, TopKLogits):
        v = value.values
        return Form(v.dtype, tuple(v.shape[1:]), False, value.classes, value.temperatures)
    if isinstance(value, TopKMixture):
        raise ModelError("the model returned a TopKMixture, which is merged and never served")
    return Form(value.dtype, tuple(value.shape[1:]))


def by_name(output: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """A model's return as fields by name.

    A mapping is taken by its keys (keys that are no field are left out), a tuple in the order of
    the names, anything else as the one field. Without names, a mapping gives all its tensors and a
    single tensor is called ``logits``.

    Raises:
        ModelError: a field is missing, or the number of outputs is another.

    Example:
        >>> by_name(torch.ones(1), ["y"])
        {'y': tensor([1.])}
    """
    if isinstance(output, Mapping):
        found = {str(k): v for k, v in output.items()}
        if names is None:
            return {k: v for k, v in found.items() if isinstance(v, SERVED)}
        missing = [n for n in names if n not in found]
        if missing:
            raise ModelError(
                f"the model returned no {', '.join(map(repr, missing))}; its schema asks for "
                f"{', '.join(names)}, it returned {', '.join(found) or 'an empty mapping'}"
            )
        return {n: found[n] for n in names}
    names = ["logits"] if names is None else list(names)
    many = isinstance(output, tuple) or (isinstance(output, list) and len(names) > 1)
    outputs = list(output) if many else [output]
    if not names:
        return {}
    if len(outputs) != len(names):
        raise ModelError(
            f"the model returned {len(outputs)} outputs; its schema has {len(names)}: "
            f"{', '.join(names)}; return a dict by name, or as many outputs as fields"
        )
    return dict(zip(names, outputs, strict=True))


def as_value(name: str, output: Any) -> Value:
    """One output as a value: a list of tensors, one a sample, becomes ragged.

    Raises:
        ModelError: it is none of those that knowledge can be.
    """
    if isinstance(output, SERVED):
        return output.detach() if isinstance(output, Tensor) else output
    if isinstance(output, list) and output and all(isinstance(v, Tensor) for v in output):
        lengths = torch.tensor([len(v) for v in output], dtype=torch.int64)
        return Ragged(torch.cat([v.detach() for v in output]), lengths)
    raise ModelError(
        f"field {name!r}: the model returned a {type(output).__name__}; expected a tensor with "
        "samples first, TopKLogits, Ragged, or a list of one tensor per sample"
    )


def check_rows(name: str, value: Value, rows: int) -> None:
    """Raise `ModelError` unless the first dimension counts the samples."""
    scalar = isinstance(value, Tensor) and value.dim() == 0
    found = 0 if scalar else len(value)
    if scalar or found != rows:
        what = "a scalar" if scalar else f"{found} rows"
        raise ModelError(
            f"field {name!r}: the model returned {what} for {rows} samples; expected the first "
            "dimension to be the samples"
        )


def check_form(name: str, value: Value, expected: Form) -> None:
    """Raise `ModelError` when the dtype or shape is another than the schema was made from."""
    found = form_of(value)
    if found != expected:
        raise ModelError(
            f"field {name!r}: the model returned {found}; its schema says {expected}; every "
            "forward must return the same dtype and row shape"
        )


def check_finite(name: str, value: Value, ids: IdArray | None) -> None:
    """Raise `NotFiniteError` naming the field and the samples that hold NaN or infinity.

    Only the sum is looked at first; every element only when the sum is not finite.
    """
    inner = value.values if isinstance(value, Ragged) else value
    tensor = inner.values if isinstance(inner, TopKLogits) else inner
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or _sum_is_finite(tensor):
        return
    bad = ~torch.isfinite(tensor.reshape(len(tensor), -1)).all(dim=1).cpu()
    if not bool(bad.any()):
        return
    rows = np.flatnonzero(bad.numpy())
    if isinstance(value, Ragged):
        owners = torch.repeat_interleave(torch.arange(len(value)), value.lengths.cpu())
        rows = np.unique(owners.numpy()[rows])
    where = f"rows {name_ids(rows)}" if ids is None else f"ids {name_ids(ids[rows])}"
    raise NotFiniteError(
        f"field {name!r}: the model returned NaN or infinity for {where}; look at these samples "
        "and the model's precision, or pass finite='allow' to send them as they are"
    )


def _sum_is_finite(tensor: Tensor) -> bool:
    small = tensor.dtype in (torch.float16, torch.bfloat16)
    total = tensor.sum(dtype=torch.float32) if small else tensor.sum()
    return math.isfinite(total.item())
