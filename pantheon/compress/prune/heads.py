"""Heads of attention: channels of its projections that only go as whole heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn

NUMBERS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
"""What modules call the number of their heads."""

SIZES = ("head_dim", "attention_head_size", "head_size", "dim_head")
"""What they call the channels of one head."""

WIDTHS = ("all_head_size", "embed_dim", "inner_dim")
"""What they call the channels of all heads together."""


@dataclass(frozen=True, slots=True)
class Attention:
    """A module that counts heads.

    Args:
        path: of the module.
        number: heads.
        size: channels of each.
        linears: output features of the linear layers that it has, by path.
        integers: name to value of what in it counts heads or their channels.
    """

    path: str
    number: int
    size: int
    linears: Mapping[str, int]
    integers: Mapping[str, int]

    def projections(self, paths: Collection[str]) -> tuple[str, ...]:
        """Those of some layers that have their outputs by head; all of them lose channels together.

        Queries, keys and values have at least two times as many outputs as all heads have channels.
        One layer alone that has as many brings the heads together again.
        """
        found = tuple(path for path in self.linears if path in paths)
        together = sum(self.linears[path] for path in found)
        return found if together >= 2 * self.number * self.size else ()

    def after(self, kept: int, of: int) -> dict[str, int]:
        """Its integers once `kept` of a projection's `of` outputs are left."""
        number = self.number * kept // of
        new = dict.fromkeys(NUMBERS, number) | dict.fromkeys(WIDTHS, number * self.size)
        return {name: new[name] for name in self.integers if name in new}


def attentions(model: nn.Module) -> list[Attention]:
    """The modules of a model that count heads and have linear layers of their own.

    Example:
        >>> class Attention(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.num_heads = 2
        ...         self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        ...         self.out = nn.Linear(8, 8)
        >>> found, = attentions(nn.Sequential(Attention()))
        >>> found.number, found.size, found.projections(["0.query", "0.key"])
        (2, 4, ('0.query', '0.key'))
        >>> found.projections(["0.out"])
        ()
    """
    found = (_attention(path, module) for path, module in model.named_modules())
    return [each for each in found if each is not None]


def _attention(path: str, module: nn.Module) -> Attention | None:
    before = f"{path}." if path else ""
    linears = {
        before + name: child.out_features
        for name, child in module.named_children()
        if isinstance(child, nn.Linear)
    }
    held = {name: value for name, value in vars(module).items() if type(value) is int}
    number = next((held[name] for name in NUMBERS if held.get(name, 0) > 0), 0)
    if not linears or not number:
        return None
    size = next((held[name] for name in SIZES if held.get(name, 0) > 0), 0)
    size = size or next(iter(linears.values())) // number
    integers = {name: held[name] for name in (*NUMBERS, *WIDTHS) if name in held}
    return Attention(path, number, size, linears, integers) if size else None
