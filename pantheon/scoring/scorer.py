"""A model and a dataset as a function from sample ids, or inputs, to coded knowledge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pantheon.codec import decode, encode
from pantheon.dataset import Ids, check_map_style, fingerprint, has_views
from pantheon.errors import ConfigError, DatasetError, IdOutOfRange, ModelError, PantheonError
from pantheon.knowledge import Knowledge, Value, concat_values, take_value
from pantheon.sampling.reading import (
    IdArray,
    Reader,
    bucket_of,
    length_of,
    name_ids,
    pad_rows,
    pad_sequences,
    sequences,
    slice_rows,
    to_device,
)
from pantheon.schema import KnowledgeSchema
from pantheon.scoring.calling import Model, own_device
from pantheon.scoring.fields import FieldPlan, Schema, labels_fingerprint
from pantheon.scoring.outputs import check_finite, check_form, check_rows
from pantheon.scoring.revision import model_revision, with_shape

Finite = Literal["raise", "allow"]


class Scorer:
    """A model that answers ids or inputs with coded knowledge, always in evaluation mode.

    Used by servers, dumps, local sources and stages alike, so that knowledge is the same whatever
    way it takes. Safe to call from several threads; they take turns.

    Args:
        model: a module, or a callable (whose ``revision`` must be stated).
        dataset: map-style, so that samples can be asked for by id; None to answer inputs only.
        schema: codec (or its name, or a whole FieldSpec) by field name; None takes every output
            with its own dtype, a single tensor as ``logits``.
        features: outputs of inner modules as fields: name to module path.
        device: where forwards run; None for the device the model is on.
        revision: states the revision instead of computing it from the weights.
        fixed_rows: pad every forward to this many rows (deterministic mode).
        buckets: lengths to which samples of variable length are zero-padded; the model is then
            called with ``(padded [n, bucket, ...], lengths int64 [n])`` (with keyword arguments for
            dict samples) and outputs whose second dimension is the bucket are cut to the lengths.
        batch_rows: most rows of one forward where ``fixed_rows`` is not given.
        collate_fn: as for a loader: whole samples to inputs, or to a pair of inputs and targets.
        finite: ``"raise"`` refuses NaN and infinity, ``"allow"`` sends them.
        labels: by field, the classes or tokens its last dimension names, or their fingerprint.
        dataset_fingerprint: states the fingerprint instead of computing it.
        views: how many views the dataset's ``get(id, view)`` has, for those who ask.
        example: inputs to find out the shapes with, where there is no dataset.

    Raises:
        ConfigError: arguments that contradict each other, or shapes that cannot be found out.
        ModelError, SchemaError, DatasetError: the first forward already failed.

    Example:
        >>> scorer = Scorer(torch.nn.Linear(3, 2), [[0.0, 1.0, 2.0]] * 5, {"logits": "float16"})
        >>> [part.shape for part in scorer.score(np.array([4, 0]))]
        [torch.Size([2, 2])]
        >>> scorer.schema["logits"].shape, scorer.size
        ((2,), 5)
    """

    def __init__(
        self,
        model: Any,
        dataset: Any = None,
        schema: Schema | None = None,
        *,
        features: Mapping[str, str] | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        fixed_rows: int | None = None,
        buckets: Sequence[int] | None = None,
        batch_rows: int = 256,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        finite: Finite = "raise",
        labels: Mapping[str, Sequence[str] | str] | None = None,
        dataset_fingerprint: str | None = None,
        views: int = 0,
        example: Any = None,
    ) -> None:
        _check_arguments(fixed_rows, batch_rows, buckets, finite, views, dataset)
        self.device = own_device(model) if device is None else torch.device(device)
        self.fixed_rows, self.batch_rows = fixed_rows, fixed_rows or batch_rows
        self.buckets = tuple(sorted(set(buckets))) if buckets else None
        self.finite, self.views = finite, views
        self.size = None if dataset is None else check_map_style(dataset)
        self.dataset_fingerprint = _dataset_fingerprint(dataset, dataset_fingerprint)
        self.threads = torch.get_num_threads()
        self.revision = with_shape(model_revision(model, revision), self._shape())
        self._lock = threading.RLock()
        self._reader = Reader(dataset, collate_fn)
        self._model = Model(model, features or {}, self.device)
        self._plan = FieldPlan(schema, tuple(features or {}), labels_fingerprint(labels))
        self._learn(example)
        self._selected: dict[tuple[str, ...] | None, KnowledgeSchema] = {None: self.schema}

    def _shape(self) -> dict[str, Any]:
        """What deterministic mode adds to the revision."""
        if self.fixed_rows is None:
            return {}
        shape: dict[str, Any] = {"rows": self.fixed_rows, "threads": self.threads}
        return shape | ({"buckets": list(self.buckets)} if self.buckets else {})

    def _learn(self, example: Any) -> None:
        """Find out names, dtypes and shapes by a forward of sample 0, or of the example."""
        if example is not None:
            batch: Any = example if isinstance(example, Mapping) else {"": example}
            n = len(next(iter(batch.values())))
            self.schema = self._plan.learn(self._chunks_of_inputs(batch, n, None))
        elif self.size is not None:
            ids = np.zeros(1, np.int64)
            self._plan.per_position = self._positions(ids)
            self.schema = self._plan.learn(self._values(ids, None, None))
        elif (stated := self._plan.stated()) is not None:
            self.schema = stated
        else:
            raise ConfigError(
                "without a dataset the shapes of the outputs are unknown; give example=, a tensor "
                "of inputs [n, ...] (or a dict of them), or a whole FieldSpec for every field"
            )

    def score(
        self,
        ids: IdArray,
        views: IdArray | None = None,
        fields: tuple[str, ...] | None = None,
    ) -> list[Tensor]:
        """Coded knowledge of some samples of the dataset.

        Args:
            ids: int64 ``[n]``, n at least 1, in any order.
            views: int64 ``[n]``, or None for view 0 of all.
            fields: names of the fields wanted, None for all.

        Returns:
            CPU tensors in the order of `pantheon.codec.parts.schema_parts` of the fields wanted.

        Raises:
            IdOutOfRange: an id outside the dataset; the first is named.
            ModelError: the model raised, or returned what its schema does not say.
            DatasetError: a sample could not be read.
        """
        ids, views = self._check_ids(ids), self._check_views(ids, views)
        with self._lock:
            schema = self._begin(fields)
            return _coded(schema, self._values(ids, views, schema.names))

    def score_inputs(
        self, inputs: Mapping[str, Tensor], fields: tuple[str, ...] | None = None
    ) -> list[Tensor]:
        """Coded knowledge of inputs that were sent: tensors by name, ``""`` for a single one.

        With buckets, ``lengths`` (int64 ``[n]``) goes to the model as it does for a dataset.
        """
        rows = {name or "the input": len(t) if t.dim() else 0 for name, t in inputs.items()}
        if len(set(rows.values())) != 1 or 0 in rows.values():
            raise DatasetError(
                f"inputs must be tensors of the same number of rows, at least one; found {rows}"
            )
        with self._lock:
            schema = self._begin(fields)
            values = self._chunks_of_inputs(inputs, next(iter(rows.values())), schema.names)
            return _coded(schema, values)

    def knowledge(self, ids: IdArray, views: IdArray | None = None) -> Knowledge:
        """Knowledge of some samples, encoded and decoded as a remote teacher's would be."""
        ids = np.ascontiguousarray(ids, np.int64)
        fields = decode(self.schema, self.score(ids, views))
        seen = None if views is None else torch.tensor(np.asarray(views, np.int64))
        return Knowledge(torch.tensor(ids), fields, seen)

    def select(self, fields: tuple[str, ...] | None) -> KnowledgeSchema:
        """The schema of the fields wanted; `SchemaError` for one that is not served."""
        if fields not in self._selected:
            self._selected[fields] = self.schema.select(tuple(fields or ()))
        return self._selected[fields]

    def _begin(self, fields: tuple[str, ...] | None) -> KnowledgeSchema:
        self._model.check_evaluating()
        if self.fixed_rows is not None and torch.get_num_threads() != self.threads:
            raise ModelError(
                f"torch runs {torch.get_num_threads()} threads, but the teacher's revision says "
                f"{self.threads}: call torch.set_num_threads before making the teacher"
            )
        return self.select(fields)

    def _check_ids(self, ids: IdArray) -> IdArray:
        if self.size is None:
            raise DatasetError("this teacher has no dataset, so it answers inputs, not ids")
        ids = np.ascontiguousarray(ids, np.int64)
        if ids.ndim != 1 or not len(ids):
            raise DatasetError(f"ids must be int64 [n] with n at least 1, found {list(ids.shape)}")
        if ids.min() < 0 or ids.max() >= self.size:
            bad = ids[(ids < 0) | (ids >= self.size)][0]
            raise IdOutOfRange(
                f"sample id {bad} is not in the teacher's range 0 to {self.size - 1}"
            )
        return ids

    def _check_views(self, ids: IdArray, views: IdArray | None) -> IdArray | None:
        if views is None or not np.any(views):
            return None
        if len(views) != len(ids):
            raise DatasetError(f"{len(views)} views for {len(ids)} ids; expected one each")
        if not has_views(self._reader.dataset):
            raise DatasetError(
                f"view {int(views[np.flatnonzero(views)[0]])} was asked for, but the teacher's "
                f"{type(self._reader.dataset).__name__} has no get(id, view); use views=0"
            )
        return np.ascontiguousarray(views, np.int64)

    def _values(
        self, ids: IdArray, views: IdArray | None, names: tuple[str, ...] | None
    ) -> dict[str, Value]:
        """Values by name for checked ids, forward by forward."""
        if self.buckets:
            return self._bucketed(ids, views, names)
        chunks = []
        for at in range(0, len(ids), self.batch_rows):
            part = ids[at : at + self.batch_rows]
            seen = None if views is None else views[at : at + self.batch_rows]
            batch = self._reader.batch(part, seen)
            chunks.append(self._forward(batch, None, len(part), part, names))
        return _concat(chunks)

    def _bucketed(
        self, ids: IdArray, views: IdArray | None, names: tuple[str, ...] | None
    ) -> dict[str, Value]:
        """As `_values`, with samples of like length in one forward."""
        samples = sequences(self._reader.items(ids, views))
        lengths = np.array([length_of(s) for s in samples], np.int64)
        homes = np.array([bucket_of(n, self.buckets or ()) for n in lengths.tolist()])
        order = np.argsort(homes, kind="stable")
        chunks = []
        for bucket in np.unique(homes).tolist():
            rows = order[homes[order] == bucket]
            for at in range(0, len(rows), self.batch_rows):
                part = rows[at : at + self.batch_rows]
                batch = pad_sequences([samples[r] for r in part.tolist()], bucket)
                length = torch.from_numpy(lengths[part])
                chunks.append(self._forward(batch, length, len(part), ids[part], names))
        values = _concat(chunks)
        if bool((np.diff(order) == 1).all()):
            return values
        back = torch.from_numpy(np.argsort(order))
        return {name: take_value(v, back.to(v.device)) for name, v in values.items()}

    def _positions(self, ids: IdArray) -> frozenset[str] | None:
        """Fields that have one row per position: their second dimension follows the bucket."""
        if not self.buckets:
            return None
        seen = []
        sample = sequences(self._reader.items(ids, None))[0]
        own = bucket_of(length_of(sample), self.buckets)
        for bucket in {own, self.buckets[-1]}:
            length = torch.tensor([length_of(sample)])
            with torch.inference_mode():
                raw = self._raw(pad_sequences([sample], bucket), length, 1, ids, None)
            seen.append(
                {
                    name
                    for name, value in raw.items()
                    if isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] == bucket
                }
            )
        return frozenset.intersection(*map(frozenset, seen))

    def _chunks_of_inputs(
        self, inputs: Mapping[str, Tensor], n: int, names: tuple[str, ...] | None
    ) -> dict[str, Value]:
        chunks = []
        for at in range(0, n, self.batch_rows):
            part = slice_rows(dict(inputs), at, min(at + self.batch_rows, n))
            lengths = part.pop("lengths", None) if self.buckets else None
            batch = part[""] if set(part) == {""} else part
            rows = min(self.batch_rows, n - at)
            chunks.append(self._forward(batch, lengths, rows, None, names))
        return _concat(chunks)

    def _forward(
        self,
        batch: Any,
        lengths: Tensor | None,
        rows: int,
        ids: IdArray | None,
        names: tuple[str, ...] | None,
    ) -> dict[str, Value]:
        """One forward, checked and cut to its rows; the values stay on the device."""
        # Only from here: a dataset may keep tensors it makes, which others then train on.
        with torch.inference_mode():
            raw = self._raw(batch, lengths, rows, ids, names)
            return {n: self._checked(n, value, lengths, rows, ids) for n, value in raw.items()}

    def _checked(
        self, name: str, value: Value, lengths: Tensor | None, rows: int, ids: IdArray | None
    ) -> Value:
        """A field of a forward, without the padding."""
        check_rows(name, value, self.fixed_rows or rows)
        value = value if len(value) == rows else value[:rows]
        value = self._plan.ragged(name, value, lengths)
        if (form := self._plan.forms.get(name)) is not None:
            check_form(name, value, form)
        if self.finite == "raise":
            check_finite(name, value, ids)
        return value

    def _raw(
        self,
        batch: Any,
        lengths: Tensor | None,
        rows: int,
        ids: IdArray | None,
        names: tuple[str, ...] | None,
    ) -> dict[str, Value]:
        """What the model returns for a batch, padded to the fixed shape, by name."""
        fixed = self.fixed_rows or rows
        batch = to_device(pad_rows(batch, rows, fixed), self.device)
        if lengths is not None:
            lengths = to_device(pad_rows(lengths, rows, fixed), self.device)
        wanted = self._plan.features_of(names)
        try:
            output, features = self._model(batch, lengths, wanted)
        except PantheonError:
            raise
        except (Exception, SystemExit) as error:
            raise ModelError(
                f"the model raised {type(error).__name__} for ids {name_ids(ids)}: {error}"
            ) from error
        return self._plan.outputs(output, features, names)


