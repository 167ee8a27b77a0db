"""The student's own samples, read here or by worker processes, in the order of the batches."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pantheon.dataset import collate, read, split_item
from pantheon.errors import ConfigError, DatasetError
from pantheon.sampling.itinerary import Itinerary
from pantheon.sampling.reading import map_tensors, rows_of, split_batch

logger = logging.getLogger(__name__)

Collate = Callable[[list[Any]], Any]
Key = tuple[int, int]
"""A sample id and a view."""


class Rows:
    """A dataset asked by (id, view), so that torch's workers can read it.

    Example:
        >>> Rows([1.5, 2.5])[1, 0]
        2.5
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Any:
        return read(self.dataset, *key)

    def __getitems__(self, keys: list[Key]) -> list[Any]:
        many = getattr(self.dataset, "__getitems__", None)
        if many is None or keys[0][1]:
            return [self[key] for key in keys]
        return list(many([id for id, _ in keys]))


class Ask(list[Key]):
    """What a worker is asked for, and the seed of whatever it draws for that.

    So a batch is the same after a resume, and whichever worker reads it.
    """

    def __init__(self, keys: list[Key], seed: int) -> None:
        super().__init__(keys)
        self.seed = seed

    def __reduce__(self) -> tuple[type[Ask], tuple[list[Key], int]]:
        return Ask, (list(self), self.seed)


class SeededRows(Rows):
    """`Rows` in a worker process, whose random numbers begin anew with every batch."""

    def __getitems__(self, keys: list[Key]) -> list[Any]:
        if isinstance(keys, Ask):
            torch.manual_seed(keys.seed)
            random.seed(keys.seed)
            np.random.seed(keys.seed % 2**32)
        return super().__getitems__(keys)


class Pairing:
    """Items to (inputs, targets), by the user's `collate_fn` or torch's.

    What `collate_fn` returns is taken apart by `split_batch`.

    Example:
        >>> inputs, targets = Pairing(None)([(torch.zeros(2), 3), (torch.ones(2), 4)])
        >>> inputs.shape, targets
        (torch.Size([2, 2]), tensor([3, 4]))
    """

    def __init__(self, collate_fn: Collate | None) -> None:
        self.collate_fn = collate_fn

    def __call__(self, items: list[Any]) -> tuple[Any, Any]:
        if self.collate_fn is None:
            return self._split(items)
        return split_batch(self.collate_fn, self.collate_fn(items))

    def _split(self, items: list[Any]) -> tuple[Any, Any]:
        inputs, targets = zip(*map(split_item, items), strict=True)
        if any(t is None for t in targets):
            return collate(inputs), None
        return collate(inputs), collate(targets)


class BatchKeys:
    """A batch sampler that can be pointed at the steps of any epoch before it is iterated."""

    def __init__(self, itinerary: Itinerary) -> None:
        self.itinerary = itinerary
        self.epoch = 0
        self.step = itinerary.order.steps  # nothing, until pointed somewhere

    def __iter__(self) -> Iterator[list[Key]]:
        view = self.itinerary.view(self.epoch)
        for step in range(self.step, self.itinerary.order.steps):
            keys = [(id, view) for id in self.itinerary.batch_ids(self.epoch, step)]
            order = self.itinerary.order
            place = f"{order.seed} {order.rank} {self.epoch} {step}"
            yield Ask(keys, xxhash.xxh3_64_intdigest(place.encode()))

    def __len__(self) -> int:
        return self.itinerary.order.steps - self.step


def worker_context(sockets: bool) -> str:
    """How workers may start now: forked only while nothing of this process could break by it.

    An inherited ZeroMQ socket sends into nothing, silently, and other threads' locks stay locked.

    Args:
        sockets: whether this process has connections to teachers already.

    Example:
        >>> worker_context(sockets=True)
        'spawn'
    """
    quiet = threading.active_count() == 1 and not sockets
    return "fork" if quiet and sys.platform == "linux" else "spawn"


