"""SampleStream: a dataset's samples in batches, without any teacher."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pantheon.dataset import check_map_style
from pantheon.errors import ConfigError
from pantheon.knowledge import Knowledge
from pantheon.ranks import place
from pantheon.sampling import stream_state
from pantheon.sampling.batch import Batch
from pantheon.sampling.cutting import Cuttable
from pantheon.sampling.itinerary import Itinerary, check_view, chosen_ids
from pantheon.sampling.order import Order
from pantheon.sampling.position import Position
from pantheon.sampling.samples import Samples, should_pin


class SampleStream(Cuttable):
    """Batches of samples whose knowledge is empty: a `pantheon.KnowledgeStream` with no teacher.

    It reads in the order in which `student_client.KnowledgeLoader` would with the same arguments,
    and it can be resumed and cut in the same way.

    Args:
        dataset: map-style.
        batch_size: samples of a batch, per rank.
        shuffle, seed: permute the samples anew each epoch.
        ids: the ids to read; None for all. The order permutes positions in it.
        drop_last: leave out a last batch that is not full.
        rank, world: this process's place among data-parallel students; torchrun's by default.
        views: augmentation views; an epoch shows view 1 + epoch mod views. 0 shows view 0.
        view: the only view that is shown, in all epochs.
        num_workers: processes that read samples; 0 reads in the caller's thread.
        collate_fn: from a list of samples to inputs, or to inputs and targets.
        pin_memory: page-locked tensors; None where there is a GPU.

    Raises:
        ConfigError, DatasetError: arguments that cannot be.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.arange(6.0), torch.arange(6))
        >>> stream = SampleStream(data, batch_size=4)
        >>> [(batch.ids.tolist(), batch.targets.tolist()) for batch in stream]
        [([0, 1, 2, 3], [0, 1, 2, 3]), ([4, 5], [4, 5])]
        >>> [len(part) for part in stream.split(2)], len(stream.slice(2))
        ([1, 1], 1)
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        ids: Sequence[int] | NDArray[np.int64] | None = None,
        drop_last: bool = False,
        rank: int | None = None,
        world: int | None = None,
        views: int = 0,
        view: int | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool | None = None,
    ) -> None:
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        rank, world = place(rank, world)
        self._dataset, self._size = dataset, check_map_style(dataset)
        self._ids = chosen_ids(ids, self._size)
        count = self._size if self._ids is None else len(self._ids)
        order = Order(count, batch_size, seed, shuffle, rank, world, drop_last)
        self._itinerary = Itinerary(order, self._ids, views, check_view(view, views))
        self._samples = Samples(
            dataset,
            self._itinerary,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=should_pin(pin_memory),
        )
        self._position, self._reading = Position(), 0
        self._shut = weakref.finalize(self, self._samples.close)

    def __len__(self) -> int:
        """Batches of an epoch, the same for every rank."""
        return self._itinerary.order.steps

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch."""
        epoch, step = self._position.begin()
        self._reading += 1
        return self._read(epoch, step, self._reading)

    def _read(self, epoch: int, step: int, number: int) -> Iterator[Batch]:
        batch = self._itinerary.order.batch_size
        for inputs, targets in self._samples.begin(epoch, step):
            if number != self._reading:
                raise ConfigError(
                    "another iter() of this stream has begun; one epoch goes on at a time"
                )
            stop = min((step + 1) * batch, self._itinerary.order.rows)
            rows = self._itinerary.stretch(epoch, step * batch, stop)
            mask = None if rows.real is None else torch.from_numpy(rows.real)
            knowledge = Knowledge.trusted(torch.from_numpy(rows.ids), {})
            step += 1
            self._position.step()
            yield Batch(inputs, targets, knowledge, mask)
        self._position.finish()

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as `KnowledgeLoader.state_dict` does."""
        return stream_state.save(self._run(), self._position.epoch, self._position.steps)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next ``iter()`` go on after the last batch that `state` counts.

        Raises:
            ResumeMismatch: the state is of another sequence of ids; says what differs.
        """
        world = self._itinerary.order.world
        self._position.restore(*stream_state.restore(state, self._run(), world))

    def _run(self) -> stream_state.Run:
        order = self._itinerary.order
        return stream_state.Run(
            global_batch=order.global_batch,
            seed=order.seed,
            shuffle=order.shuffle,
            size=self._size,
            ids=stream_state.ids_fingerprint(self._ids),
            drop_last=order.drop_last,
            views=self._itinerary.views,
            view=self._itinerary.fixed,
        )

    def _read_in(self) -> Itinerary:
        return self._itinerary

    def _again(self, changes: dict[str, Any]) -> SampleStream:
        return SampleStream(**(self._given | changes))

    def samples(self) -> SampleStream:
        """The same again, from its beginning."""
        return self._keep(self._again({}))

    def close(self) -> None:
        """Stop the workers, also of the streams that were cut from it. Safe to call twice."""
        self._close_cut()
        self._shut()
