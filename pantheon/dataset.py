"""What a dataset must offer, what a teacher sees of a sample, and a dataset's fingerprint.

A sample is an input, a pair ``(input, target)`` or a dict; a teacher sees the input alone.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xxhash
from torch.utils.data import IterableDataset, default_collate

from pantheon.errors import DatasetError, IdOutOfRange

LABELS = frozenset({"label", "labels", "target", "targets"})
"""Keys of a dict sample that hold its target; a teacher never sees them."""

SAMPLED = 64
"""Samples a fingerprint reads."""


@runtime_checkable
class MapStyle(Protocol):
    """A dataset that can be asked for sample i, for i from 0 to its length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Ids:
    """A dataset whose sample i is the number i, for a teacher that looks ids up by itself.

    A model that serves it is called with int64 ids ``[n]``; nothing is done per sample. It has no
    inputs, so it is not compared with a student's dataset unless a fingerprint is given.

    Example:
        >>> len(Ids(3)), Ids(3)[2]
        (3, 2)
    """

    def __init__(self, size: int) -> None:
        if size <= 0:
            raise DatasetError(f"Ids needs a size of at least 1, found {size}")
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IdOutOfRange(f"sample id {index} is not in 0 to {self.size - 1}")
        return index


def check_map_style(dataset: Any) -> int:
    """The number of samples of a dataset that can be asked by id.

    Raises:
        DatasetError: the dataset is iterable only, or empty.

    Example:
        >>> check_map_style([1.0, 2.0])
        2
    """
    iterable = isinstance(dataset, IterableDataset)
    if iterable or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise DatasetError(
            f"{type(dataset).__name__} gives its samples no ids: expected a map-style dataset with "
            "__len__ and __getitem__(id), found one that can only be iterated; write its samples "
            "to a map-style dataset (a list will do), so that teacher and student mean the same "
            "sample by the same id"
        )
    size = len(dataset)
    if size <= 0:
        raise DatasetError(f"{type(dataset).__name__} has {size} samples; expected at least one")
    return size


def has_views(dataset: Any) -> bool:
    """Whether a dataset has ``get(id, view)``; a dict's own ``get`` is not one."""
    return callable(getattr(dataset, "get", None)) and not isinstance(dataset, Mapping)


def read(dataset: Any, id: int, view: int = 0) -> Any:
    """Sample ``id`` as augmented by the seed ``view``; view 0 is the sample without augmentation.

    Raises:
        IdOutOfRange: the dataset has no such sample.
        DatasetError: the dataset has no views, or raised while it read the sample.

    Example:
        >>> read([1.5, 2.5], 1)
        2.5
    """
    size = len(dataset)
    if not 0 <= id < size:
        raise IdOutOfRange(f"sample id {id} is not in the dataset's range 0 to {size - 1}")
    if view and not has_views(dataset):
        raise DatasetError(
            f"view {view} of sample {id} was asked for, but {type(dataset).__name__} has no "
            "get(id, view); add it, or use views=0"
        )
    try:
        return dataset.get(id, view) if view else dataset[id]
    except Exception as error:
        raise DatasetError(
            f"sample {id} (view {view}) could not be read: {type(error).__name__}: {error}"
        ) from error


def split_item(item: Any) -> tuple[Any, Any | None]:
    """A sample as (inputs, target); the target is None where the sample has none.

    Raises:
        DatasetError: a tuple that is neither ``(input,)`` nor ``(input, target)``.

    Example:
        >>> split_item(([1.0], 3)), split_item({"text": "a", "label": 1})
        (([1.0], 3), ({'text': 'a'}, 1))
    """
    if isinstance(item, Mapping):
        found = [k for k in item if k in LABELS]
        rest = {k: v for k, v in item.items() if k not in LABELS}
        if len(found) == 1:
            return rest, item[found[0]]
        return rest, {k: item[k] for k in found} or None
    if not isinstance(item, tuple):
        return item, None
    if len(item) not in (1, 2):
        raise DatasetError(
            f"a sample is a tuple of {len(item)}; expected an input, a pair (input, target) or a "
            "dict: return ((a, b), target) or a dict where there are several inputs"
        )
    return item[0], item[1] if len(item) == 2 else None


def inputs_only(item: Any) -> Any:
    """What a teacher sees of a sample: a pair's first, a dict without its labels.

    Example:
        >>> inputs_only({"x": 1, "labels": 2}), inputs_only((5, 6))
        ({'x': 1}, 5)
    """
    return split_item(item)[0]


def collate(items: Sequence[Any]) -> Any:
    """Samples as one batch: torch's ``default_collate``, with lists of numbers taken as tensors.

    Raises:
        DatasetError: samples of different shapes, or of a type that makes no tensor.

    Example:
        >>> collate([{"x": [1, 2]}, {"x": [3, 4]}])["x"].shape
        torch.Size([2, 2])
    """
    tensors = [as_tensors(item) for item in items]
    try:
        return default_collate(tensors)
    except (TypeError, RuntimeError) as error:
        shapes = sorted({str(tuple(t.shape)) for t in tensors if isinstance(t, torch.Tensor)})
        what = f"have the shapes {', '.join(shapes[:5])}" if len(shapes) > 1 else "make no tensor"
        raise DatasetError(
            f"{len(items)} samples {what} and cannot be one batch ({str(error).splitlines()[0]}); "
            "give collate_fn=, or buckets= for sequences of different length"
        ) from error


