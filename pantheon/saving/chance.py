"""The states of the random number generators that a training draws from, as tensors."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pantheon.errors import StoreError

log = logging.getLogger(__name__)


def states() -> dict[str, Tensor]:
    """The states of the global generators of torch (CPU and GPUs), Python and numpy.

    Each is a tensor of a shape that is the same in every process; GPUs are there once CUDA is used.

    Raises:
        StoreError: numpy's global generator was replaced by one of another kind.

    Example:
        >>> saved = states()
        >>> a = torch.rand(2), random.random(), np.random.rand()
        >>> restore(saved)
        >>> b = torch.rand(2), random.random(), np.random.rand()
        >>> torch.equal(a[0], b[0]), a[1:] == b[1:]
        (True, True)
    """
    found = {"torch": torch.get_rng_state(), "python": _python(), "numpy": _numpy()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["cuda"] = torch.stack(torch.cuda.get_rng_state_all())
    return found


def restore(saved: Mapping[str, Tensor]) -> None:
    """Have the generators go on from what `states` answered.

    GPUs are restored where there are as many as there were; else a warning says so.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: not what `states` answers.
    """
    # torch reads a view of a row from the start of its storage, hence copies.
    torch.set_rng_state(saved["torch"].clone())
    _set_python(saved["python"])
    _set_numpy(saved["numpy"])
    if "cuda" in saved:
        _set_cuda(saved["cuda"])


def _set_cuda(saved: Tensor) -> None:
    if torch.cuda.device_count() == len(saved):
        torch.cuda.set_rng_state_all([state.clone() for state in saved])
        return
    log.warning(
        "the random states of %d GPUs were saved, and there are %d now: theirs start anew",
        len(saved),
        torch.cuda.device_count(),
    )


# Words of 32 bits and positions are whole numbers that float64 holds exactly.


def _python() -> Tensor:
    _, words, gauss = random.getstate()
    return torch.tensor([*words, math.nan if gauss is None else gauss], dtype=torch.float64)


def _set_python(saved: Tensor) -> None:
    *words, gauss = saved.tolist()
    random.setstate((3, tuple(map(int, words)), None if math.isnan(gauss) else gauss))


def _numpy() -> Tensor:
    state = np.random.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise StoreError(
            f"numpy's global random generator is {state['bit_generator']}; a checkpoint holds "
            "MT19937, its default: use a numpy.random.Generator of your own for another kind"
        )
    inner = state["state"]
    rest = [inner["pos"], state["has_gauss"], state["gauss"]]
    return torch.tensor([*inner["key"].tolist(), *rest], dtype=torch.float64)


def _set_numpy(saved: Tensor) -> None:
    *words, position, has_gauss, gauss = saved.tolist()
    key = np.array(words, dtype=np.uint32)
    np.random.set_state(("MT19937", key, int(position), int(has_gauss), gauss))
