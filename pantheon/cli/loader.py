"""From a student's configuration to its loader."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeGuard

from pantheon.cli.build import dataset_from, function_from
from pantheon.cli.security import security_of
from pantheon.config import StreamConfig
from pantheon.errors import ConfigError
from pantheon.probes import http_address
from pantheon.reference import resolve
from pantheon.sampling.sample_stream import SampleStream
from student_client import KnowledgeLoader

SAMPLES = ("batch_size", "shuffle", "seed", "drop_last", "views", "num_workers")
"""The keys that say which samples are read, and how."""

KEYS = (
    *("fields", "request_rows", "window_bytes", "max_requests", "patience", "lease", "attempts"),
    *("integrity", "verify", "tolerance", "dataset_fingerprint", "revision", "cache"),
    *("cache_bytes",),
)
"""The other keys that a loader takes under the same name; those left out keep its default."""


def stream_from(
    config: StreamConfig,
    teachers: Mapping[str, Any],
    *,
    dataset: Any = None,
    ids: Any = None,
    http: str | None = None,
    **changes: Any,
) -> KnowledgeLoader | SampleStream:
    """The stream that a configuration describes: a loader, or without teachers samples alone.

    Args:
        teachers: as a loader takes them.
        dataset: in place of the one that is to be made.
        ids: in place of those of the configuration.
        http: where metrics and health are served, in place of what the file says; empty for
            nowhere. The ranks of one machine take one port after another.
        changes: arguments in place of the configuration's.
    """
    where = config.http if http is None else http
    settings = {k: v for k in SAMPLES if (v := getattr(config, k)) is not None}
    settings["collate_fn"] = function_from(config, config.collate_fn, "collate_fn")
    settings["ids"] = _ids(config) if ids is None else ids
    dataset = dataset_from(config) if dataset is None else dataset
    if not teachers:
        return SampleStream(dataset, **settings | changes)
    settings |= {k: v for k in KEYS if (v := getattr(config, k)) is not None}
    return KnowledgeLoader(
        dataset,
        teachers=teachers,
        merge={field: merge_from(config, field) for field in config.merge},
        security=security_of(config.security),
        http=rank_address(where, int(os.environ.get("LOCAL_RANK", "0"))) if where else None,
        **settings | changes,
    )


def rank_address(http: str, local: int) -> str:
    """The HTTP address of one of a machine's ranks: the port given is the first one's.

    Example:
        >>> rank_address("0.0.0.0:9464", 1), rank_address("[::1]:0", 1)
        ('0.0.0.0:9465', '[::1]:0')
    """
    host, port = http_address(http)
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port + local if port else 0}"


def _ids(config: StreamConfig) -> Any:
    """The ids to train on, None for all; a function that answers none must not mean all."""
    function = function_from(config, config.ids, "ids")
    ids = None if function is None else function()
    if function is not None and ids is None:
        raise ConfigError(
            f"{config.where('ids')}: {config.ids} answered None; expected the ids to train on "
            "(leave the key out to train on all)"
        )
    return ids


def merge_from(config: StreamConfig, field: str) -> Any:
    """A merge: its name, ``{weighted: {teacher: weight}}``, ``{mixture: …}`` or a function.

    ``{quorum: MERGE, least: 1, below: mask}`` wraps one of these; its MERGE may be null.
    """
    return _merge(config.merge[field], config.where("merge", field))


def _merge(value: Any, where: str) -> Any:
    from pantheon.merge import Mixture, Quorum, Weighted

    if isinstance(value, str):
        return resolve(value, where) if ":" in value else value
    if "quorum" in value:
        if extra := sorted(value.keys() - {"quorum", "least", "below"}):
            raise ConfigError(f"{where}: a quorum takes least and below, found {extra[0]!r}")
        inner = value["quorum"]
        options = {k: v for k, v in value.items() if k != "quorum"}
        return Quorum(None if inner is None else _merge(inner, where), **options)
    kinds = {"weighted": Weighted, "mixture": Mixture}
    kind, weights = next(iter(value.items()), ("", None))
    if len(value) != 1 or kind not in kinds or not _weights(weights):
        raise ConfigError(
            f"{where}: expected a merge's name, package.module:function, one of weighted and "
            f"mixture with a number for each teacher, or quorum; found {value}"
        )
    return kinds[kind](**weights)


def _weights(value: Any) -> TypeGuard[dict[str, float]]:
    """Whether a value is a number by teacher."""
    return isinstance(value, dict) and all(
        isinstance(teacher, str) and isinstance(weight, int | float)
        for teacher, weight in value.items()
    )
