"""A checkpoint's file: the safetensors header, and the nested state in its metadata."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from pantheon.errors import StoreError
from pantheon.saving import checkpoint
from pantheon.saving.nested import checksum
from tests.fuzz import tree
from tests.fuzz.octets import dig, scramble
from tests.fuzz.target import Target

_STATE = {
    "step": 3,
    "model": {"weight": torch.ones(2, 3), "bias": torch.zeros(3, dtype=torch.bfloat16)},
    "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "betas": (0.9, 0.999)},
    "history": [{"loss": 0.5, "note": None, "done": True}],
}
_MEMORY = Path("/dev/shm")  # Where there is none, the files are on disk, and all is slower.
_FOLDER = tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)
_FILE = Path(_FOLDER.name, "state.safetensors")


def seeds() -> list[bytes]:
    """A checkpoint, which is a model's weights too."""
    checkpoint.save(_FILE, _STATE)
    return [_FILE.read_bytes()]


def read(data: bytes) -> None:
    """Load the file as weights, then as a checkpoint."""
    _FILE.write_bytes(data)
    with suppress(StoreError):
        checkpoint.load_weights(_FILE)
    checkpoint.load(_FILE)


def mutate(data: bytes, rng: Random) -> bytes:
    """Change the header's JSON, or the JSON of the state inside it and its checksum, or bytes."""
    size = int.from_bytes(data[:8], "little")
    how = rng.random()
    if how < 0.2:
        return scramble(data, rng)
    try:
        wire = json.loads(data[8 : 8 + size])
        if how < 0.5:
            text = json.dumps(tree.change(wire, rng)).encode()
        else:
            state = _state(wire["__metadata__"], rng, how < 0.6)
            found = {checkpoint.KEY: state, checkpoint.SUM: checksum(state, load(data))}
            text = json.dumps(wire | {"__metadata__": found}).encode()
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ):
        return scramble(data, rng)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _state(metadata: Any, rng: Random, deep: bool) -> str:
    text = metadata[checkpoint.KEY]
    if deep:
        return dig(text.encode(), rng).decode(errors="replace")
    return json.dumps(tree.change(json.loads(text), rng))


TARGET = Target(seeds, mutate, read, (StoreError,))
