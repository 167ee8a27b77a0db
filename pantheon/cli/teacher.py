"""From a teacher's configuration to the teacher."""

from __future__ import annotations

from pathlib import Path

import torch

from pantheon.cli.build import dataset_from, function_from, model_from
from pantheon.config import TeacherConfig
from teacher_server import Teacher

KEYS = (
    *("revision", "name", "devices", "deterministic", "fixed_rows", "features", "buckets"),
    *("batch_rows", "finite", "views", "dataset_fingerprint", "labels"),
)
"""The keys that a teacher takes under the same name; those left out keep the teacher's default."""


def name_of(config: TeacherConfig, path: Path) -> str:
    """The teacher's name, or that of its file."""
    return config.name or path.stem


def teacher_from(config: TeacherConfig) -> Teacher:
    """The teacher that a configuration describes."""
    if config.threads:
        torch.set_num_threads(config.threads)
    given = config.model_fields_set
    example = function_from(config, config.example, "example")
    return Teacher(
        model_from(config),
        dataset_from(config),
        schema=config.schema_,
        collate_fn=function_from(config, config.collate_fn, "collate_fn"),
        example=example() if example else None,
        **{key: getattr(config, key) for key in KEYS if key in given},
    )
