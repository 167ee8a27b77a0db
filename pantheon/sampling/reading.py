"""From sample ids to the batches a model is called with: read, collated, padded to one shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from pantheon.dataset import LABELS, Ids, as_tensors, collate, inputs_only, read, split_item
from pantheon.errors import DatasetError

IdArray = NDArray[np.int64]


class Reader:
    """Reads the inputs of many samples at once, without a loop where the dataset allows it.

    Args:
        dataset: a map-style dataset. `Ids` answers the ids themselves, a TensorDataset is indexed
            once, ``__getitems__(list)`` is used where it exists; others are read one by one.
        collate_fn: makes a batch of whole samples, as for a loader; see `split_batch`.
    """

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any] | None = None) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn

    def batch(self, ids: IdArray, views: IdArray | None) -> Any:
        """The model's inputs for some samples, first dimension ``len(ids)``."""
        plain = views is None and self.collate_fn is None
        if plain and type(self.dataset) is Ids:
            return torch.from_numpy(ids if ids.flags.writeable else ids.copy())
        if plain and type(self.dataset) is TensorDataset and len(self.dataset.tensors) <= 2:
            return rows_of(self.dataset.tensors[0], ids)
        items = self.items(ids, views)
        if self.collate_fn is not None:
            return split_batch(self.collate_fn, self.collate_fn(items))[0]
        return collate([inputs_only(item) for item in items])

    def items(self, ids: IdArray, views: IdArray | None) -> list[Any]:
        """Whole samples, one by one or by the dataset's own batched read."""
        if views is not None:
            pairs = zip(ids.tolist(), views.tolist(), strict=True)
            return [read(self.dataset, i, view) for i, view in pairs]
        batched = getattr(self.dataset, "__getitems__", None)
        if not callable(batched):
            return [read(self.dataset, i) for i in ids.tolist()]
        try:
            items = list(batched(ids.tolist()))
        except Exception as error:
            raise DatasetError(
                f"{type(self.dataset).__name__}.__getitems__ raised {type(error).__name__}: "
                f"{error} for samples {name_ids(ids)}"
            ) from error
        if len(items) != len(ids):
            raise DatasetError(f"__getitems__ gave {len(items)} samples for {len(ids)} ids")
        return items


def split_batch(collate_fn: Callable[[list[Any]], Any], made: Any) -> tuple[Any, Any | None]:
    """What a `collate_fn` returned as (inputs, targets), for teacher and student alike.

    A tuple of two is that, and so is the list of two that torch's own ``default_collate`` makes of
    pairs; a mapping is split as a dict sample is, by its label; anything else is inputs alone.

    Example:
        >>> split_batch(dict, {"x": 1, "labels": 2}), split_batch(tuple, (5, 6))
        (({'x': 1}, 2), (5, 6))
    """
    kinds: Any = list | tuple if collate_fn is default_collate else tuple
    if isinstance(made, kinds) and len(made) == 2:
        return made[0], made[1]
    if isinstance(made, Mapping) and not LABELS.isdisjoint(made):
        return split_item(made)
    return made, None


def rows_of(tensor: Tensor, ids: IdArray) -> Tensor:
    """Rows of a tensor; a view where the ids are consecutive.

    Example:
        >>> rows_of(torch.arange(9), np.array([3, 4]))
        tensor([3, 4])
    """
    first, n = int(ids[0]), len(ids)
    if int(ids[-1]) - first == n - 1 and (n < 3 or bool((np.diff(ids) == 1).all())):
        return tensor[first : first + n]
    return tensor[torch.from_numpy(ids.copy())]


def name_ids(ids: IdArray | None, most: int = 8) -> str:
    """Some ids for a message.

    Example:
        >>> name_ids(np.arange(3)), name_ids(None)
        ('0, 1, 2 (3 samples)', 'sent as inputs')
    """
    if ids is None:
        return "sent as inputs"
    shown = ", ".join(str(i) for i in ids[:most].tolist())
    return f"{shown}{', …' if len(ids) > most else ''} ({len(ids)} samples)"


def map_tensors(batch: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to every leaf of a batch: its tensors, and its lists of text.

    Example:
        >>> map_tensors({"x": torch.ones(2)}, lambda t: t + 1)
        {'x': tensor([2., 2.])}
    """
    if isinstance(batch, Mapping):
        return {k: map_tensors(v, function) for k, v in batch.items()}
    if isinstance(batch, tuple) or (isinstance(batch, list) and not _texts(batch)):
        made = [map_tensors(v, function) for v in batch]
        return type(batch)(*made) if hasattr(batch, "_fields") else type(batch)(made)
    return function(batch)


def _texts(batch: list[Any]) -> bool:
    return all(isinstance(v, str) for v in batch)


def pad_rows(batch: Any, rows: int, fixed: int) -> Any:
    """A batch of ``rows`` samples with row 0 repeated until it has ``fixed``.

    Example:
        >>> pad_rows(torch.tensor([[1], [2]]), 2, 4).flatten().tolist()
        [1, 2, 1, 1]
    """

    def pad(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            filling = leaf[:1].expand(fixed - rows, *leaf.shape[1:])
            return torch.cat([leaf, filling])
        return [*leaf, *([leaf[0]] * (fixed - rows))]

    return batch if rows == fixed else map_tensors(batch, pad)


def slice_rows(batch: Any, start: int, stop: int) -> Any:
    """Rows ``[start, stop)`` of every leaf, as views."""
    return map_tensors(batch, lambda leaf: leaf[start:stop])


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch on a device; the same object where it is there already."""
    if device.type == "cpu":
        return batch
    return map_tensors(
        batch, lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf
    )


def sequences(items: Sequence[Any]) -> list[Any]:
    """Samples of variable length as tensors: a tensor each, or a dict of tensors each."""
    return [as_tensors(split_item(item)[0]) for item in items]


def length_of(sample: Any) -> int:
    """The length of a sample: the first dimension of its (first) tensor of at least one.

    Raises:
        DatasetError: no tensor of at least one dimension in it.

    Example:
        >>> length_of(torch.zeros(5, 2))
        5
    """
    leaves = sample.values() if isinstance(sample, Mapping) else [sample]
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.dim() >= 1:
            return int(leaf.shape[0])
    raise DatasetError(
        "buckets= needs samples with a length: a tensor of at least one dimension, or a dict of "
        f"such; found {type(sample).__name__}"
    )


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds a length; buckets are sorted.

    Raises:
        DatasetError: it is longer than the largest bucket.

    Example:
        >>> bucket_of(5, (4, 8))
        8
    """
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise DatasetError(
        f"a sample has length {length}, more than the largest bucket {buckets[-1]}; "
        "add a larger one to buckets="
    )


def pad_sequences(samples: Sequence[Any], bucket: int) -> Any:
    """Samples of different length as one batch, zero-padded: ``[n, bucket, ...]``.

    Example:
        >>> pad_sequences([torch.ones(1), torch.ones(2)], 3).tolist()
        [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """
    first = samples[0]
    if isinstance(first, Mapping):
        return {k: pad_sequences([s[k] for s in samples], bucket) for k in first}
    if not isinstance(first, Tensor) or first.dim() == 0:
        return collate(samples)
    out = first.new_zeros((len(samples), bucket, *first.shape[1:]))
    for row, sample in zip(out, samples, strict=True):
        row[: len(sample)] = sample
    return out
