"""What this processor's integers can do."""

from __future__ import annotations

import torch


def saturates() -> bool:
    """Whether sums of two products of 8-bit integers may be clipped here.

    On x86 without VNNI kernels add two products, of an unsigned and a signed integer, in 16 bits:
    2 * 255 * 127 does not fit, and what is above is cut off in silence. Weights of half the range
    (7 bits) fit.

    Example:
        >>> isinstance(saturates(), bool)
        True
    """
    found = torch.cpu.get_capabilities()
    vnni = found.get("avx512_vnni") or found.get("avx_vnni")
    return found.get("architecture") == "x86_64" and not vnni
