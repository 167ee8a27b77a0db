"""A model's weights as plain tensors by name, and a model filled with them, strictly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pantheon.errors import ArtifactError, StoreError
from pantheon.quote import near, quoted
from pantheon.saving.nested import DTYPES, pack


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: Any, /) -> None: ...


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU of what a model's `state_dict` has; tied weights under each of their names.

    Raises:
        StoreError: values that are no tensors, or tensors that safetensors cannot carry.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> sorted(weights_of(nn.Sequential(layer, layer)))
        ['0.weight', '1.weight']
    """
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise StoreError(
                f"{name} is a {type(value).__name__}; an artifact holds tensors only: have the "
                "module keep its state in buffers"
            )
        pack(value, name, found)
    return found


def kinds_of(model: nn.Module) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Dtype and shape of each tensor of a model's `state_dict` that has values by now.

    Example:
        >>> kinds_of(nn.Linear(2, 3, bias=False))
        {'weight': (torch.float32, torch.Size([3, 2]))}
    """
    return {
        name: (value.dtype, value.shape)
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and not is_lazy(value)
    }


def update(state: Hash, tensors: Mapping[str, Tensor]) -> None:
    """Feed a hash with the names, dtypes, shapes and bytes of tensors on the CPU, by name."""
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"\0{name}\0{DTYPES[tensor.dtype]}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            state.update(_bytes(tensor).numpy().data)


def fill(model: nn.Module, file: Any, where: str) -> None:
    """Load weights into a model that has exactly their names, shapes and dtypes.

    Nothing is read before these fit, so that no more is read than the model has room for.

    Args:
        file: from `safetensors.safe_open`.
        where: the file's path, put into messages.

    Raises:
        ArtifactError: weights that are missing, unexpected, of another shape or dtype, or that
            differ where the model has one tensor for both.
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    theirs = list(file.keys())
    _require_names(own, theirs, where)
    for name in theirs:
        _require_kind(name, own[name], file.get_slice(name), where)
    tensors = {name: file.get_tensor(name) for name in theirs}
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ArtifactError(f"the weights {where} do not fit the model: {error}") from error
    loaded = model.state_dict()
    for name, tensor in tensors.items():
        if not torch.equal(_bytes(loaded[name].cpu()), _bytes(tensor)):
            raise ArtifactError(
                f"the rebuilt model did not take {quoted(name)} from {where}: another name shares "
                "its memory and has other values; have the factory tie what was tied when it was "
                "saved, and nothing else"
            )


def _require_names(own: Mapping[str, Tensor], theirs: Iterable[str], where: str) -> None:
    missing = sorted(set(own) - set(theirs))
    unexpected = sorted(set(theirs) - set(own))
    if not missing and not unexpected:
        return
    parts = [
        f"{word} {', '.join(map(quoted, names[:5]))}{' and more' * (len(names) > 5)}"
        for word, names in (("misses", missing), ("has the unexpected", unexpected))
        if names
    ]
    hint = near(unexpected[0], own) if unexpected else ""
    raise ArtifactError(
        f"{where} {' and '.join(parts)}{hint}; the factory or the edits make another model than "
        "the one that was saved"
    )


def _require_kind(name: str, own: Tensor, theirs: Any, where: str) -> None:
    expected = (DTYPES.get(own.dtype), list(own.shape))
    found = (theirs.get_dtype(), theirs.get_shape())
    if found != expected:
        raise ArtifactError(
            f"{quoted(name)} in {where} is {found[0]} of shape {quoted(found[1])}; the rebuilt "
            f"model has {expected[0]} of shape {expected[1]}"
        )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
