"""The names of codecs: what ``"topk:64@1,2"`` says, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from pantheon.errors import CodecError

DENSE = ("raw", "float32", "float16", "bfloat16", "int8")
"""Names of the codecs without parameters."""

KEPT_DTYPES = ("float32", "float16", "bfloat16")
"""What the logits kept by top-k may travel as."""

MAX_K = 1 << 24
MAX_TEMPERATURES = 16


@dataclass(frozen=True, slots=True)
class CodecName:
    """A codec's name, taken apart.

    Args:
        kind: one of `DENSE`, or ``"topk"``.
        k: how many classes top-k keeps.
        temperatures: ascending, for which top-k carries the mass of its tail.
        dtype: what the kept logits travel as.
    """

    kind: str
    k: int = 0
    temperatures: tuple[float, ...] = ()
    dtype: str = "float32"

    def __str__(self) -> str:
        if self.kind != "topk":
            return self.kind
        heat = ",".join(repr(t).removesuffix(".0") for t in self.temperatures)
        return (
            f"topk:{self.k}"
            + (f"@{heat}" if self.temperatures != (1.0,) else "")
            + (f":{self.dtype}" if self.dtype != "float32" else "")
        )


def topk_name(k: int, temperatures: tuple[float, ...], dtype: str) -> CodecName:
    """A checked name of a top-k codec; `CodecError` says what is wrong with it."""
    if not 1 <= k <= MAX_K:
        raise CodecError(f"top-k must keep 1 to {MAX_K} classes, not {k}")
    ordered = tuple(sorted({float(t) for t in temperatures}))
    if not 1 <= len(ordered) <= MAX_TEMPERATURES or not all(
        t > 0 and math.isfinite(t) for t in ordered
    ):
        raise CodecError(
            f"top-k declares the temperatures {temperatures}; expected 1 to {MAX_TEMPERATURES} "
            "positive finite numbers"
        )
    if dtype not in KEPT_DTYPES:
        raise CodecError(f"top-k sends logits as {dtype!r}; expected {', '.join(KEPT_DTYPES)}")
    return CodecName("topk", k, ordered, dtype)


@lru_cache(maxsize=256)
def parse_name(name: str) -> CodecName:
    """Take a codec's name apart: ``kind`` or ``topk:K[@T,T…][:dtype]``.

    Raises:
        CodecError: a name that no codec has.

    Example:
        >>> parse_name("topk:64@4,1").temperatures
        (1.0, 4.0)
        >>> str(parse_name("topk:64@1.0"))
        'topk:64'
    """
    if name in DENSE:
        return CodecName(name)
    kind, _, rest = name.partition(":")
    count, typed, dtype = rest.partition(":")
    k, heated, heat = count.partition("@")
    if kind == "topk":
        try:
            numbers = tuple(float(t) for t in heat.split(",")) if heated else (1.0,)
            return topk_name(int(k), numbers, dtype if typed else "float32")
        except ValueError as error:
            if isinstance(error, CodecError):
                raise
    raise CodecError(
        f"no codec is called {name!r}; expected {', '.join(DENSE)}, or topk:K, such as topk:64, "
        "topk:64@1,4 for temperatures 1 and 4, topk:64:float16 for half-precision logits"
    )


def canonical(codec_name: str) -> str:
    """The one name of a codec that may be written in several ways; `CodecError` if it is none.

    >>> canonical("topk:64@1"), canonical("topk:8@4.0,2")
    ('topk:64', 'topk:8@2,4')
    """
    return str(parse_name(codec_name))
