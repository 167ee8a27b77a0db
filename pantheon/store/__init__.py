"""Knowledge on disk: folders of safetensors shards with a manifest, at any fsspec path.

Names are loaded when they are first used, so that the manifest can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pantheon.exports import lazily

if TYPE_CHECKING:
    from pantheon.store.contents import describe, verify
    from pantheon.store.manifest import DumpInfo, Entry, Manifest
    from pantheon.store.reader import KnowledgeReader
    from pantheon.store.writer import KnowledgeWriter, rebuild

_HOMES = {
    "contents": (
        "describe",
        "verify",
    ),
    "manifest": (
        "DumpInfo",
        "Entry",
        "Manifest",
    ),
    "reader": ("KnowledgeReader",),
    "writer": (
        "KnowledgeWriter",
        "rebuild",
    ),
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

__getattr__, __dir__ = lazily(__name__, _HOMES)
