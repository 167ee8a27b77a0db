"""The folder of an artifact: whole, or refused when it is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pantheon.compress import strict
from pantheon.errors import ArtifactError, ConfigError, StoreError
from pantheon.quote import quoted
from pantheon.saving import whole_file
from pantheon.saving.nested import content

VERSION = 1
"""Of ``artifact.json``."""

RECIPE = "artifact.json"
"""Factory, arguments and edits, the digest of the weights, and a digest of all this."""

WEIGHTS = "weights.safetensors"
"""The model's weights."""

LONGEST = 64 << 20
"""Bytes of ``artifact.json`` at most."""


def write(folder: Path, recipe: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write an artifact over the one that may be there.

    Both files are written whole under other names. Then the old ``artifact.json`` goes, without
    which a folder is refused, the weights are put in place, and the new ``artifact.json`` last.

    Raises:
        StoreError: too long for ``artifact.json``, or the disk refuses.
        DiskFullError: no space left; the old artifact is still there.
    """
    with whole_file.refusals(f"the artifact {folder}", "free space and save it again"):
        folder.mkdir(parents=True, exist_ok=True)
        whole_file.sweep(folder, RECIPE, WEIGHTS)
        try:
            weights, digest = _written(folder, WEIGHTS, content(tensors, {"format": "pt"}))
            said = {"version": VERSION, **recipe, "weights_sha256": digest}
            text = json.dumps({**said, "sha256": _digest(said)}, indent=1)
            if len(text) > LONGEST:
                raise StoreError(
                    f"{RECIPE} would have {len(text)} bytes, at most {LONGEST} are read; make "
                    "fewer or smaller edits"
                )
            named, _ = _written(folder, RECIPE, [text.encode()])
            (folder / RECIPE).unlink(missing_ok=True)
            whole_file.flush(folder)
            os.replace(weights, folder / WEIGHTS)
            whole_file.flush(folder)
            os.replace(named, folder / RECIPE)
            whole_file.flush(folder)
        finally:
            whole_file.sweep(folder, RECIPE, WEIGHTS)


def read(folder: Path) -> tuple[Mapping[str, Any], str]:
    """What ``artifact.json`` says: factory, args and edits, and the digest of the weights.

    Raises:
        ArtifactError: it is absent, too long, not JSON, of another version, altered or incomplete.
    """
    path = folder / RECIPE
    try:
        with open(path, "rb") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise ValueError(f"it has more than {LONGEST} bytes")
        found = strict.mapping(json.loads(text, parse_constant=_refused), "it")
    except FileNotFoundError as error:
        raise _absent(folder) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"cannot read {path}: {error!s:.200}") from error
    if found.get("version") != VERSION or type(found["version"]) is not int:
        raise ArtifactError(
            f"{path} has version {quoted(found.get('version'))}; this Pantheon reads {VERSION}"
        )
    said = {key: value for key, value in found.items() if key != "sha256"}
    if found.get("sha256") != _told(path, said):
        raise ArtifactError(
            f"{path} was altered after it was written: its sha256 {quoted(found.get('sha256'))} "
            "does not fit the rest of it; copy the whole folder again"
        )
    try:
        strict.keys(said, "it", ("version", "factory", "args", "edits", "weights_sha256"))
        digest = strict.text(found["weights_sha256"], "weights_sha256")
    except ConfigError as error:
        raise ArtifactError(f"{path} cannot be understood: {error}") from error
    return said, digest


@contextmanager
def weights(folder: Path, digest: str) -> Iterator[Any]:
    """The folder's weights as `safetensors.safe_open` has them, once they have this sha256.

    Raises:
        ArtifactError: absent, altered or not safetensors.
    """
    path = folder / WEIGHTS
    try:
        # A descriptor's path stands for one file, whatever a writer puts in its place meanwhile.
        with open(path, "rb") as held:
            found = hashlib.file_digest(held, "sha256").hexdigest()
            if found != digest:
                raise ArtifactError(
                    f"{path} was altered after it was written: its sha256 is {found}, {RECIPE} "
                    f"says {quoted(digest)}; copy the whole folder again"
                )
            with safe_open(f"/dev/fd/{held.fileno()}", framework="pt") as file:
                yield file
    except FileNotFoundError as error:
        raise ArtifactError(f"there is no {path}; copy the whole folder again") from error
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"cannot read the weights {path}: {error}") from error


def _absent(folder: Path) -> ArtifactError:
    if not folder.is_dir():
        return ArtifactError(f"there is no folder {folder}; expected one with {RECIPE}")
    return ArtifactError(
        f"the folder {folder} has no {RECIPE}: it is no artifact, or its writer was stopped before "
        "the end; save it again"
    )


def _digest(said: Mapping[str, Any]) -> str:
    """Of what is said, not of how it is spaced."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _told(path: Path, said: Mapping[str, Any]) -> str:
    try:
        return _digest(said)
    except RecursionError as error:
        raise ArtifactError(f"cannot read {path}: it is nested too deeply") from error


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _written(folder: Path, name: str, pieces: Iterable[bytes]) -> tuple[Path, str]:
    """A new file under a name of its own, on the disk, and its sha256."""
    path, state = whole_file.beside(folder / name), hashlib.sha256()

    def seen() -> Iterator[bytes]:
        for piece in pieces:
            state.update(piece)
            yield piece

    whole_file.create(path, seen())
    return path, state.hexdigest()