def as_tensors(item: Any) -> Any:
    """A sample with its arrays and lists of numbers as tensors; memory is shared where it can be.

    Example:
        >>> as_tensors([1, 2]), as_tensors("text")
        (tensor([1, 2]), 'text')
    """
    if isinstance(item, np.ndarray) and item.dtype.kind in "biuf":
        return torch.from_numpy(item if item.flags.writeable else item.copy())
    if isinstance(item, Mapping):
        return {k: as_tensors(v) for k, v in item.items()}
    if isinstance(item, tuple):
        return tuple(as_tensors(v) for v in item)
    if isinstance(item, list) and item:
        numbers = np.asarray(item) if _numeric(item) else None
        return [as_tensors(v) for v in item] if numbers is None else torch.tensor(item)
    return item


def _numeric(item: Any) -> bool:
    """Whether a list is a rectangle of numbers."""
    first = item
    while isinstance(first, list) and first:
        first = first[0]
    if not isinstance(first, int | float):
        return False
    try:
        return np.asarray(item).dtype.kind in "biuf"
    except ValueError:
        return False


def fingerprint(dataset: Any, given: str | None = None) -> str:
    """A short string that two sides compare before they mean the same sample by the same id.

    It is what the user gives; else a Hugging Face dataset's own; else the length and the xxh3_64 of
    the inputs of 64 evenly spaced samples, in the encoding of `encode_item`. Labels do not count.

    Raises:
        DatasetError: a sample read twice differs, cannot be encoded, or the dataset has no ids.

    Example:
        >>> fingerprint([1.0, 2.0]) == fingerprint([(1.0, 0), (2.0, 1)])
        True
    """
    own = getattr(dataset, "_fingerprint", None)
    if given is not None or isinstance(own, str):
        return given if given is not None else str(own)
    size = check_map_style(dataset)
    total = xxhash.xxh3_64()
    for i in sorted({i * (size - 1) // (SAMPLED - 1) for i in range(SAMPLED)}):
        digest, again = _digest(dataset, i), _digest(dataset, i)
        if digest != again:
            raise DatasetError(
                f"sample {i} read twice gave different inputs: {type(dataset).__name__} augments "
                "at random inside dataset[i]; give it get(id, view) and derive the randomness "
                "from both, so that teacher and student see the same"
            )
        total.update(digest)
    return f"{size}-{total.hexdigest()}"


def _digest(dataset: Any, i: int) -> bytes:
    """xxh3_64 of one sample's encoded inputs."""
    state = xxhash.xxh3_64()
    for chunk in encode_item(inputs_only(read(dataset, i))):
        state.update(chunk)
    return state.digest()


def encode_item(item: Any) -> list[bytes]:
    """The canonical encoding of inputs: a tag and length before each value, little-endian.

    Arrays and tensors (and images, as arrays) are their dtype's name, shape and bytes in C order;
    mappings are sorted by key; numbers are decimal integers or 8-byte floats; text is UTF-8.

    Raises:
        DatasetError: a value of another type.

    Example:
        >>> encode_item({"b": 1, "a": "x"})
        [b'd2:', b's1:', b'a', b's1:', b'x', b's1:', b'b', b'i1:']
    """
    match item:
        case None:
            return [b"n"]
        case bool() | int() | np.integer() | np.bool_():
            return [b"i%d:" % int(item)]
        case float() | np.floating():
            return [b"f", struct.pack("<d", float(item))]
        case str():
            return [b"s%d:" % len(item.encode()), item.encode()]
        case bytes():
            return [b"b%d:" % len(item), item]
        case Mapping():
            pairs = sorted(item.items(), key=lambda pair: str(pair[0]))
            return _encode_all(b"d%d:" % len(pairs), [x for pair in pairs for x in pair])
        case list() | tuple():
            return _encode_all(b"l%d:" % len(item), item)
    return _encode_array(item)


def _encode_all(head: bytes, items: Sequence[Any]) -> list[bytes]:
    return [head, *(chunk for item in items for chunk in encode_item(item))]


def _encode_array(item: Any) -> list[bytes]:
    """The encoding of a tensor, an array or whatever offers itself as one."""
    if isinstance(item, torch.Tensor):
        name = str(item.dtype).removeprefix("torch.")
        flat = item.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
        return [f"a{name}{tuple(item.shape)}:".encode(), data.tobytes()]
    array = np.asarray(item) if hasattr(item, "__array_interface__") else None
    if array is None or array.dtype.kind not in "biuf":
        raise DatasetError(
            f"a sample holds a {type(item).__name__}, which has no canonical encoding; give the "
            "dataset's fingerprint as a string (dataset_fingerprint=) on both sides"
        )
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return [f"a{array.dtype.name}{array.shape}:".encode(), array.tobytes()]
