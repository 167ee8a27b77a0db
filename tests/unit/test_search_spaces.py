"""Spaces of factories, and what their models cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pantheon.compress.search.costs import static_costs
from pantheon.compress.search.factory_space import READY, FactorySpace, ready_made
from pantheon.compress.search.space import (
    Choice,
    digest_of,
    point_at,
    points_of,
    size_of,
    values_of,
)
from pantheon.compress.search.task import Task, check_limits, excess, keeps, repaired
from pantheon.errors import ConfigError

IMAGES = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize("net", READY)
def test_ready_made_spaces_are_around_the_papers_net(net: str) -> None:
    space = ready_made(net, {"classes": 10, "stem_stride": 1})
    costs = static_costs(space, IMAGES)
    lowest, highest = ({c.name: (len(c.values) - 1) * i for c in space.choices} for i in (0, 1))
    small, large = costs(lowest), costs(highest)
    whole = FactorySpace(
        f"pantheon.nets:{net}", {"classes": 10, "stem_stride": 1}, (Choice("width", (0.5, 1.0)),)
    )
    paper = static_costs(whole, IMAGES)({"width": 1})
    for name in ("macs", "parameters", "bytes"):
        assert 2 * small[name] < paper[name] < large[name]
    model = space.artifact(lowest).model
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == small["parameters"]
    for choice in space.choices:  # Ordered values go from the one that costs least on.
        assert choice.ordered
        assert costs(lowest | {choice.name: 1})["macs"] > small["macs"]


def test_a_point_is_the_same_model_whenever_it_is_made() -> None:
    space = ready_made("resnet18", {"classes": 3, "width": 0.25}, seed=4)
    point = {choice.name: 0 for choice in space.choices}
    torch.manual_seed(7)
    one = space.artifact(point)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), drawn)
    assert space.artifact(point).digest() == one.digest()
    other = ready_made("resnet18", {"classes": 3, "width": 0.25}, seed=5)
    assert other.artifact(point).digest() != one.digest()
    assert digest_of(other) != digest_of(space)


def test_points_and_values() -> None:
    space = FactorySpace(
        "torch.nn:Linear",
        {"in_features": 2},
        (Choice("out_features", (1, 2, 4)), Choice("bias", (True, False), ordered=False)),
    )
    every = list(points_of(space))
    assert len(every) == size_of(space) == 6
    assert [point_at(space, values_of(space, point)) for point in every] == every
    assert values_of(space, every[-1]) == {"out_features": 4, "bias": False}
    with pytest.raises(ConfigError, match=r"no choice 'out'"):
        point_at(space, {"out": 1})
    with pytest.raises(ConfigError, match=r"no value is given for the choice 'bias'"):
        point_at(space, {"out_features": 1})
    with pytest.raises(ConfigError, match=r"'out_features' has no value 3; expected one of \[1, 2"):
        point_at(space, {"out_features": 3, "bias": True})
    with pytest.raises(ConfigError, match=r"has no value 1;"):  # 1 is not True.
        point_at(space, {"out_features": 1, "bias": 1})


def test_a_point_beyond_the_limits_comes_back() -> None:
    space = ready_made("mobilenet_v2", {"classes": 10, "stem_stride": 1})
    costs = static_costs(space, IMAGES)
    highest = {c.name: len(c.values) - 1 for c in space.choices}
    limit = 0.4 * costs(highest)["macs"]
    task = Task(space, {"macs": "minimise"}, lambda point, report: {}, costs, {"macs": limit})
    check_limits(task, 0)
    found = repaired(task, highest, np.random.default_rng(0))
    assert found is not None
    assert keeps(excess(costs(found), task.limits))
    assert costs(found)["macs"] > 0.2 * limit
    tight = Task(space, {"macs": "minimise"}, lambda point, report: {}, costs, {"macs": 1e5})
    assert repaired(tight, highest, np.random.default_rng(0)) is None
    with pytest.raises(ConfigError, match=r"no point keeps the limits.*'stages.0.channels': 8"):
        check_limits(tight, 0)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ((), "the space is empty"),
        ((Choice("width", (1.0,)),), "the space is empty"),
        ((Choice("a", (1, 2)), Choice("a", (1, 2))), "two choices are named 'a'"),
        ((Choice("classes.x", (1, 2)),), "'classes.x' goes into 'classes', which is 10"),
        ((Choice("stages", (1, 2)), Choice("stages.1", (1, 2))), "'stages.1' goes into 'stages'"),
        ((Choice("fixed", (1, 2)),), "'fixed' would take the place of a mapping"),
    ],
)
def test_spaces_that_cannot_be(choices: tuple[Choice, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FactorySpace("pantheon.nets:resnet18", {"classes": 10, "fixed": {"a": 1}}, choices)


def test_choices_that_cannot_be() -> None:
    for values, said in (
        ((), "'a' has no values"),
        ((1, 1), "'a' has the value 1 twice"),
        ((float("nan"),), "'a': its values are no JSON"),
        (({1},), "'a': its values are no JSON"),
    ):
        with pytest.raises(ConfigError, match=said):
            Choice("a", values)
    with pytest.raises(ConfigError, match="a choice is named ''"):
        Choice("", (1,))
    with pytest.raises(ConfigError, match=r"no ready-made space 'mobilenet'; the nearest are"):
        ready_made("mobilenet", {})
    wrong = FactorySpace("pantheon.nets:resnet18", {}, (Choice("depth", (1, 2)),))
    with pytest.raises(ConfigError, match="depth"):
        wrong.artifact({"depth": 0})
