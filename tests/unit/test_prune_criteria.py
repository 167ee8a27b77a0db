"""Criteria of pruning, each against values worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pantheon.compress.prune.criteria import CRITERIA, Criterion, scores
from pantheon.compress.prune.evidence import Evidence, evidence_of, rows_of_layer
from pantheon.compress.prune.gradients import gradients
from pantheon.compress.prune.grouping import structure_of
from pantheon.compress.prune.groups import Structure
from pantheon.errors import ConfigError, NotFiniteError
from pantheon.training.objective import Term

WEIGHTS = [[3.0, -4.0], [1.0, 1.0], [0.0, 2.0]]
"""Of three channels, two inputs each."""


class Net(nn.Module):
    """Two linear layers with a batch norm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)
        with torch.no_grad():
            self.up.weight.copy_(torch.tensor(WEIGHTS))
            self.norm.weight.copy_(torch.tensor([-0.5, 2.0, 0.25]))

    def forward(self, rows: Tensor) -> Tensor:
        made: Tensor = self.down(self.norm(self.up(rows)))
        return made


def of(model: nn.Module, criterion: str, name: str = "up") -> list[float]:
    structure = structure_of(model, torch.ones(1, 2))
    found = scores(CRITERIA[criterion], evidence_of(model, structure.groups[name]))
    return [float(value) for value in found]


def distance(a: int, b: int) -> float:
    return math.dist(WEIGHTS[a], WEIGHTS[b])


BY_HAND = {
    "l1": [7.0, 2.0, 2.0],
    "l2": [5.0, math.sqrt(2), 2.0],
    "fpgm": [
        distance(0, 1) + distance(0, 2),
        distance(0, 1) + distance(1, 2),
        distance(0, 2) + distance(1, 2),
    ],
    "bn_scale": [0.5, 2.0, 0.25],
    "lamp": [25 / 25, 2 / (2 + 4 + 25), 4 / (4 + 25)],
}


@pytest.mark.parametrize("criterion", BY_HAND)
def test_a_criterion_scores_as_its_formula_says(criterion: str) -> None:
    assert of(Net(), criterion) == pytest.approx(BY_HAND[criterion], rel=1e-5)


def batch(inputs: Tensor, targets: Tensor) -> Any:
    found = SimpleNamespace(
        inputs=inputs, targets=targets, ids=torch.arange(len(inputs)), knowledge=None
    )
    found.mask = torch.ones(len(inputs), dtype=torch.bool)
    found.to = lambda device: found
    return found


