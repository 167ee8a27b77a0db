"""A digest of a sequence of ids, by which two runs are compared. No I/O."""

from __future__ import annotations

import hashlib

from torch import Tensor

NOTHING = ""
"""The digest of the empty sequence."""


def extend(digest: str, ids: Tensor) -> str:
    """The digest of a sequence that goes on with the ids of one more step.

    A chain of SHA-256 over steps, so that it can be saved and continued: the digest of the steps
    before, as text, and the ids, little-endian int64.

    Args:
        digest: of the steps before.
        ids: int64 ``[n]``, of all ranks in order, without padding.

    Example:
        >>> import torch
        >>> steps = torch.tensor([[0, 1], [2, 3]])
        >>> once = extend(extend(NOTHING, steps[0]), steps[1])
        >>> once[:16], once == extend(extend(NOTHING, steps[1]), steps[0])
        ('064745a6c23de8cc', False)
    """
    return hashlib.sha256(digest.encode() + ids.numpy().astype("<i8").tobytes()).hexdigest()
