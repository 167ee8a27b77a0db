"""Codecs: how knowledge is coded on the wire and on disk, with stated error bounds.

Names are imported when they are first used, so that `pantheon.codec.parts` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pantheon.exports import lazily

if TYPE_CHECKING:
    from pantheon.codec.api import compiled as compiled
    from pantheon.codec.api import decode as decode
    from pantheon.codec.api import encode as encode
    from pantheon.codec.api import parse_codec as parse_codec
    from pantheon.codec.api import spec_for as spec_for
    from pantheon.codec.base import Codec as Codec
    from pantheon.codec.base import SchemaCodec as SchemaCodec
    from pantheon.codec.dense import BFloat16 as BFloat16
    from pantheon.codec.dense import Float16 as Float16
    from pantheon.codec.dense import Float32 as Float32
    from pantheon.codec.dense import Int8 as Int8
    from pantheon.codec.dense import Raw as Raw
    from pantheon.codec.names import canonical as canonical
    from pantheon.codec.parts import PartsCheck as PartsCheck
    from pantheon.codec.parts import PartSpec as PartSpec
    from pantheon.codec.parts import check_parts as check_parts
    from pantheon.codec.parts import field_parts as field_parts
    from pantheon.codec.parts import schema_parts as schema_parts
    from pantheon.codec.topk import TopK as TopK
    from pantheon.codec.topk import top_k as top_k

_HOMES = {
    "api": ("compiled", "decode", "encode", "parse_codec", "spec_for"),
    "base": ("Codec", "SchemaCodec"),
    "dense": ("BFloat16", "Float16", "Float32", "Int8", "Raw"),
    "names": ("canonical",),
    "parts": ("PartSpec", "PartsCheck", "check_parts", "field_parts", "schema_parts"),
    "topk": ("TopK", "top_k"),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)

__getattr__, __dir__ = lazily(__name__, _HOMES)
