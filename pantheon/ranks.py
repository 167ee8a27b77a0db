"""The processes that train one student together, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pantheon.errors import ConfigError

GATHER = 1800.0
"""Seconds more than the loader's patience that the ranks wait for one that is busy."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One of the processes that train one student; alone unless told otherwise.

    Gradients are summed in one fixed layout, and not in the buckets of
    `torch.nn.parallel.DistributedDataParallel`, which are laid out anew after the first step: a
    run that was resumed there could add in another order and end with other bits.

    Args:
        rank: which of them, from 0.
        world: how many there are.

    Example:
        >>> alone = Ranks()
        >>> alone.first, alone.gather(torch.tensor([3, 4])).tolist()
        (True, [[3, 4]])
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes files and says how far the training is."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this one: ``cuda`` is a GPU for each of several.

        >>> Ranks().device("cuda"), Ranks(1, 2).device("cpu")
        ('cuda', 'cpu')
        """
        if self.world == 1 or name != "cuda":
            return name
        return f"cuda:{os.environ.get('LOCAL_RANK', self.rank)}"

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's `values`, ``[world, ...]``; of one shape and dtype, on the CPU."""
        if self.world == 1:
            return values.unsqueeze(0)
        values = values.contiguous().to("cuda" if dist.get_backend() == "nccl" else "cpu")
        every = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(every, values)
        return torch.stack(every).cpu()

    def told(self, text: str) -> str:
        """The first rank's `text`, on every rank.

        >>> Ranks().told("tcp://127.0.0.1:5557")
        'tcp://127.0.0.1:5557'
        """
        if self.world == 1:
            return text
        data = text.encode()
        length = int(self.gather(torch.tensor([len(data)]))[0, 0])
        mine = torch.zeros(length, dtype=torch.uint8)
        if self.first:
            mine = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return bytes(self.gather(mine)[0].tolist()).decode()

    def align(self, model: nn.Module) -> None:
        """Give every rank the first one's parameters and buffers."""
        if self.world == 1:
            return
        for value in (*model.parameters(), *model.buffers()):
            dist.broadcast(value.data, src=0)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks; one that nobody has stays None."""
        if self.world == 1:
            return
        every = [p for p in parameters if p.requires_grad]
        have = self.gather(torch.tensor([p.grad is not None for p in every], dtype=torch.uint8))
        held = [p for p, some in zip(every, have.any(dim=0).tolist(), strict=True) if some]
        for group in _alike(held):
            _sum(group)


def _alike(parameters: Iterable[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """The parameters by dtype and device."""
    groups: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return groups.values()


def _sum(parameters: list[nn.Parameter]) -> None:
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = torch.split(flat, [p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        gradient = part.view_as(parameter)
        # A gradient is laid out in memory as its parameter is, whoever made it.
        alike = parameter.is_contiguous()
        parameter.grad = gradient if alike else torch.empty_like(parameter).copy_(gradient)


def place(rank: int | None, world: int | None) -> tuple[int, int]:
    """This process's rank and the number of ranks: as given, else torchrun's, else alone.

    Raises:
        ConfigError: only one of them is given.

    Example:
        >>> place(1, 4)
        (1, 4)
    """
    if (rank is None) != (world is None):
        raise ConfigError(
            f"rank={rank} and world={world}: give both, or neither to take torchrun's"
        )
    if rank is not None and world is not None:
        return rank, world
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def current() -> Ranks:
    """The ranks that torch.distributed has connected in this process; alone where it has not.

    >>> current()
    Ranks(rank=0, world=1)
    """
    if not dist.is_available() or not dist.is_initialized():
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())


@contextmanager
def joined(patience: float = 60.0) -> Iterator[Ranks]:
    """The ranks that torchrun started, connected until the end; alone without torchrun.

    Args:
        patience: seconds that a rank may have to wait for its teachers.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=patience + GATHER))
    try:
        yield Ranks(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