class Samples:
    """The student's samples, batch by batch.

    Args:
        dataset: map-style.
        itinerary: which ids each step has.
        num_workers: worker processes; 0 reads in the caller's thread. They are started at once and
            kept until `close`.
        collate_fn: see `Pairing`.
        pin_memory: put tensors into page-locked memory, for quick copies to a GPU.
        sockets: whether this process has connections to teachers already.

    Raises:
        DatasetError: the workers cannot be given the dataset.
    """

    def __init__(
        self,
        dataset: Any,
        itinerary: Itinerary,
        *,
        num_workers: int = 0,
        collate_fn: Collate | None = None,
        pin_memory: bool = False,
        sockets: bool = True,
    ) -> None:
        self.rows = Rows(dataset)
        self.itinerary = itinerary
        self.pairing = Pairing(collate_fn)
        self.pin_memory = pin_memory
        self.keys = BatchKeys(itinerary)
        self._loader = self._start(num_workers, worker_context(sockets)) if num_workers else None

    def _start(self, num_workers: int, how: str) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(
            SeededRows(self.rows.dataset),  # type: ignore[arg-type]  # map-style, by keys that are pairs
            batch_sampler=self.keys,
            num_workers=num_workers,
            collate_fn=self.pairing,
            pin_memory=self.pin_memory,
            persistent_workers=True,
            multiprocessing_context=multiprocessing.get_context(how),
            # its own, so that reading samples draws nothing from the user's random numbers
            generator=torch.Generator().manual_seed(self.itinerary.order.seed),
        )
        try:
            with warnings.catch_warnings():
                # The error below says the same, and what to do.
                warnings.filterwarnings("ignore", "Got pickle error")
                iter(loader)  # starts the workers, on an empty epoch
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise DatasetError(
                f"the dataset or collate_fn cannot be handed to {num_workers} spawned workers "
                f"({error}); define both at a module's top level, or use num_workers=0"
            ) from error
        return loader

    def begin(self, epoch: int, step: int) -> Iterator[tuple[Any, Any]]:
        """(inputs, targets) of an epoch's batches, from one step on."""
        self.keys.epoch, self.keys.step = epoch, step
        if self._loader is not None:
            return iter(self._loader)
        return self._read()

    def _read(self) -> Iterator[tuple[Any, Any]]:
        table = self._table()
        for keys in self.keys:
            if table:
                ids = np.array([id for id, _ in keys], np.int64)
                inputs, *rest = (rows_of(t, ids) for t in table)
                made = inputs, rest[0] if rest else None
            else:
                made = self.pairing(self.rows.__getitems__(keys))
            yield pinned(made) if self.pin_memory else made

    def _table(self) -> tuple[Tensor, ...]:
        """The tensors of a TensorDataset of inputs and targets, indexed without a loop."""
        dataset, plain = self.rows.dataset, self.pairing.collate_fn is None
        if not plain or self.itinerary.views or type(dataset) is not TensorDataset:
            return ()
        return dataset.tensors if len(dataset.tensors) <= 2 else ()

    def close(self) -> None:
        """Stop the workers."""
        loader, self._loader = self._loader, None
        workers = getattr(loader, "_iterator", None)
        if workers is not None:
            workers._shutdown_workers()


def pinned(value: Any) -> Any:
    """Samples with their tensors in page-locked memory."""
    return map_tensors(value, lambda leaf: leaf.pin_memory() if isinstance(leaf, Tensor) else leaf)


def should_pin(given: bool | None) -> bool:
    """Whether to pin memory: as told, else where there is a GPU to copy to.

    Raises:
        ConfigError: it is asked for without a GPU.

    Example:
        >>> should_pin(False)
        False
    """
    available = torch.cuda.is_available()
    if given and not available:
        raise ConfigError(
            "pin_memory=True, but torch finds no GPU, which page-locked memory is for; leave "
            "pin_memory out to have it wherever there is one"
        )
    return available if given is None else given
