"""Artifacts: a compressed model as it is kept on disk, and rebuilt without a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pantheon import reference
from pantheon.compress import folder as folders
from pantheon.compress import registry, strict
from pantheon.compress.registry import Edit
from pantheon.compress.undo import Undoing, undone
from pantheon.compress.weights import fill, kinds_of, update, weights_of
from pantheon.errors import ArtifactError, CompressionError, ConfigError, PantheonError
from pantheon.quote import quoted
from pantheon.saving import copies


class Artifact:
    """A model as a factory made it, and the edits since.

    On disk that is a folder of ``artifact.json`` (factory, arguments and edits) and
    ``weights.safetensors``, the model's `state_dict`. A model is rebuilt from them by calling the
    factory, making the edits again and loading the weights, and answers what it did, bit by bit.
    What else was done to the live model is lost: its training mode, which parameters require
    gradients, hooks, memory formats, and buffers that are not persistent. Make one with `make` or
    `load`.

    Attributes:
        factory: ``"package.module:function"``, which answers an `nn.Module`.
        args: the factory's keyword arguments as JSON.

    Example:
        >>> import tempfile
        >>> from pantheon.compress.select import SelectChannels
        >>> artifact = Artifact.make("torch.nn:Linear", {"in_features": 2, "out_features": 4})
        >>> artifact.edit(SelectChannels({"": {"out": [0, 3]}}))
        >>> place = Path(tempfile.mkdtemp(), "half")
        >>> artifact.save(place)
        >>> again = Artifact.load(place)
        >>> again.model, again.digest() == artifact.digest()
        (Linear(in_features=2, out_features=2, bias=True), True)
    """

    def __init__(self, factory: str, args: Mapping[str, Any], model: nn.Module) -> None:
        self.factory = factory
        self.args = dict(args)
        self._model = model
        self._spoilt = ""
        self._edits: list[tuple[Edit, dict[str, Any]]] = []
        self._kinds = kinds_of(model)

    @classmethod
    def make(cls, factory: str, args: Mapping[str, Any] | None = None, where: str = "") -> Artifact:
        """A fresh model without edits.

        Args:
            factory: what to call; it answers an `nn.Module`.
            args: keyword arguments, which must be JSON; tuples become lists.
            where: file, line and key, put before messages.

        Raises:
            ConfigError: no such factory, arguments that do not fit or are no JSON, or an answer
                that is no module.
        """
        before = f"{where}: " if where else ""
        try:
            args = json.loads(json.dumps(dict(args or {}), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{before}the arguments of {factory} cannot be written as JSON: {error}"
            ) from error
        model = reference.call(factory, args, where)
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"{before}{factory} answered a {type(model).__name__}; expected a torch.nn.Module"
            )
        return cls(factory, args, model)

    @property
    def model(self) -> nn.Module:
        """The live model. Train it at will; change its structure with `edit` only.

        Raises:
            CompressionError: an edit wrote into weights and failed, which cannot be undone.
        """
        if self._spoilt:
            raise CompressionError(self._spoilt)
        return self._model

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits so far, the first one first."""
        return tuple(edit for edit, _ in self._edits)

    def edit(self, edit: Edit) -> None:
        """Change the live model, and record how.

        Where it raises, nothing is recorded, and the model is as it was. If the edit, against the
        rules of `Edit`, had written into weights, the artifact cannot be used any more and says so.

        Raises:
            ConfigError: the edit does not fit the model, or could not be read back from JSON.
            CompressionError: the edit answers something else than a module.
        """
        wire, undoing, before = registry.write(edit), Undoing(), kinds_of(self.model)
        try:
            with undone(self.model) as undoing:
                model = edit.apply(self.model)
                if not isinstance(model, nn.Module):
                    raise CompressionError(
                        f"the edit {edit.kind} answered a {type(model).__name__}; expected the "
                        "model"
                    )
        finally:
            if not undoing.complete:
                self._spoilt = (
                    f"the edit {edit.kind} wrote into the model's weights and failed, so that they "
                    "are neither the old nor the new ones; load the artifact again"
                )
        self._model = model
        self._edits.append((edit, wire))
        after = kinds_of(model)
        # Of what the edit left alone, how it was made: the live model may be changed since.
        made = {k: v for k, v in self._kinds.items() if k in after or k not in before}
        self._kinds = made | {k: v for k, v in after.items() if v != before.get(k)}

    def save(self, folder: str | Path) -> None:
        """Write the artifact, over the one that is there.

        Killed at any point, the folder holds the old artifact, the new one, or what `load` refuses.

        Raises:
            ConfigError: the folder is a URL.
            CompressionError: the model was changed without an edit, so that what is written could
                not be loaded.
            StoreError: weights that safetensors cannot carry, or the disk refuses.
            DiskFullError: no space left; the old artifact is still there.
        """
        place = copies.local(folder)
        self._require_edited()
        folders.write(place, self._recipe(), weights_of(self.model))

    def _require_edited(self) -> None:
        """Make sure that the factory and the edits make a model with these weights."""
        found = kinds_of(self.model)
        for name in {**self._kinds, **found}:
            made, held = self._kinds.get(name), found.get(name)
            if made != held:
                raise CompressionError(
                    f"{name} is {_kind(held)}, and the factory and the edits make it "
                    f"{_kind(made)}: an artifact's structure and dtypes are changed by edits only; "
                    "change it back, or do it with Artifact.edit"
                )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        factories: Collection[str] | None = None,
    ) -> Artifact:
        """Rebuild a model from its folder.

        The factory that the folder names is imported and called: load folders that you trust, or
        say which factories they may name. PyTorch's random numbers go on as if nothing was built.

        Args:
            folder: what `save` wrote.
            device: where the model goes.
            factories: the references that are allowed; None allows all.

        Raises:
            ArtifactError: folder or file absent, altered weights, an unknown version or edit, a
                factory that cannot be called or is not allowed, or edits or weights that do not fit
                the model.
            ConfigError: no such device, or the folder is a URL.
        """
        folder, target = copies.local(folder), _device(device)
        recipe, digest = folders.read(folder)
        try:
            with torch.random.fork_rng(devices=[]):
                artifact = cls._rebuilt(recipe, factories)
        except PantheonError as error:
            raise ArtifactError(f"the artifact {folder} cannot be rebuilt: {error}") from error
        with folders.weights(folder, digest) as file:
            fill(artifact.model, file, str(folder / folders.WEIGHTS))
        _move(artifact.model, target)
        return artifact

    @classmethod
    def _rebuilt(cls, recipe: Mapping[str, Any], factories: Collection[str] | None) -> Artifact:
        factory = strict.text(recipe["factory"], "factory")
        allowed = [factories] if isinstance(factories, str) else factories
        if allowed is not None and factory not in allowed:
            raise ConfigError(
                f"its factory is {quoted(factory)}; allowed are {', '.join(allowed) or 'none'}"
            )
        edits = _edits(recipe["edits"])
        artifact = cls.make(factory, strict.mapping(recipe["args"], "args"))
        for number, edit in enumerate(edits):
            try:
                artifact.edit(edit)
            except Exception as error:  # edits of others may raise anything
                raise ConfigError(f"edit {number} ({edit.kind}) does not fit: {error}") from error
        return artifact

    def digest(self) -> str:
        """sha256 of factory, arguments, edits and all weights, in hexadecimal.

        Of weights their names, dtypes, shapes and bytes count, not the device.
        """
        state = hashlib.sha256(json.dumps(self._recipe(), sort_keys=True).encode())
        update(state, weights_of(self.model))
        return state.hexdigest()

    def _recipe(self) -> dict[str, Any]:
        edits = [wire for _, wire in self._edits]
        return {"factory": self.factory, "args": self.args, "edits": edits}


def _kind(kind: tuple[torch.dtype, torch.Size] | None) -> str:
    return "absent" if kind is None else f"{kind[0]} of shape {list(kind[1])}"


def _edits(wires: Any) -> Sequence[Edit]:
    if not isinstance(wires, list):
        raise ConfigError(f"edits is {quoted(wires)}; expected a list")
    edits = []
    for number, wire in enumerate(wires):
        try:
            edits.append(registry.read(wire))
        except Exception as error:  # edits of others may raise anything
            raise ConfigError(f"edit {number}: {error}") from error
    return edits


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"there is no device {device!r}: {error}") from error


def _move(model: nn.Module, device: torch.device) -> None:
    try:
        model.to(device)
    except (AssertionError, RuntimeError) as error:  # PyTorch's, where it has no such device
        raise ConfigError(f"the model cannot be put on the device {device}: {error}") from error
