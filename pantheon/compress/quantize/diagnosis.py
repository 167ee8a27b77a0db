"""The stage that tells what the rounding of each layer costs."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.quantize.config import DiagnoseConfig
from pantheon.compress.quantize.simulated import is_quantized, plain
from pantheon.compress.quantize.spots import spots_of
from pantheon.compress.quantize.taps import HOLDER, Taps
from pantheon.compress.quantize.weights import weight_rounders
from pantheon.compress.run_folder import read_json, write_json
from pantheon.compress.stage import Cost, Outcome, Phase, Work
from pantheon.compress.together import first_alone, one_input
from pantheon.compress.worth import KL, Worth, worth_of
from pantheon.errors import ConfigError

TOLD, POINTS = "diagnosis.json", "points.json"
"""In the stage's folder: what the report says, and what was measured so far."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is rounded, or not, together.

    Args:
        name: the layer's path; of a tensor that no layer answers, where it is made.
        weights: paths of the layers whose weights are rounded.
        activations: places of the quantizers of activations.
    """

    name: str
    weights: tuple[str, ...] = ()
    activations: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnose:
    """Measures a quantized model with one layer rounded at a time, and with all but one.

    A layer's weight and what it answers, after its activation, go together; what is made otherwise,
    as a sum or the model's input, is for itself.

    Args:
        by: the metric's name; None for the first that it answers.
        lower: whether less of it is better.
        samples: of the validation part; None for all.
        name: of the stage.
    """

    by: str | None = None
    lower: bool = False
    samples: int | None = 1000
    name: str = "diagnose"

    phase: Phase = field(default="analyse", init=False)
    changes: bool = field(default=False, init=False)

    @classmethod
    def from_config(cls, config: DiagnoseConfig) -> Diagnose:
        """The stage that a configuration describes."""
        return cls(
            by=config.by,
            lower=config.lower_is_better,
            samples=config.validation,
            name=config.name or "diagnose",
        )

    def cost(self, samples: int) -> Cost:
        """Nothing of the training part is read."""
        return Cost()

    def check(self, model: nn.Module) -> None:
        """The model is quantized by a stage before this one."""

    def run(self, artifact: Artifact, work: Work) -> Outcome:
        """Measure what the stage's folder does not hold yet."""
        if not is_quantized(artifact.model):
            raise ConfigError(
                f"stage {self.name!r} tells what quantization costs, and the model is not "
                "quantized; put a quantize stage before it"
            )
        first_alone(work, TOLD, partial(self._measure, artifact, work))
        return Outcome(artifact, figures={"diagnosis": read_json(work.folder / TOLD)})

    def _measure(self, artifact: Artifact, work: Work) -> None:
        model = copy.deepcopy(artifact.model).eval()
        real = plain(model).eval()
        found = units(model, one_input(work))
        worths = [worth_of(work, real, KL, self.samples)]
        if work.metric is not None:
            worths.append(worth_of(work, real, self.by, self.samples, self.lower))
        of = [artifact.digest(), [worth.by for worth in worths], worths[0].samples]
        points = _begun(work, of)
        asked: list[tuple[str, Sequence[Unit]]] = [("real", []), ("whole", found)]
        asked += [(f"alone {unit.name}", [unit]) for unit in found]
        asked += [(f"without {u.name}", [other for other in found if other != u]) for u in found]
        for number, (name, rounded) in enumerate(asked, 1):
            if name in points:
                continue
            with rounding_only(model, rounded):
                points[name] = _measured(worths, model)
            write_json(work.folder / POINTS, {"of": of, "points": points})
            told = ", ".join(f"{by} {value:.4g}" for by, value in points[name].items())
            work.watcher.say(f"diagnosis {number} of {len(asked)}: {name}: {told}")
        write_json(work.folder / TOLD, _told(worths, points, found))


def units(model: nn.Module, inputs: Any) -> list[Unit]:
    """What of a quantized model is rounded, by the layer that it belongs to.

    Args:
        model: quantized.
        inputs: of the model.

    Example:
        >>> import torch
        >>> from pantheon.compress.quantize.edit import Activation, RoundTensors, Weight
        >>> from pantheon.compress.quantize.grid import Grid
        >>> from pantheon.compress.quantize.spots import Site
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> edit = RoundTensors([Activation((Site("1"),), Grid())], {"0": Weight(), "2": Weight()})
        >>> units(edit.apply(net), torch.ones(1, 2))
        [Unit(name='0', weights=('0',), activations=(0,)), Unit(name='2', weights=('2',), \
activations=())]
    """
    spots = spots_of(plain(model), inputs)
    taps = getattr(model, HOLDER, None)
    every = taps.places() if isinstance(taps, Taps) else []
    owner = {
        site: path
        for path, place in spots.answers.items()
        for site in spots.activations[place].sites
    }
    named = [next((owner[s] for s in sites if s in owner), str(sites[0])) for sites in every]
    weights = [path for path, layer in model.named_modules() if weight_rounders(layer)]
    found = []
    for name in dict.fromkeys([*named, *weights]):
        places = tuple(place for place, other in enumerate(named) if other == name)
        found.append(Unit(name, (name,) if name in weights else (), places))
    return found


@contextmanager
def rounding_only(model: nn.Module, wanted: Collection[Unit]) -> Iterator[None]:
    """In the body, a quantized model rounds these units alone."""
    taps = getattr(model, HOLDER, None)
    activations = {place for unit in wanted for place in unit.activations}
    weights = {path for unit in wanted for path in unit.weights}
    lists: list[tuple[Any, int]] = []
    if isinstance(taps, Taps):
        lists += [(taps.each, place) for place in range(len(taps.each)) if place not in activations]
    for path, layer in model.named_modules():
        if path not in weights and weight_rounders(layer):
            every = cast(Any, layer.parametrizations)["weight"]
            own = weight_rounders(layer)
            lists += [(every, place) for place, each in enumerate(every) if each in own]
    kept = [some[place] for some, place in lists]
    try:
        for some, place in lists:
            some[place] = nn.Identity()
        yield
    finally:
        for (some, place), module in zip(lists, kept, strict=True):
            some[place] = module


def _begun(work: Work, of: Sequence[Any]) -> dict[str, dict[str, float]]:
    """What was measured of the same model before a kill."""
    if not (work.folder / POINTS).exists():
        return {}
    found = read_json(work.folder / POINTS)
    return dict(found["points"]) if found["of"] == of else {}


def _measured(worths: Sequence[Worth], model: nn.Module) -> dict[str, float]:
    return {worth.by: worth.measure(model) for worth in worths}


def _told(
    worths: Sequence[Worth], points: dict[str, dict[str, float]], found: Sequence[Unit]
) -> dict[str, Any]:
    return {
        "by": [worth.by for worth in worths],
        "samples": worths[0].samples,
        "real": points["real"],
        "whole": points["whole"],
        "layers": {
            unit.name: {way: points[f"{way} {unit.name}"] for way in ("alone", "without")}
            for unit in found
        },
    }
