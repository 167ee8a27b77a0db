"""Nested state in one safetensors file: tensors as tensors, the rest as JSON; no pickle."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pantheon.errors import DiskFullError, StoreError

KEY = "pantheon.state"
"""The metadata entry that holds the JSON."""


def save(path: str | os.PathLike[str], state: Mapping[Any, Any]) -> None:
    """Write `state` so that `path` always holds a whole checkpoint, the old one or the new one.

    Args:
        path: a file; its folder is made where it does not exist.
        state: mappings (keys: texts or integers), lists and tuples of tensors, numbers, texts,
            booleans and None, to any depth.

    Raises:
        StoreError: a value of another type; names where it is.
        DiskFullError: no space left; the old file is still there.

    Example:
        >>> import tempfile, torch
        >>> file = Path(tempfile.mkdtemp(), "state.safetensors")
        >>> save(file, {"step": 3, "weights": {0: torch.ones(2)}})
        >>> load(file)
        {'step': 3, 'weights': {0: tensor([1., 1.])}}
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(state, "state", tensors))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, {KEY: text})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise DiskFullError(
                f"no space left while writing {path}; the previous checkpoint is kept: free some "
                "space and resume from it"
            ) from error
        raise StoreError(f"cannot write the checkpoint {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """Read what `save` wrote, on the CPU.

    Raises:
        StoreError: the file is absent, cut short or not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"cannot read the checkpoint {path}: {error}; expected a file written by Pantheon"
        ) from error
    if text is None:
        raise StoreError(
            f"{path} is a safetensors file without {KEY!r} in its metadata; expected a checkpoint"
        )
    try:
        state = _unpack(json.loads(text), tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"the checkpoint {path} contradicts itself: {error!r:.200}") from error
    if not isinstance(state, dict):
        raise StoreError(
            f"the checkpoint {path} holds a {type(state).__name__}; expected a mapping"
        )
    return state


def _pack(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors moved to `tensors` under the path they were found at."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            # A copy, because safetensors refuses tensors that share memory (tied weights do).
            tensors[where] = value.detach().cpu().clone().contiguous()
            return {"tensor": where}
        case Mapping():
            pairs = [[_key(k, where), _pack(v, f"{where}.{k}", tensors)] for k, v in value.items()]
            return {"map": pairs}
        case list() | tuple():
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [_pack(v, f"{where}.{i}", tensors) for i, v in enumerate(value)]}
    raise StoreError(
        f"{where} is a {type(value).__name__}; a checkpoint holds tensors, numbers, texts, None, "
        "and mappings and lists of them"
    )


def _key(key: Any, where: str) -> str | int:
    if type(key) in (str, int):
        return key  # type: ignore[no-any-return]  # mypy does not narrow by type() in a tuple
    raise StoreError(f"{where} has a key of type {type(key).__name__}; expected text or integer")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "tensor":
            return tensors[inner]
        case "map":
            return {key: _unpack(v, tensors) for key, v in inner}
        case "list":
            return [_unpack(v, tensors) for v in inner]
        case "tuple":
            return tuple(_unpack(v, tensors) for v in inner)
    raise ValueError(f"unknown kind {kind!r}")


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
