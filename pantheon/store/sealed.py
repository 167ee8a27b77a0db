"""JSON that carries the format's name and a digest of itself."""

from __future__ import annotations

import json
from typing import Any

import xxhash

from pantheon.errors import ManifestError
from pantheon.quote import quoted

FORMAT = "pantheon-knowledge-1"


def seal(content: dict[str, Any]) -> bytes:
    """Canonical JSON with the format's name and the digest of the rest.

    Example:
        >>> unseal(seal({"a": 1}))["a"]
        1
    """
    body = {**content, "format": FORMAT}
    return canonical({**body, "digest": _digest(body)}) + b"\n"


def unseal(data: bytes) -> dict[str, Any]:
    """Read what `seal` wrote; `ManifestError` for another format, a flipped byte or no JSON."""
    try:
        wire = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"it is not JSON ({error})") from error
    if not isinstance(wire, dict) or wire.get("format") != FORMAT:
        found = wire.get("format") if isinstance(wire, dict) else type(wire).__name__
        raise ManifestError(f"its format is {quoted(found)}; expected {FORMAT!r}")
    stated = wire.pop("digest", None)
    if stated != _told(wire):
        raise ManifestError(f"its digest {quoted(stated)} does not fit its content")
    return wire


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _told(wire: dict[str, Any]) -> str:
    try:
        return _digest(wire)
    except RecursionError:
        raise ManifestError("its values are nested too deeply") from None


def _digest(value: Any) -> str:
    return str(xxhash.xxh3_64_hexdigest(canonical(value)))
