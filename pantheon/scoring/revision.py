"""A teacher's revision: a fingerprint of what its answers depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import xxhash

from pantheon.errors import ConfigError


def model_revision(model: object, stated: str | None = None) -> str:
    """The revision of a model: stated by the user, else computed from its weights.

    A module's is the xxh3_64 of the class names of its parts and of every parameter and buffer
    (name, dtype, shape, bytes), wherever they are and however its knowledge will be coded. What is
    neither, such as preprocessing or the text of ``forward``, is the user's to state.

    Raises:
        ConfigError: a bare callable without a stated revision, or weights that cannot be read.

    Example:
        >>> model_revision(abs, "v1")
        'v1'
        >>> len(model_revision(torch.nn.Linear(2, 1)))
        16
    """
    if stated is not None:
        if not stated:
            raise ConfigError("revision= is empty; state any text that changes with the model")
        return stated
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(
            f"the model is a {type(model).__name__}, whose weights Pantheon cannot see; state "
            "revision='…', any text that changes when its answers do"
        )
    state = xxhash.xxh3_64()
    for name, part in model.named_modules():
        state.update(f"{name}={type(part).__qualname__};".encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        state.update(_bytes(name, tensor))
    return str(state.hexdigest())


def _bytes(name: str, tensor: torch.Tensor) -> memoryview:
    """The bytes of one weight, little-endian, C order."""
    try:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ConfigError(
            f"the bytes of weight {name!r} ({tensor.dtype}, {tensor.layout}) cannot be read "
            f"({error}); state revision='…'"
        ) from error


def with_shape(revision: str, shape: Mapping[str, Any]) -> str:
    """A revision that names the fixed shape and threads of its forwards, where there are any.

    The same row has other bits in another batch shape, so these are part of the revision.

    Example:
        >>> with_shape("v1", {})
        'v1'
        >>> with_shape("v1", {"rows": 32, "threads": 2})
        'v1+rows=32,threads=2'
    """
    if not shape:
        return revision
    return f"{revision}+" + ",".join(f"{k}={_plain(v)}" for k, v in sorted(shape.items()))


def _plain(value: Any) -> str:
    return json.dumps(value, separators=(":", ":")).strip("[]")
