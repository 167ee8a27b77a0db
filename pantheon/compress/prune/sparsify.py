"""The stage that sets single weights to zero, at once or more and more while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.distil import Distil
from pantheon.compress.prune.config import SparsifyConfig
from pantheon.compress.prune.masking import MASKED, MaskWeights, is_masked, mask_of, masked_weight
from pantheon.compress.prune.sparsity import Gradual, Pattern, magnitude_masks, two_of_four
from pantheon.compress.stage import Cost, Outcome, Phase, Work
from pantheon.compress.watcher import Watcher
from pantheon.errors import ConfigError
from pantheon.paths import module_at, paths_matching
from pantheon.training.history import Epoch, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsify:
    """Sets weights to zero, which stay zero in later training. What it saves is simulated.

    Args:
        pattern: ``"unstructured"``, the smallest magnitudes; ``"2:4"``, two of each four inputs.
        sparsity: the fraction of weights that go, where it is unstructured.
        across: whether layers are compared with each other.
        block: rows and columns that go together.
        only, keep: patterns of layers that take part (all, if none is named), and that do not.
        stable, ramp: epochs before sparsity begins, and over which it grows.
        changes: how often masks change meanwhile.
        initial: sparsity at the first change.
        distil: the training during which it grows; None to do it at once.
        name: of the stage.
    """

    pattern: Pattern = "unstructured"
    sparsity: float = 0.5
    across: bool = True
    block: tuple[int, int] = (1, 1)
    only: Sequence[str] = ()
    keep: Sequence[str] = ()
    stable: float = 0.0
    ramp: float = 0.0
    updates: int = 20
    initial: float = 0.0
    distil: Distil | None = None
    name: str = "sparsify"

    phase: Phase = field(default="sparsify", init=False)
    changes: bool = field(default=True, init=False)

    @classmethod
    def from_config(cls, config: SparsifyConfig) -> Sparsify:
        """The stage that a configuration describes."""
        return cls(
            pattern=config.pattern,
            sparsity=config.sparsity,
            across=config.scope == "global",
            block=config.block,
            only=config.only,
            keep=config.keep,
            stable=config.stable,
            ramp=config.ramp,
            updates=config.updates,
            initial=config.initial,
            distil=None if config.distil is None else Distil.from_learning(config.distil),
            name=config.name or "sparsify",
        )

    def cost(self, samples: int) -> Cost:
        """Its training's."""
        return Cost(copies=2) if self.distil is None else self.distil.cost(samples)

    def check(self, model: nn.Module) -> None:
        """Make sure that patterns match layers whose weights can be masked."""
        self._layers(model)
        if self.distil is not None:
            self.distil.check(model)

    def run(self, artifact: Artifact, work: Work) -> Outcome:
        """Mask; a checkpoint of the training in the stage's folder is gone on with."""
        paths, left_out = self._layers(artifact.model)
        if fresh := [path for path in paths if not is_masked(module_at(artifact.model, path))]:
            artifact.edit(MaskWeights(fresh))
        layers = {path: module_at(artifact.model, path) for path in paths}
        samples, history = 0, tuple[Epoch, ...]()
        if self.distil is None:
            self._mask(layers, self.sparsity)
        else:
            gradual = self._gradual(self.distil.settings.steps(len(work.parts.train)))
            if start := gradual.at(0):
                self._mask(layers, start)
            watcher = _Masking(self, layers, work.watcher, gradual)
            trained = self.distil.run(artifact, replace(work, watcher=watcher))
            samples, history = trained.samples, trained.history
        told = self._told(layers) | {"excluded": left_out}
        return Outcome(artifact, samples=samples, history=history, figures={"sparsity": told})

    def _layers(self, model: nn.Module) -> tuple[list[str], dict[str, str]]:
        """The layers to mask, and why others are not.

        Raises:
            ConfigError: a pattern that matches none, or none is left.
        """
        every = [path for path, module in model.named_modules() if isinstance(module, MASKED)]
        try:
            kept = paths_matching(self.keep, every, "keep")
            wanted = paths_matching(self.only, every, "only") if self.only else set(every)
        except ConfigError as error:
            raise ConfigError(f"stage {self.name!r}, {error}") from error
        paths, left_out = [], {}
        for path in every:
            if path in kept or path not in wanted:
                left_out[path] = "kept, as asked for"
            elif why := self._obstacle(module_at(model, path)):
                left_out[path] = why
            else:
                paths.append(path)
        if not paths:
            raise ConfigError(f"stage {self.name!r}: no layer is left to mask: {left_out}")
        return paths, left_out

    def _obstacle(self, layer: nn.Module) -> str | None:
        weight = layer.weight
        if not isinstance(weight, nn.Parameter) and not is_masked(layer):
            return "its weight is parametrised"
        assert isinstance(weight, Tensor)
        if self.pattern == "2:4" and weight.shape[1] % 4:
            return f"it has {weight.shape[1]} inputs, and 2:4 needs a multiple of 4"
        rows, columns = self.block
        if weight.shape[0] < rows or weight[0].numel() < columns:
            return f"no block of {rows} x {columns} fits into it"
        return None

    def _gradual(self, steps: int) -> Gradual:
        stable = round(self.stable * steps)
        ramp = round((self.stable + self.ramp) * steps) - stable
        updates = max(1, min(self.updates, ramp))
        return Gradual(self.sparsity, stable, ramp, updates, self.initial)

    @torch.no_grad()
    def _mask(self, layers: dict[str, nn.Module], sparsity: float) -> None:
        # What is zero already has the smallest magnitude, and stays.
        weights = {path: masked_weight(layer) for path, layer in layers.items()}
        if self.pattern == "2:4":
            masks = {path: two_of_four(weight) for path, weight in weights.items()}
        else:
            masks = magnitude_masks(weights, sparsity, across=self.across, block=self.block)
        for path, layer in layers.items():
            mask_of(layer).mask.logical_and_(masks[path])

    def _told(self, layers: dict[str, nn.Module]) -> dict[str, Any]:
        masks = {path: mask_of(layer).mask for path, layer in layers.items()}
        zeros, every = (
            sum(int(c) for c in counts)
            for counts in zip(
                *((int((~mask).sum()), mask.numel()) for mask in masks.values()), strict=True
            )
        )
        return {
            "pattern": self.pattern,
            "simulated": True,
            "reached": zeros / every,
            "weights_left": every - zeros,
            "layers": {path: float((~mask).float().mean()) for path, mask in masks.items()},
        }


class _Masking(Watcher):
    """Changes masks after the steps at which they are to change, and tells another watcher."""

    def __init__(
        self,
        stage: Sparsify,
        layers: dict[str, nn.Module],
        watcher: Watcher,
        gradual: Gradual,
    ) -> None:
        self._stage, self._layers = stage, layers
        self._watcher, self._gradual = watcher, gradual

    def step(self, step: Step) -> None:
        number = step.epoch * step.steps + step.step + 1
        sparsity = self._gradual.at(number)
        if sparsity != self._gradual.at(number - 1):
            self._stage._mask(self._layers, sparsity)
        self._watcher.step(step)

    def epoch(self, epoch: Epoch) -> None:
        self._watcher.epoch(epoch)

    def say(self, text: str) -> None:
        self._watcher.say(text)
