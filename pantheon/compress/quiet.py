"""Libraries that say more than their callers asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Let a logger say errors only, meanwhile.

    Args:
        name: of the logger; the root's is empty.

    Example:
        >>> with quiet("torch.onnx"):
        ...     logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)
        False
    """
    logger = logging.getLogger(name or None)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
