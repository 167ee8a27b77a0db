"""KnowledgeLoader: batches of the student's samples with what its teachers know of them."""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pantheon.errors import ConfigError
from pantheon.knowledge import Value
from pantheon.merge import Merge
from pantheon.probes import Probes
from pantheon.ranks import place
from pantheon.sampling import stream_state as saved
from pantheon.sampling.cutting import Cuttable
from pantheon.sampling.itinerary import Itinerary, check_range, check_view, chosen_ids
from pantheon.sampling.order import Order
from pantheon.sampling.position import Position
from pantheon.sampling.reading import Reader
from pantheon.sampling.sample_stream import SampleStream
from pantheon.sampling.samples import Samples, should_pin
from pantheon.schema import KnowledgeSchema
from student_client.cache import Caches
from student_client.delivery import Delivery
from student_client.epoch import Epoch
from student_client.fleet import Fleet, any_open
from student_client.iteration import Iteration
from student_client.meter import Meter
from student_client.metrics import LoaderCollector, health
from student_client.options import Options
from student_client.plan import parse_merges
from student_client.reach import Keys, Own, reach
from student_client.settled import Settled, size_told
from student_client.sources import Given, kind_of
from student_client.stats import LoaderStats, Totals
from student_client.verifying import Verify

SAMPLES = frozenset(inspect.signature(SampleStream).parameters)
"""The arguments that say which samples are read in which order."""


