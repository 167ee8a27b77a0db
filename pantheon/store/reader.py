"""Reads a dump: any rows by (id, view), in any order, at the price of what is touched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pantheon.errors import ConfigError, IdOutOfRange
from pantheon.schema import KnowledgeSchema
from pantheon.store.folder import Folder
from pantheon.store.manifest import Entry
from pantheon.store.opened import Shards, open_manifest
from pantheon.store.pairs import Ids, PairIndex, pair_arrays
from pantheon.store.rows import read_rows

Verify = Literal["touch", "open", "never"]


class KnowledgeReader:
    """The knowledge of one dump.

    Several threads may read at once, and a forked process goes on reading.

    Args:
        path: the folder, any fsspec path.
        verify: ``"touch"`` checks the checksum of every 64 KiB the first time they are read,
            ``"open"`` those of all files at once, ``"never"`` none (headers, offsets and sizes
            are always checked).

    Raises:
        ManifestError: no manifest, or one that is not right.
        ShardError: a shard is missing, cut short, altered, or not in the manifest.

    Example:
        >>> import torch
        >>> from pantheon.schema import FieldSpec
        >>> from pantheon.store.manifest import DumpInfo
        >>> from pantheon.store.writer import KnowledgeWriter
        >>> info = DumpInfo(KnowledgeSchema((FieldSpec("y", "float32", ()),)), "r1", None, 4)
        >>> writer = KnowledgeWriter("memory://pantheon-doctest-reader", info)
        >>> entry = writer.write(np.arange(4), np.zeros(4, np.int64), [[torch.arange(4.0)]])
        >>> manifest = writer.finish()
        >>> KnowledgeReader("memory://pantheon-doctest-reader").read(np.array([3, 1]))
        [tensor([3., 1.])]
    """

    def __init__(self, path: str | os.PathLike[str], *, verify: Verify = "touch") -> None:
        if verify not in ("touch", "open", "never"):
            raise ConfigError(f"verify is {verify!r}; expected 'touch', 'open' or 'never'")
        self._folder = Folder(path)
        self._verify = verify
        self._manifest = open_manifest(self._folder)
        self._shards = Shards(self._folder, self._manifest.info, self._manifest.entries)
        if verify == "open":
            self._shards.check_all()
        self._index = PairIndex(self._shards.runs(n) for n in range(len(self.shards)))

    @property
    def path(self) -> str:
        """The folder, as it was given."""
        return self._folder.path

    @property
    def schema(self) -> KnowledgeSchema:
        """The fields held."""
        return self._manifest.info.schema

    @property
    def revision(self) -> str:
        """The revision of the teacher that was dumped."""
        return self._manifest.info.revision

    @property
    def dataset(self) -> str | None:
        """Fingerprint of the dataset, None when the teacher did not know it."""
        return self._manifest.info.dataset

    @property
    def size(self) -> int:
        """Number of samples of the dataset; a dump may hold fewer."""
        return self._manifest.info.size

    @property
    def views(self) -> int:
        """The highest view held; 0 when every sample was dumped as it is."""
        return self._manifest.views

    @property
    def shards(self) -> tuple[Entry, ...]:
        """The shards, sorted by name."""
        return self._manifest.entries

    @property
    def ids(self) -> Ids:
        """The ids held in any view, int64 ``[n]``, sorted."""
        return self._index.ids()

    def first(self, count: int) -> tuple[int, Ids]:
        """The lowest view held, and its first ids, at most `count`."""
        view = min(self._index.views, default=0)
        return view, self._index.ids(view)[:count] if self.shards else np.empty(0, np.int64)

    def holds(self, ids: Ids, views: Ids | None = None) -> NDArray[np.bool_]:
        """Which pairs the dump holds, bool ``[n]``."""
        found, _ = self._index.find(*pair_arrays(ids, views))
        return found >= 0

    def read(
        self, ids: Ids, views: Ids | None = None, fields: Sequence[str] | None = None
    ) -> list[Tensor]:
        """The coded parts of some samples, in the order asked for.

        Args:
            ids: int64 ``[n]``, any order, repeats allowed.
            views: int64 ``[n]``, or None for view 0.
            fields: names of the fields wanted, None for all.

        Returns:
            Tensors on the CPU, in the order of `schema_parts` of the fields wanted.

        Raises:
            IdOutOfRange: samples that the dump does not hold.
            ShardError: a shard turned out to be damaged.
        """
        wanted, view = pair_arrays(ids, views)
        shard, row = self._index.find(wanted, view)
        if len(wanted) and shard.min() < 0:
            self._refuse(wanted, view, shard)
        schema = self.schema if fields is None else self.schema.select(tuple(fields))
        return read_rows(self._shards, schema, shard, row, check=self._verify == "touch")

    def close(self) -> None:
        """Let go of the files; reads that are under way finish."""
        self._shards.close()

    def __enter__(self) -> KnowledgeReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self._folder.path, self._verify)

    def _refuse(self, ids: Ids, views: Ids, shard: Ids) -> None:
        lost = shard < 0
        some = ", ".join(
            str(i) if not v else f"{i} (view {v})"
            for i, v in zip(ids[lost][:10].tolist(), views[lost][:10].tolist(), strict=True)
        )
        held = ", ".join(map(str, self._index.views[:10])) or "none"
        raise IdOutOfRange(
            f"the dump at {self.path} does not hold {int(lost.sum())} of {len(ids)} samples asked "
            f"for: {some}{', ...' if lost.sum() > 10 else ''}. It holds {self._manifest.rows} rows "
            f"of a dataset of {self.size}, views {held}; dump these ids and views too"
        )


def _open(path: str, verify: Verify) -> KnowledgeReader:
    return KnowledgeReader(path, verify=verify)
