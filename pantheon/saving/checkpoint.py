"""Checkpoints: nested state in one safetensors file, written atomically; no pickle."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pantheon.errors import ConfigError, PantheonError, StoreError
from pantheon.saving import copies, whole_file
from pantheon.saving.nested import checksum, content, pack, unpack

KEY = "pantheon.state"
"""The metadata entry that holds the JSON."""

SUM = "pantheon.xxh3_64"
"""The metadata entry that holds the checksum of the JSON and of all tensors."""

NAME = "pantheon.name"
"""The metadata entry that holds the name of the file that was written to."""


def save(path: str | os.PathLike[str], state: Mapping[Any, Any], *, keep: int = 1) -> str:
    """Write `state` so that `path` always holds a whole checkpoint, the old one or the new one.

    The file is written under another name, flushed to the disk and renamed. With `keep` above 1
    those before are kept as ``PATH.1`` (the youngest), ``PATH.2``, and so on.

    Args:
        path: a file, or a link to one; its folder is made where it does not exist.
        state: mappings (keys: texts or integers), lists and tuples of tensors, numbers, texts,
            booleans and None, to any depth.
        keep: how many files there are in the end, the new one included.

    Returns:
        The checksum, which `label` reads too.

    Raises:
        ConfigError: the path is a URL.
        StoreError: a value of another type, with where it is; or the disk refuses.
        DiskFullError: no space left; the old file is still there.

    Example:
        >>> import tempfile, torch
        >>> file = Path(tempfile.mkdtemp(), "state.safetensors")
        >>> saved = save(file, {"step": 3, "weights": {0: torch.ones(2)}})
        >>> load(file), label(file) == saved
        ({'step': 3, 'weights': {0: tensor([1., 1.])}}, True)
    """
    path = aim(path)
    tensors: dict[str, Tensor] = {}
    text = _text(state, tensors)
    found = checksum(text, tensors)
    partial = whole_file.beside(path)
    advice = "the previous checkpoint is kept: free space and resume from it"
    with whole_file.refusals(f"the checkpoint {path}", advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            whole_file.create(partial, content(tensors, {KEY: text, SUM: found, NAME: path.name}))
            copies.replace(partial, path, keep)
            whole_file.flush(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    return found


def aim(path: str | os.PathLike[str]) -> Path:
    """The file itself, where `path` is a link to it: a rename would replace the link.

    Raises:
        ConfigError: the path is a URL.
    """
    path = copies.local(path)
    return path.resolve() if path.is_symlink() else path


def _text(state: Mapping[Any, Any], tensors: dict[str, Tensor]) -> str:
    try:
        return json.dumps(pack(state, "state", tensors))
    except (RecursionError, ValueError) as error:
        if isinstance(error, PantheonError):
            raise
        raise StoreError(f"the state cannot be written as JSON: {error}") from error


def sweep(path: Path) -> None:
    """Remove what processes that were killed while they wrote to `path` have left."""
    # All of the name, so that what is written beside it to `NAME.more` meanwhile is left alone.
    left = re.compile(
        rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}(\.held)?{re.escape(whole_file.PARTIAL)}"
    )
    if path.parent.is_dir():
        for file in path.parent.iterdir():
            if left.fullmatch(file.name):
                file.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """Read what `save` wrote, on the CPU.

    Raises:
        StoreError: the file is absent, cut short, altered or not a checkpoint.
    """
    return load_labelled(path)[0]


def load_labelled(path: str | os.PathLike[str]) -> tuple[dict[Any, Any], str]:
    """What `load` answers, and the checksum that `label` would answer for the same file."""
    metadata, tensors = _read(path)
    text = metadata.get(KEY)
    if text is None:
        raise StoreError(
            f"{path} is a safetensors file without {KEY!r} in its metadata; expected a checkpoint"
        )
    try:
        state = unpack(json.loads(text), tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"the checkpoint {path} contradicts itself: {error!r:.200}") from error
    if not isinstance(state, dict):
        raise StoreError(
            f"the checkpoint {path} holds a {type(state).__name__}; expected a mapping"
        )
    found = checksum(text, tensors)
    if metadata.get(SUM) != found:
        raise StoreError(
            f"the checkpoint {path} was altered after it was written: its checksum is {found}, "
            f"expected {metadata.get(SUM)}; resume from an older one"
        )
    return state, found


def label(path: str | os.PathLike[str]) -> str | None:
    """The checksum that a checkpoint's header states, by which two are told apart.

    None where there is no file, or none with such a header. The file's content is not read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get(SUM)
    except (OSError, SafetensorError):
        return None
    return found


def theirs(file: Path, path: Path) -> bool:
    """Whether a file that is named like a copy of `path` was written to another name.

    ``fold.3`` may be the fourth file of ``fold``, or the first of a run of its own. What does not
    say is taken for a copy.
    """
    try:
        with safe_open(file, framework="pt") as found:
            metadata = found.metadata() or {}
    except (OSError, SafetensorError):
        return False
    return bool(metadata.get(NAME, path.name) != path.name)


def ages(path: Path) -> list[int]:
    """How many saves ago the files of `path` were written, 0 for itself, the youngest first."""
    every = copies.ages(path)
    return [age for age in every if not (age and theirs(copies.older(path, age), path))]


def forget(path: Path, first: int) -> None:
    """Remove the files of `path` from the age `first` on."""
    for age in ages(path):
        if age >= first:
            copies.older(path, age).unlink(missing_ok=True)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        # Safetensors opens a path twice, for header and content; a writer may replace the file in
        # between. A descriptor's path stands for one file.
        with open(path, "rb") as held, safe_open(f"/dev/fd/{held.fileno()}", "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"cannot read the checkpoint {path}: {error}; expected a file written by Pantheon"
        ) from error


def fill(model: nn.Module, path: str | os.PathLike[str], where: str) -> None:
    """Give a model the weights of a safetensors file.

    Args:
        where: what asked for it, for messages.

    Raises:
        ConfigError: they do not fit.
        StoreError: the file is absent, cut short or not safetensors.
    """
    try:
        model.load_state_dict(load_weights(path))
    except RuntimeError as error:
        name = type(model).__name__
        raise ConfigError(f"{where}: {path} does not fit {name}: {error}") from error


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name: a model's weights as `safetensors` saves them.

    Raises:
        StoreError: the file is absent, cut short or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"cannot read the weights {path}: {error}; expected a safetensors file"
        ) from error