class Linear(nn.Module):
    """Two linear layers without biases, whose gradients are easily worked out."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.up.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
            self.down.weight.copy_(torch.tensor([[2.0, -1.0]]))

    def forward(self, rows: Tensor) -> Tensor:
        made: Tensor = self.down(self.up(rows))
        return made


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs * targets).sum()


TERMS = [Term("own", own_loss, output="logits")]


def test_taylor_is_the_squared_sum_of_weight_times_gradient_in_a_batch() -> None:
    model = Linear()
    structure = structure_of(model, torch.ones(1, 2))
    batches = [
        batch(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0]])),
        batch(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0]])),
    ]
    found = gradients(model, structure.groups, TERMS, batches)
    # d loss / d up[c, i] = target * down[c] * input[i]; times weight, summed over i, it is
    # target * down[c] * up(input)[c]: 1 * 2 * 3 and 1 * -1 * 2; then 3 * 2 * 2 and 3 * -1 * 6.
    expected = [(6.0**2 + 12.0**2) / 2, (2.0**2 + 18.0**2) / 2]
    assert found.saliency["up"].tolist() == expected
    evidence = evidence_of(model, structure.groups["up"], found)
    assert scores(CRITERIA["taylor"], evidence).tolist() == expected
    # The mean gradient: (1 * 2 * [1, 1] + 3 * 2 * [2, 0]) / 2, and the same with -1.
    assert evidence.filters[0].gradients is not None
    assert evidence.filters[0].gradients.tolist() == [[7.0, 1.0], [-3.5, -0.5]]


def test_taking_gradients_leaves_the_model_as_it_was() -> None:
    model = Linear().train()
    model.down.weight.requires_grad_(False)
    structure = structure_of(model, torch.ones(1, 2))
    gradients(model, structure.groups, TERMS, [batch(torch.ones(1, 2), torch.ones(1, 1))])
    assert model.training
    assert not model.down.weight.requires_grad
    assert model.up.weight.requires_grad
    assert model.up.weight.grad is None


def test_gradients_that_are_not_finite_are_named() -> None:
    model = Linear()
    structure = structure_of(model, torch.ones(1, 2))
    with pytest.raises(NotFiniteError, match="the gradient of 'up' is not finite"):
        gradients(
            model,
            structure.groups,
            TERMS,
            [batch(torch.tensor([[math.inf, 0.0]]), torch.ones(1, 1))],
        )


def test_the_score_of_channels_that_are_added_is_the_mean_over_their_layers() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
            self.down = nn.Linear(2, 1)

        def forward(self, rows: Tensor) -> Tensor:
            made: Tensor = self.down(self.left(rows) + self.right(rows))
            return made

    model = Added()
    with torch.no_grad():
        model.left.weight.copy_(torch.tensor([[1.0], [5.0]]))
        model.right.weight.copy_(torch.tensor([[-4.0], [2.0]]))
    structure = structure_of(model, torch.ones(1, 1))
    assert list(structure.groups) == ["left"]
    evidence = evidence_of(model, structure.groups["left"])
    assert scores(CRITERIA["l1"], evidence).tolist() == [2.5, 3.5]


def test_a_unit_of_several_channels_has_the_sum_of_their_scores() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1, 1))
    structure = structure_of(model, torch.ones(1, 1, 2, 2))
    evidence = evidence_of(model, structure.groups["0"])
    assert scores(CRITERIA["l1"], evidence).tolist() == [4.0, 6.0]  # 1 + 3, 2 + 4


def test_depthwise_convolutions_do_not_count_where_others_make_the_channels() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1, groups=2), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
        model[1].weight.copy_(torch.tensor([100.0, 1.0]).reshape(2, 1, 1, 1))
    structure = structure_of(model, torch.ones(1, 1, 2, 2))
    evidence = evidence_of(model, structure.groups["0"])
    assert scores(CRITERIA["l1"], evidence).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("layer", "path"),
    [
        (nn.ConvTranspose2d(4, 6, 3), 0),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), 0),
        (nn.Conv2d(4, 6, 3, groups=2), 0),
        (nn.Linear(4, 6), 0),
    ],
)
def test_each_row_of_a_layer_decides_its_channel_alone(layer: nn.Module, path: int) -> None:
    weight = layer.get_parameter("weight")
    inputs = torch.randn(2, 4, *[5] * (weight.ndim - 2))
    before = layer(inputs)
    rows = rows_of_layer(layer, torch.arange(weight.numel()).reshape(weight.shape))
    with torch.no_grad():
        weight.view(-1)[rows[3]] += 1.0
    changed = (layer(inputs) != before).transpose(0, 1).flatten(1).any(1)
    assert changed.tolist() == [False, False, False, True, False, False]


def test_random_scores_are_the_seeds() -> None:
    one, same, other = (Evidence("conv", 8, (), seed=seed) for seed in (1, 1, 2))
    found = [scores(CRITERIA["random"], each).tolist() for each in (one, same, other)]
    assert found[0] == found[1] != found[2]
    assert scores(CRITERIA["random"], Evidence("conv2", 8, (), seed=1)).tolist() != found[0]


def test_batch_norms_scale_is_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match="the channels of 'up' pass no batch norm with a scale"):
        of(Linear(), "bn_scale")


def test_a_criterion_of_the_users_own_is_checked() -> None:
    evidence = evidence_of(Net(), structure_of(Net(), torch.ones(1, 2)).groups["up"])

    def bias(found: Evidence) -> Tensor:
        return found.filters[0].weights.sum(1)

    assert scores(Criterion(bias), evidence).tolist() == [-1.0, 2.0, 2.0]
    with pytest.raises(ConfigError, match=r"answered \[2\] for 'up'; expected .* shape \[3\]"):
        scores(Criterion(lambda found: torch.ones(2)), evidence)
    with pytest.raises(ConfigError, match="answered float for 'up'"):
        scores(Criterion(lambda found: 1.0), evidence)  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match="scores of 'up' that are not finite"):
        scores(Criterion(lambda found: torch.full((3,), math.nan)), evidence)


def test_what_a_structure_answers_is_of_the_model_at_hand() -> None:
    structure: Structure = structure_of(Net(), torch.ones(1, 2))
    other = Net()
    with torch.no_grad():
        other.up.weight.mul_(2)
    assert scores(CRITERIA["l1"], evidence_of(other, structure.groups["up"])).tolist() == [
        14.0,
        4.0,
        4.0,
    ]
