"""An artifact's folder: factory, arguments and edits as JSON, and the weights that they fit."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.fold import FoldBatchNorm
from pantheon.compress.folder import RECIPE, WEIGHTS
from pantheon.compress.select import SelectChannels
from pantheon.errors import ArtifactError
from tests.fuzz import tree
from tests.fuzz.octets import dig, join, scramble, split
from tests.fuzz.target import Target

FACTORY = "tests.fuzz.artifact:net"
_MEMORY = Path("/dev/shm")  # Where there is none, the files are on disk, and all is slower.
_FOLDER = tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)


def net(**ignored: Any) -> nn.Module:
    """A small model, whatever the arguments: a factory answers for its own."""
    return nn.ModuleDict(
        {
            "conv": nn.Conv2d(2, 4, 1, bias=False),
            "norm": nn.BatchNorm2d(4),
            "head": nn.Linear(4, 3),
        }
    )


def seeds() -> list[bytes]:
    """Artifacts without edits, and with one or two."""
    cut = SelectChannels({"head": {"out": [0, 2], "in": [1, 2, 3]}})
    return [_written(edits) for edits in ((), (cut,), (FoldBatchNorm([("conv", "norm")]), cut))]


def _written(edits: Any) -> bytes:
    artifact, folder = Artifact.make(FACTORY, {"layers": [1, 2], "note": None}), Path(_FOLDER.name)
    for edit in edits:
        artifact.edit(edit)
    artifact.save(folder)
    return join([(folder / name).read_bytes() for name in (RECIPE, WEIGHTS)])


def read(data: bytes) -> None:
    """Rebuild the model, by no other factory than ours."""
    folder = Path(_FOLDER.name)
    for name, part in zip((RECIPE, WEIGHTS), (*split(data), b"", b""), strict=False):
        (folder / name).write_bytes(part)
    Artifact.load(folder, factories=[FACTORY])


def mutate(data: bytes, rng: Random) -> bytes:
    """Change the recipe and put its digests right, or the weights and theirs, or bytes."""
    try:
        recipe, weights = split(data)
        said = json.loads(recipe)
        del said["sha256"]
        how = rng.random()
        if how < 0.6:
            part = rng.choice(("edits", "args", "args")) if how < 0.5 else None
            said = said | {part: tree.change(said[part], rng)} if part else tree.change(said, rng)
        elif how < 0.8:
            weights = scramble(weights, rng)
            said["weights_sha256"] = hashlib.sha256(weights).hexdigest()
        elif how < 0.9:
            return join([dig(recipe, rng), weights])
        else:
            return scramble(data, rng)
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return join([json.dumps(said | {"sha256": digest}).encode(), weights])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return scramble(data, rng)


TARGET = Target(seeds, mutate, read, (ArtifactError,), 2000)
