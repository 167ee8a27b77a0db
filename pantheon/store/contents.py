"""What a dump holds, for people and for scripts; and whether it is whole."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pantheon.codec import decode
from pantheon.errors import ShardError
from pantheon.store.folder import Folder
from pantheon.store.opened import Shards, open_manifest
from pantheon.store.pairs import Ids, runs
from pantheon.store.reader import KnowledgeReader

MAX_VALUES = 8
"""How many numbers of a value are shown."""


def describe(path: str | os.PathLike[str], *, rows: int = 3) -> dict[str, Any]:
    """What a dump holds, as plain values that `json.dumps` takes.

    Args:
        path: the folder, any fsspec path.
        rows: how many samples to show, decoded.

    Returns:
        ``path``, ``schema``, ``fingerprint``, ``revision``, ``dataset``, ``size`` (samples of the
        dataset), ``views``, ``rows`` (pairs held), ``ids`` (count, first, last, and the first few
        ranges), ``bytes``, ``shards``, ``sample``.

    Raises:
        ManifestError, ShardError: the dump is not right.
    """
    with KnowledgeReader(path) as reader:
        ids = reader.ids
        return {
            "path": reader.path,
            "schema": reader.schema.to_wire(),
            "fingerprint": reader.schema.fingerprint,
            "revision": reader.revision,
            "dataset": reader.dataset,
            "size": reader.size,
            "views": reader.views,
            "rows": sum(e.rows for e in reader.shards),
            "ids": _ids(ids),
            "bytes": sum(e.bytes for e in reader.shards),
            "shards": [_shard(e.to_wire()) for e in reader.shards],
            "sample": _sample(reader, rows),
        }


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Check every byte of a dump.

    Returns:
        What is wrong, a line each; empty when the dump is right.

    Raises:
        ManifestError, ShardError: it cannot be opened at all.
    """
    folder = Folder(path)
    manifest = open_manifest(folder)
    shards = Shards(folder, manifest.info, manifest.entries)
    wrong = []
    for number in range(len(manifest.entries)):
        try:
            shards.check(number)
        except ShardError as error:
            wrong.append(str(error))
    return wrong


def _ids(ids: Ids) -> dict[str, Any]:
    found = runs(ids, np.zeros_like(ids))
    return {
        "count": len(ids),
        "first": int(ids[0]) if len(ids) else None,
        "last": int(ids[-1]) if len(ids) else None,
        "ranges": [[start, stop] for _, start, stop in found[:8]],
    }


def _shard(wire: dict[str, Any]) -> dict[str, Any]:
    return {k: wire[k] for k in ("shard", "rows", "bytes", "xxh3_64", "views")}


def _sample(reader: KnowledgeReader, rows: int) -> list[dict[str, Any]]:
    """The first rows of the lowest view, each with its id and the first numbers of its fields."""
    view, ids = reader.first(rows)
    values = decode(reader.schema, reader.read(ids, np.full_like(ids, view)))
    return [
        {"id": int(i), "view": view, **{name: shown(value[k]) for name, value in values.items()}}
        for k, i in enumerate(ids)
    ]


def shown(value: Any) -> Any:
    """Shape and first numbers of a tensor; the parts of anything made of several."""
    parts = getattr(value, "__dataclass_fields__", None)
    if parts is not None:
        return {k: shown(getattr(value, k)) for k in parts if hasattr(getattr(value, k), "shape")}
    flat = value.reshape(-1)[:MAX_VALUES].tolist()
    return {"shape": list(value.shape), "first": flat}
