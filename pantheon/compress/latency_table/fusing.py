"""The operators of a model, fused as a runtime fuses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from pantheon.compress.latency_table.operators import FUSED, Operator
from pantheon.compress.latency_table.reading import Unknown, operator_of
from pantheon.compress.latency_table.tracing import Trace, traced

WEIGHTED = ("conv", "conv_transpose", "linear")
"""Operators that batch norms are folded into and activations fused with."""


@dataclass(frozen=True, slots=True)
class Operators:
    """What a model consists of.

    Args:
        sequence: its operators, in the order in which they run.
        unknown: operations of torch that no operator is known for, by name.
    """

    sequence: tuple[Operator, ...]
    unknown: tuple[str, ...] = ()

    @property
    def counts(self) -> Mapping[Operator, int]:
        """How often each operator is there."""
        return Counter(self.sequence)


def operators_of(model: torch.nn.Module, inputs: Any) -> Operators:
    """The operators that a runtime executes for a model, found by running it once in torch.

    Batch norms are folded into the layer before them. Activations after a convolution or a product
    are fused with it, and so is the sum with a shortcut after a convolution.

    Args:
        model: a module that runs eagerly.
        inputs: of as many rows as the batch has.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> [str(each) for each in operators_of(net, torch.zeros(1, 3, 8, 8)).counts]
        ['conv 1x3x8x8 dilation=1x1 groups=1 kernel=3x3 out=8 pad=0x0 stride=1x1 + relu']
    """
    return fused(traced(model, inputs))


def fused(trace: Trace) -> Operators:
    """The operators of a trace."""
    fusion = _Fusion(trace)
    for number in range(len(trace.calls)):
        fusion.take(number)
    return Operators(tuple(fusion.blocks), tuple(sorted(fusion.unknown)))


class _Fusion:
    """Goes through a trace and puts calls together.

    `block` has the place in `blocks` of each call that a block ends with, and what it stands for
    where calls that cost nothing come between.
    """

    def __init__(self, trace: Trace) -> None:
        self._calls = trace.calls
        self.blocks: list[Operator] = []
        self.unknown: set[str] = set()
        self._same: dict[int, int] = {-1: -1}
        self._block: dict[int, int] = {}
        self._operators: list[Operator | None] = []
        for number, call in enumerate(trace.calls):
            try:
                operator = operator_of(call)
            except Unknown as error:
                self.unknown.add(str(error))
                operator = None
            self._operators.append(operator)
            free = operator is None and call.reads
            self._same[number] = self._same[call.reads[0]] if free else number
        self._readers = Counter(
            self._same[read]
            for number, call in enumerate(trace.calls)
            if self._operators[number] is not None
            for read in call.reads
        )
        self._readers.update(self._same[answer] for answer in trace.answers)

    def take(self, number: int) -> None:
        """Put the next call into a block of its own, or into one that it is fused with."""
        operator = self._operators[number]
        if operator is None:
            return
        place = self._host(number, operator)
        if place is None:
            self._block[number] = len(self.blocks)
            self.blocks.append(operator)
            return
        self._block[number] = place
        host = self.blocks[place]
        if operator.kind != "batch_norm":
            self.blocks[place] = replace(host, after=(*host.after, operator.kind))

    def _host(self, number: int, operator: Operator) -> int | None:
        """The block that an operator is fused with: the last one that has it to itself."""
        reads = [self._same[read] for read in self._calls[number].reads]
        alone = [r for r in reads if self._readers[r] == 1 and r in self._block]
        if operator.kind == "add" and len(set(reads)) < 2:
            return None
        places = [self._block[r] for r in alone if _fits(self.blocks[self._block[r]], operator)]
        return max(places, default=None)


def _fits(host: Operator, operator: Operator) -> bool:
    """Whether a runtime has one kernel for both."""
    if host.kind not in WEIGHTED:
        return False
    if operator.kind == "batch_norm":
        return not host.after
    if operator.kind == "add":
        same = len(set(operator.shapes)) == 1
        return host.kind == "conv" and not host.after and same
    return operator.kind in FUSED and host.after in ((), ("add",))
