"""A merge of the user's own, and merges by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pantheon.codec.api import spec_for
from pantheon.codec.names import parse_name
from pantheon.errors import ConfigError
from pantheon.knowledge import Value, value_rows
from pantheon.merge.arithmetic import Mean, Sum
from pantheon.merge.base import Merge, Positions, is_topk
from pantheon.merge.join import Concat, Stack
from pantheon.merge.mixture import Mixture, mixture_name
from pantheon.ragged import Ragged, Rows
from pantheon.schema import FieldSpec
from pantheon.topk import TopKLogits
from pantheon.wire.buffers import TORCH_DTYPES

Function = Callable[[dict[str, Value]], Value]


class Custom(Merge):
    """A function of the user's: values by teacher to one value of as many samples.

    The merged specification comes from a trial with two samples of zeros.

    Args:
        function: gets ``{teacher: value}``, returns a tensor, `Ragged` or top-k value.

    Raises:
        MergeError: when called: the function raises, or returns other rows or no value.

    Example:
        >>> largest = Custom(lambda values: torch.maximum(values["a"], values["b"]))
        >>> largest("x", {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}, {}, 1)
        tensor([2.])
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.name = f"custom({getattr(function, '__name__', type(function).__name__)})"

    def spec(self, field: str, specs: Mapping[str, FieldSpec]) -> FieldSpec:
        value = self._run(field, {t: example(s, 2) for t, s in specs.items()}, 2)
        return _spec_of(field, value)

    def __call__(self, field: str, values: Mapping[str, Value], rows: Positions, n: int) -> Value:
        self.require_all(field, values, rows, n)
        return self._run(field, values, n)

    def _run(self, field: str, values: Mapping[str, Value], n: int) -> Value:
        try:
            value = self.function(dict(values))
        except Exception as error:
            raise self.fail(field, f"it raised {type(error).__name__}: {error}") from error
        if not isinstance(value, Value) or (isinstance(value, Tensor) and not value.ndim):
            raise self.fail(field, f"it returned {_describe(value)}; expected a value of {n} rows")
        if value_rows(value) != n:
            raise self.fail(field, f"it returned {value_rows(value)} rows for {n} samples")
        return value


def _describe(value: object) -> str:
    return "a scalar tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _spec_of(field: str, value: Value) -> FieldSpec:
    """The specification of a merged value."""
    rows = value.values if isinstance(value, Ragged) else value
    if isinstance(rows, Tensor):
        return spec_for(field, "raw", value)
    if isinstance(rows, TopKLogits):
        return spec_for(field, None, value)
    ragged = "rows" if isinstance(value, Ragged) else None
    shape = (*rows.indices.shape[1:-1], rows.classes)
    return FieldSpec(field, "float32", shape, mixture_name(rows.k, rows.temperatures), ragged)


def example(spec: FieldSpec, rows: int) -> Value:
    """A value of zeros such as a field decodes to; one packed row a sample where it is ragged."""
    zeros = _zeros(spec, rows)
    return zeros if spec.ragged is None else Ragged(zeros, torch.ones(rows, dtype=torch.int64))


def _zeros(spec: FieldSpec, rows: int) -> Rows:
    if not is_topk(spec):
        return torch.zeros(rows, *spec.shape, dtype=TORCH_DTYPES[spec.dtype])
    name, lead, classes = parse_name(spec.codec), (rows, *spec.shape[:-1]), spec.shape[-1]
    k = min(name.k, classes)
    return TopKLogits(
        torch.zeros(*lead, k),
        torch.arange(k, dtype=torch.int32).expand(*lead, k),
        torch.full((*lead, len(name.temperatures)), float("-inf")),
        name.temperatures,
        classes,
    )


_NAMED: Mapping[str, Callable[[], Merge]] = {
    "mean": Mean,
    "sum": Sum,
    "concat": Concat,
    "stack": Stack,
    "mixture": Mixture,
}


def parse_merge(merge: Merge | str | Function) -> Merge:
    """The merge of a name, or of a function; a merge is returned as it is.

    Raises:
        ConfigError: a name that no merge has.

    Example:
        >>> parse_merge("mean"), parse_merge(max)
        (<merge mean>, <merge custom(max)>)
    """
    if isinstance(merge, Merge):
        return merge
    if isinstance(merge, str):
        if merge in _NAMED:
            return _NAMED[merge]()
        hint = {"weighted": "; write Weighted(teacher=0.7, …)", "route": "; write Route(keys, …)"}
        raise ConfigError(
            f"no merge is called {merge!r}; expected {', '.join(_NAMED)}, a merge or a function"
            + hint.get(merge, "")
        )
    if callable(merge):
        return Custom(merge)
    raise ConfigError(f"a merge is a name, a Merge or a function, found {type(merge).__name__}")
