"""Spaces around one model: how much of its channels is left, and how many bits its layers have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pantheon.compress.artifact import Artifact
from pantheon.compress.prune.cutting import Ranked
from pantheon.compress.quantize.simulated import is_quantized
from pantheon.compress.quantize.stage import MADE, Bits, Quantize
from pantheon.compress.search.bits_space import BitsSpace
from pantheon.compress.search.building import factory_space
from pantheon.compress.search.config import SpaceConfig
from pantheon.compress.search.costs import costs_of, static_costs, stored_bytes
from pantheon.compress.search.factory_space import READY, ready_made
from pantheon.compress.search.pruning_space import PruningSpace
from pantheon.compress.search.space import digest_of, point_at, values_of
from pantheon.compress.search.task import Task, first_points
from pantheon.errors import ConfigError
from tests.unit.test_prune_stage import NET, work


def pruning(base: Artifact, left: tuple[float, ...] = (0.25, 0.5, 1.0), **ranked: Any) -> Any:
    how = Ranked.by("l1", **ranked)
    structure = how.structure(base.model, torch.zeros(1, 3, 8, 8))
    return PruningSpace(base, structure, how.rankings(structure, base.model, None, 0), left)


def rounding(base: Artifact, folder: Path, both: bool = True, **options: Any) -> BitsSpace:
    return BitsSpace.of(base, Quantize(samples=32, **options), (4, 8), both, work(folder))


def test_a_point_of_pruning_is_what_the_edit_cuts() -> None:
    base = Artifact.make(NET)
    before = base.digest()
    space = pruning(base)
    assert [choice.values for choice in space.choices] == [(0.25, 0.5, 1.0)] * len(space.choices)
    whole = {choice.name: 2 for choice in space.choices}
    assert space.artifact(whole).digest() == before
    first = space.choices[0].name
    made = space.artifact(whole | {first: 0})
    assert base.digest() == before
    (edit,) = made.edits
    kept = edit.modules[first]["out"]
    weight = base.model.get_submodule(first).weight
    assert len(kept) == len(weight) // 4
    # What is left are the filters with the largest weights, as they were.
    lost = sorted(set(range(len(weight))) - set(kept))
    sizes = weight.detach().abs().flatten(1).sum(1)
    assert sizes[list(kept)].min() >= sizes[lost].max()
    assert torch.equal(made.model.get_submodule(first).weight, weight[list(kept)])


def test_fractions_that_leave_the_same_channels_are_one_value() -> None:
    base = Artifact.make(NET)
    space = pruning(base, (0.05, 0.1, 0.9, 1.0), align=4)
    for choice in space.choices:
        units = space.rankings[choice.name].units
        lefts = [round(value * units) for value in choice.values]
        assert lefts == sorted(set(lefts))
        assert all(left % 4 == 0 for left in lefts)
    with pytest.raises(ConfigError, match=r"left has 1\.5; expected fractions"):
        pruning(base, (0.5, 1.5))
    with pytest.raises(ConfigError, match="the space is empty"):
        pruning(base, (1.0,))


def test_a_search_for_a_cut_begins_with_even_ones_at_the_limit() -> None:
    base = Artifact.make(NET)
    space = pruning(base, tuple(i / 10 for i in range(1, 11)))
    inputs = torch.zeros(1, 3, 8, 8)
    limits = {"macs": 0.45 * costs_of(base.model, inputs)["macs"]}
    costs = static_costs(space, inputs)
    even, filled = first_points(Task(space, {"a": "maximise"}, unscored, costs, limits))
    assert len({space.choices[0].values[place] for place in even.values()}) == 1
    first, second, third = even
    for name in even:
        assert filled[name] - even[name] in (0, 1)
    assert costs(even)["macs"] < costs(filled)["macs"] <= limits["macs"]
    # There is room for none of the others.
    for name in (first, second, third):
        if filled[name] == even[name]:
            assert costs(filled | {name: even[name] + 1})["macs"] > limits["macs"]
    (most,) = first_points(Task(space, {"a": "maximise"}, unscored, costs))
    assert space.artifact(most).digest() == base.digest()
    assert first_points(Task(space, {"a": "maximise"}, unscored, costs, {"macs": 1})) == []


@pytest.mark.parametrize("net", READY)
def test_a_search_around_a_net_begins_at_it_or_smaller_within_the_limits(net: str) -> None:
    space = ready_made(net, {"classes": 10, "stem_stride": 1})
    inputs = torch.zeros(1, 3, 32, 32)
    costs = static_costs(space, inputs)
    paper = costs_of(space.base().model, inputs)
    (start,) = first_points(Task(space, {"a": "maximise"}, unscored, costs))
    assert costs(start) == paper
    assert first_points(Task(space, {"a": "maximise"}, unscored, costs, paper)) == [start]
    half = {"macs": 0.5 * paper["macs"]}
    even, filled = first_points(Task(space, {"a": "maximise"}, unscored, costs, half))
    assert costs(even)["macs"] < costs(filled)["macs"] <= half["macs"]
    assert all(even[name] <= filled[name] <= start[name] for name in start)


def test_what_a_search_begins_at_is_told() -> None:
    config = {
        "model": "torch.nn:Linear",
        "choices": {"in_features": [1, 2], "out_features": [3, 4]},
    }
    assert factory_space(SpaceConfig(**config), 0).start is None
    told = {"in_features": 2, "out_features": 3}
    space = factory_space(SpaceConfig(**config, start=told), 0)
    assert space.start == {"in_features": 1, "out_features": 0}
    with pytest.raises(ConfigError, match="start: choice 'out_features' has no value 5"):
        factory_space(SpaceConfig(**config, start=told | {"out_features": 5}), 0)
    own = {"stages.0.channels": [8, 128], "stages.2.blocks": [2, 5]}
    ready = factory_space(SpaceConfig(net="resnet18", choices=own), 0)
    assert ready.start is not None
    found = values_of(ready, ready.start)
    assert [found[f"stages.{n}.channels"] for n in range(4)] == [128, 128, 256, 512]
    assert [found[f"stages.{n}.blocks"] for n in range(4)] == [2, 2, 2, 2]


def unscored(point: Any, report: Any) -> dict[str, float]:
    raise AssertionError(point)


def test_spaces_of_other_models_or_orders_are_others() -> None:
    base = Artifact.make(NET)
    space = pruning(base)
    assert digest_of(space) == digest_of(pruning(base))
    assert digest_of(space) != digest_of(pruning(base, most=0.5))
    with torch.no_grad():
        next(base.model.parameters()).add_(1.0)
    assert digest_of(space) != digest_of(pruning(base))


def test_a_point_of_bits_is_what_the_stage_makes(tmp_path: Path) -> None:
    base = Artifact.make(NET)
    before = base.digest()
    space = rounding(base, tmp_path)
    assert base.digest() == before
    values = {choice.name: 4 if i % 2 else 8 for i, choice in enumerate(space.choices)}
    made = space.artifact(point_at(space, values))
    assert is_quantized(made.model)
    assert not is_quantized(space.base.model)
    # The last layer's answer is not rounded, so that it has no bits.
    mixed = {p: Bits(b if p in space.spots.answers else None, b) for p, b in values.items()}
    assert len(space.spots.answers) < len(values)
    Quantize(samples=32, mixed=mixed).run(base, work(tmp_path / "stage"))
    assert made.digest() == Artifact.load(tmp_path / "stage" / MADE).digest()


def test_fewer_bits_are_fewer_bytes(tmp_path: Path) -> None:
    base = Artifact.make(NET)
    space = rounding(base, tmp_path, both=False, reduce_range=True)
    low, high = ({c.name: i for c in space.choices} for i in (0, 1))
    costs = static_costs(space, torch.zeros(1, 3, 8, 8))
    weights = sum(space.base.model.get_submodule(p).weight.numel() for p in space.spots.weights)
    assert costs(high)["bytes"] - costs(low)["bytes"] == weights / 2
    assert stored_bytes(space.base.model) - costs(high)["bytes"] == pytest.approx(
        3 * weights, abs=8 * len(low)
    )
    assert (
        costs(low)["macs"]
        == costs(high)["macs"]
        == costs_of(base.model, torch.zeros(1, 3, 8, 8))["macs"]
    )
    with pytest.raises(ConfigError, match="the space is empty"):
        BitsSpace.of(base, Quantize(samples=32), (8,), False, work(tmp_path))
