"""Knowledge on disk: folders of safetensors shards with a manifest, at any fsspec path.

Names are loaded when they are first used, so that the manifest can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pantheon.store.contents import describe, verify
    from pantheon.store.manifest import DumpInfo, Entry, Manifest
    from pantheon.store.reader import KnowledgeReader
    from pantheon.store.writer import KnowledgeWriter, rebuild

_HOMES = {
    "DumpInfo": "manifest",
    "Entry": "manifest",
    "KnowledgeReader": "reader",
    "KnowledgeWriter": "writer",
    "Manifest": "manifest",
    "describe": "contents",
    "rebuild": "writer",
    "verify": "contents",
}

__all__ = [
    "DumpInfo",
    "Entry",
    "KnowledgeReader",
    "KnowledgeWriter",
    "Manifest",
    "describe",
    "rebuild",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pantheon.store.{_HOMES[name]}"), name)