class KnowledgeLoader(Cuttable):
    """Batches of samples and the merged knowledge of their teachers, in an order of its own.

    Every ``iter()`` starts the next epoch (or the one given to `set_epoch`) at its beginning; a
    ``break`` abandons the epoch and cancels what is in flight; only after `load_state_dict` does
    the next ``iter()`` go on in the middle. Everything happens in the caller's thread, inside
    ``next()``; between two calls answers wait in their sockets, at most `window_bytes` of them.

    Args:
        dataset: map-style; None yields knowledge alone.
        batch_size: samples of a batch, per rank.
        teachers: by name an address (``tcp://``, ``ipc://``, ``grpc://``), a list of addresses of
            identical replicas, the path of a dump (any fsspec path), or a `Teacher` or `Scorer`.
        merge: by field how several teachers' values become one: a merge, its name, or a callable.
        shuffle, seed: permute the samples anew each epoch.
        ids: the ids to learn from; None for all. The order permutes positions in it.
        drop_last: leave out a last batch that is not full.
        rank, world: this process's place among data-parallel students; torchrun's by default.
        views: augmentation views; an epoch shows view 1 + epoch mod views. 0 shows view 0.
        view: the only view that is shown, in all epochs.
        num_workers: processes that read samples, whose random numbers (of torch, Python and numpy)
            begin anew from seed, rank, epoch and step; 0 reads in the caller's thread.
        collate_fn: from a list of samples to inputs, to a tuple of inputs and targets, or to a dict
            whose ``labels`` (or ``label``, ``target``, ``targets``) are the targets.
        pin_memory: page-locked tensors; None where there is a GPU.
        request_rows: samples of one request; None for whole batches of about 4 MiB together, the
            first requests of an epoch smaller.
        window_bytes: coded bytes asked for ahead of the next batch, all teachers together.
        max_requests: requests in flight for each replica.
        patience: seconds to wait for a teacher of which no replica can be reached.
        lease: seconds a replica may be silent about a request before another is asked.
        attempts: refusals after which a request is given up with an error; a crash counts half.
        fields: by teacher, the fields to ask for; all by default.
        dataset_fingerprint: states the dataset's fingerprint instead of computing it.
        revision: by teacher, the revision it has to have.
        integrity: checksum what is sent; None over plain connections between hosts only.
        security: our keys (`Curve`, `Tls`) for all teachers, or by teacher.
        verify: fraction of the requests that two replicas are asked, to find those that disagree.
        tolerance: absolute difference of two such answers that is only counted and logged; a
            larger one raises `ReplicaDisagreement`.
        cache: a folder (any fsspec path) that keeps what online teachers say, by teacher, revision,
            id and view; the next epoch, student and stage read it instead of asking.
        cache_bytes: bytes that everything in it may take; None for no bound.
        http: ``host:port`` where metrics and health are served to whoever asks; port 0 takes a free
            one, see `http`.

    Raises:
        ConfigError, DatasetError, StoreError: arguments that cannot be, at once. What teachers
            say is checked when the first batch (or `describe`) is asked for.

    Example:
        >>> import torch
        >>> from pantheon.scoring.scorer import Scorer
        >>> data = torch.arange(6.0).reshape(6, 1)
        >>> double = Scorer(lambda x: 2 * x, data, {"y": "float32"}, revision="1")
        >>> with KnowledgeLoader(data, batch_size=4, teachers={"double": double}) as loader:
        ...     for batch in loader:
        ...         print(batch.ids.tolist(), batch.knowledge["y"].flatten().tolist())
        [0, 1, 2, 3] [0.0, 2.0, 4.0, 6.0]
        [4, 5] [8.0, 10.0]
    """

    def __init__(
        self,
        dataset: Any = None,
        batch_size: int = 32,
        *,
        teachers: Mapping[str, Given],
        merge: Mapping[str, Merge | str | Callable[..., Value]] | None = None,
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
        request_rows: int | None = None,
        window_bytes: int = 64 << 20,
        max_requests: int = 8,
        patience: float = 60.0,
        lease: float = 30.0,
        attempts: int = 3,
        fields: Mapping[str, Sequence[str]] | None = None,
        dataset_fingerprint: str | None = None,
        revision: Mapping[str, str] | None = None,
        integrity: bool | None = None,
        security: Keys = None,
        verify: float = 0.0,
        tolerance: float = 1e-3,
        cache: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = 64 << 30,
        http: str | None = None,
    ) -> None:
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        rank, world = place(rank, world)
        self._options = Options(
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            world=world,
            views=views,
            view=check_view(view, views),
            num_workers=num_workers,
            request_rows=request_rows,
            window_bytes=window_bytes,
            max_requests=max_requests,
            patience=patience,
            lease=lease,
            attempts=attempts,
            verify=Verify(verify, tolerance),
            cache_bytes=cache_bytes,
        )
        self._merges = parse_merges(merge)
        self._caches = Caches(cache, cache_bytes)
        self._pin = should_pin(pin_memory)
        own = Own.of(dataset, dataset_fingerprint)
        self._ids = chosen_ids(ids, own.size)
        self._itinerary = None if own.size is None else self._itinerary_of(own.size)
        self._reader = None if dataset is None else Reader(dataset, collate_fn)
        # Before any socket exists: workers that are forked must not inherit one.
        self._samples = self._open_samples(dataset, collate_fn)
        self._fleet = reach(
            teachers,
            own,
            rank=rank,
            views=views,
            patience=patience,
            fields=fields,
            revision=revision,
            integrity=integrity,
            security=security,
        )
        self._own = own
        self._online = frozenset(n for n, given in teachers.items() if kind_of(given) == "online")
        self._settled: Settled | None = None
        self._size = own.size
        self._position, self._origin = Position(), saved.Origin()
        self._totals = Totals()
        self._meter = Meter(self._fleet, self._totals, self._position)
        self._live: weakref.ref[Iteration] | None = None
        self._probes: Probes | None = None
        self._shut = weakref.finalize(self, _shut, self._fleet, self._samples, self._caches)
        if http is not None:
            self._serve(http)

    def _serve(self, http: str) -> None:
        read, patience = self._meter.read, self._options.patience
        try:
            self._probes = Probes(http, LoaderCollector(read), lambda: health(read(), patience))
        except BaseException:
            self.close()
            raise
        weakref.finalize(self, self._probes.close)

    def _itinerary_of(self, size: int) -> Itinerary:
        o = self._options
        count = size if self._ids is None else len(self._ids)
        order = Order(count, o.batch_size, o.seed, o.shuffle, o.rank, o.world, o.drop_last)
        return Itinerary(order, self._ids, o.views, o.view)

    def _open_samples(self, dataset: Any, collate_fn: Any) -> Samples | None:
        if dataset is None or self._itinerary is None:
            return None
        return Samples(
            dataset,
            self._itinerary,
            num_workers=self._options.num_workers,
            collate_fn=collate_fn,
            pin_memory=self._pin,
            sockets=any_open(),
        )

    def _settle(self) -> tuple[Settled, Itinerary]:
        """Wait until every teacher has answered, the first time."""
        if not self._shut.alive:
            raise ConfigError("this loader was closed; construct another one")
        if self._settled is None or self._itinerary is None:
            with self._totals.waiting(self._fleet.clock):
                self._fleet.agree()
            if self._itinerary is None:
                self._size = size_told(self._fleet)
                if self._ids is not None:
                    check_range(self._ids, self._size)
                self._itinerary = self._itinerary_of(self._size)
            self._origin.check(self._found(), self._stated())
            self._settled = Settled.after(
                self._fleet, self._merges, self._itinerary, self._reader, self._options
            )
            self._meter.teachers = self._settled.teachers
            own = self._own
            self._caches.open(
                {n: t for n, t in self._settled.teachers.items() if n in self._online},
                self._fleet,
                own.fingerprint,
                own.size,
                self._itinerary.view(0),
            )
        return self._settled, self._itinerary

    def __iter__(self) -> Iteration:
        """The batches of the next epoch; an iterator that was still going on becomes invalid."""
        settled, itinerary = self._settle()
        self._abandon("another iter() of this loader has begun; one epoch goes on at a time")
        self._caches.settle()
        epoch, step = self._position.ahead
        samples = self._samples.begin(epoch, step) if self._samples else None
        head = min(step * itinerary.order.batch_size, itinerary.order.rows)
        delivery = Delivery(
            self._fleet,
            settled.teachers,
            settled.plan,
            itinerary,
            settled.pace,
            settled.weights,
            epoch=epoch,
            head=head,
            totals=self._totals,
            caches=self._caches,
        )
        # Not before: what could not be begun is still ahead.
        self._position.begin()
        knowledge = Epoch(delivery, head, self._pin)
        self._meter.follow(knowledge)
        live = Iteration(knowledge, samples, self._position, self._totals, keep=self)
        self._live = weakref.ref(live)
        return live

    def _abandon(self, why: str) -> None:
        live = self._going()
        if live is not None:
            live.close(why)

    def _going(self) -> Iteration | None:
        """The iteration that is going on, if one is."""
        live = self._live() if self._live else None
        return live if live is not None and live.going else None

    def __len__(self) -> int:
        """Batches of an epoch, the same for every rank; without a dataset, asks the teachers."""
        return self._read_in().order.steps

    @property
    def epoch(self) -> int:
        """The epoch that is read, or was abandoned, or is to be gone on with; else the next one."""
        return self._position.epoch

    def set_epoch(self, epoch: int) -> None:
        """Have the next ``iter()`` start this epoch; one that is to be resumed stays resumed."""
        if not isinstance(epoch, int) or epoch < 0:
            raise ConfigError(f"epoch is {epoch!r}; expected a whole number from 0")
        self._position.jump(epoch, going=self._going() is not None)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: what was yielded counts, not what was fetched ahead.

        The values go into JSON: ``epoch``, ``position`` (rows of all ranks, padding included) and
        what fixes the sequence of ids; ``dataset`` (its fingerprint) and ``teachers`` (revisions by
        name), as far as they are known. It may be loaded with another number of ranks.
        """
        run, at, found = self._run(), self._position, self._found()
        known = {n: r for n, r in self._origin.teachers.items() if n in self._fleet.agreements}
        origin = saved.Origin(found.dataset or self._origin.dataset, known | dict(found.teachers))
        return saved.save(run, at.epoch, at.steps, origin)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next ``iter()`` go on after the last batch that `state` counts.

        A teacher may be replaced on purpose: with the new revision in `revision`, a state that has
        learned from another one is gone on with, and the log says so.

        Raises:
            ResumeMismatch: the state is of another sequence of ids, dataset, or revision of a
                teacher; says what differs. While teachers have not answered yet, ``iter()`` raises.
        """
        epoch, steps = saved.restore(state, self._run(), self._options.world)
        origin = saved.Origin.of(state)
        origin.check(self._found(), self._stated())
        self._origin = origin
        self._abandon("a state was loaded into this loader; call iter() again")
        self._position.restore(epoch, steps)

    def _found(self) -> saved.Origin:
        """The dataset and the teachers there are, as far as they have been heard of."""
        heard = {n: a for n, a in self._fleet.agreements.items() if a.first}
        told = (a.first.dataset for a in heard.values() if a.first and a.first.dataset)
        revisions = {n: a.first.revision or a.stated for n, a in heard.items() if a.first}
        dataset = self._own.fingerprint or next(told, None)
        return saved.Origin(dataset, {n: r for n, r in revisions.items() if r})

    def _stated(self) -> dict[str, str | None]:
        return {n: a.stated for n, a in self._fleet.agreements.items()}

    def _run(self) -> saved.Run:
        order, o = self._read_in().order, self._options
        return saved.Run(
            global_batch=order.global_batch,
            seed=o.seed,
            shuffle=o.shuffle,
            size=self._size or 0,
            ids=saved.ids_fingerprint(self._ids),
            drop_last=o.drop_last,
            views=o.views,
            view=o.view,
        )

    def samples(self) -> SampleStream:
        """The same samples in the same order, without knowledge; asks no teacher.

        Raises:
            ConfigError: this loader has no dataset.
        """
        if self._given["dataset"] is None:
            raise ConfigError("this loader has no dataset to read samples from; give it one")
        given = {k: v for k, v in self._given.items() if k in SAMPLES}
        return self._keep(SampleStream(**given))

    def _again(self, changes: dict[str, Any]) -> KnowledgeLoader:
        # With sessions of its own with the teachers; the port of the metrics stays with this one.
        return KnowledgeLoader(**(self._given | {"http": None} | changes))

    def _read_in(self) -> Itinerary:
        """Which ids are read; without a dataset, asks the teachers for their number."""
        return self._itinerary or self._settle()[1]

    def describe(self) -> KnowledgeSchema:
        """The merged fields of a batch's knowledge; waits until every teacher has answered."""
        return self._settle()[0].plan.schema

    @property
    def http(self) -> str | None:
        """Where metrics and health are served, ``http://host:port``."""
        return None if self._probes is None else self._probes.address

    def stats(self) -> LoaderStats:
        """How the loader is doing, in numbers; never waits, and may be asked from any thread."""
        return self._meter.read()

    def close(self) -> None:
        """Leave the teachers, stop the workers; so does all that was cut from it. Safe twice."""
        self._close_cut()
        self._abandon("this loader was closed")
        self._shut()
        if self._probes is not None:
            self._probes.close()


def _shut(fleet: Fleet, samples: Samples | None, caches: Caches) -> None:
    if samples is not None:
        samples.close()
    fleet.close()
    caches.close()