def _concat(chunks: list[dict[str, Value]]) -> dict[str, Value]:
    if len(chunks) == 1:
        return chunks[0]
    return {name: concat_values([c[name] for c in chunks]) for name in chunks[0]}


def _coded(schema: KnowledgeSchema, values: Mapping[str, Value]) -> list[Tensor]:
    """Coded parts on the CPU, coded where the values are."""
    with torch.inference_mode():
        return [p if p.device.type == "cpu" else p.cpu() for p in encode(schema, values)]


def _dataset_fingerprint(dataset: Any, given: str | None) -> str | None:
    if dataset is None or (given is None and isinstance(dataset, Ids)):
        return given
    return fingerprint(dataset, given)


def _check_arguments(
    fixed_rows: int | None,
    batch_rows: int,
    buckets: Sequence[int] | None,
    finite: str,
    views: int,
    dataset: Any,
) -> None:
    """Raise `ConfigError` for arguments that cannot be."""
    for name, value, low in (
        ("fixed_rows", fixed_rows, 1),
        ("batch_rows", batch_rows, 1),
        ("views", views, 0),
        *(("buckets", b, 1) for b in buckets or ()),
    ):
        if value is not None and (not isinstance(value, int) or value < low):
            raise ConfigError(f"{name} must be an integer of at least {low}, found {value!r}")
    if finite not in ("raise", "allow"):
        raise ConfigError(f"finite must be 'raise' or 'allow', found {finite!r}")
    if views and not has_views(dataset):
        raise ConfigError(
            f"views={views}, but {type(dataset).__name__} has no get(id, view) to make them"
        )
