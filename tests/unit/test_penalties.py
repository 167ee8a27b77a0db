"""Penalties on weights: as their formulas say, and doing what they are for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pantheon import SampleStream, Term
from pantheon.compress.artifact import Artifact
from pantheon.compress.config import DistilConfig
from pantheon.compress.distil import Distil
from pantheon.compress.stage import Outcome, Work
from pantheon.config import OptimizerConfig
from pantheon.errors import ConfigError
from pantheon.stream import Parts
from pantheon.training.objective import Objective
from pantheon.training.penalties import Penalised, Penalty, group_lasso, slimming
from pantheon.training.ramp import Ramp

NET = "tests.unit.test_penalties:net"


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def test_slimming_is_the_sum_of_absolute_scales() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
    assert slimming([norm, nn.BatchNorm1d(2, affine=False)]).item() == 3.5


def test_group_lasso_weighs_norms_by_the_root_of_their_size() -> None:
    layer = nn.Conv2d(1, 2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4, 0, 0], [0, 0, 0, 0]]).reshape(2, 1, 2, 2))
    total = group_lasso([layer])
    assert total.item() == pytest.approx(5 * math.sqrt(4))
    total.backward()
    assert layer.weight.grad is not None
    assert bool(layer.weight.grad.isfinite().all())


def distilled(folder: Path, *penalties: Penalty) -> Outcome:
    torch.manual_seed(2)
    stream = SampleStream(TensorDataset(torch.randn(64, 3), torch.randint(0, 2, (64,))), 16)
    stage = Distil(
        losses=[Term("labels", nn.functional.cross_entropy)],
        epochs=4,
        optimizer=OptimizerConfig(name="sgd", lr=0.1),
        penalties=penalties,
    )
    return stage.run(Artifact.make(NET), Work(folder, Parts(stream)))


def test_a_training_with_a_penalty_shrinks_what_it_looks_at(tmp_path: Path) -> None:
    plain = distilled(tmp_path / "plain")
    slim = distilled(tmp_path / "slim", Penalty("slimming", slimming, 0.6))
    lasso = distilled(tmp_path / "lasso", Penalty("group_lasso", group_lasso, 0.4, ["0"]))

    def of(outcome: Outcome, path: str) -> float:
        return outcome.artifact.model.get_submodule(path).weight.abs().sum().item()  # type: ignore[union-attr,operator]

    assert of(slim, "1") < 0.5 * of(plain, "1")
    assert of(lasso, "0") < 0.5 * of(plain, "0")
    assert set(slim.history[0].losses) == {"labels", "slimming"}


def test_a_penalty_may_grow_over_the_epochs() -> None:
    penalised = Penalised(Objective([_no_loss()]), [_ramped()], nn.BatchNorm1d(4))
    found = []
    for epoch in (0.0, 0.5, 1.0):
        penalised.epoch = epoch
        found.append(penalised(torch.zeros(1, 2), _batch())["slim"].item())
    assert found == [0.0, 2.0, 4.0]
    assert penalised.rows(_batch()) == {"none": 1, "slim": 1}


def _ramped() -> Penalty:
    return Penalty("slim", slimming, Ramp(0.0, 1.0, 0.0, 1.0))


def _no_loss() -> Term:
    return Term("none", lambda outputs, targets: outputs.sum() * 0)


def _batch() -> Any:
    from types import SimpleNamespace

    ones = torch.ones(1, dtype=torch.bool)
    return SimpleNamespace(mask=ones, ids=torch.zeros(1), targets=torch.zeros(1, dtype=torch.int64))


def test_names_that_are_taken_are_refused() -> None:
    penalised = Penalised(Objective([_no_loss()]), [Penalty("none", slimming, 1.0)], net())
    with pytest.raises(ConfigError, match="a loss and a penalty are named 'none'"):
        penalised(torch.zeros(1, 2), _batch())


def test_two_penalties_of_a_kind_have_names_of_their_own() -> None:
    penalties = [{"penalty": "slimming", "weight": w} for w in (0.1, 0.2)]
    config = {"stage": "distil", "losses": [{"loss": "cross_entropy"}], "penalties": penalties}
    stage = Distil.from_config(DistilConfig.model_validate(config))
    with pytest.raises(ConfigError, match="two losses or penalties are named 'slimming'"):
        stage.check(net())
    penalties[1]["name"] = "more"
    Distil.from_config(DistilConfig.model_validate(config)).check(net())


@pytest.mark.parametrize(
    ("penalty", "layers", "said"),
    [
        ("slimming", ["conv*"], "'slimming': no layer matches 'conv"),
        ("slimming", ["0"], "slimming looks at scales of batch norms, and the layers have none"),
        ("group_lasso", ["1"], "group_lasso looks at filters, and the layers have none"),
    ],
)
def test_what_a_penalty_cannot_look_at_is_found_before_anything_runs(
    penalty: str, layers: list[str], said: str
) -> None:
    config = {
        "stage": "distil",
        "losses": [{"loss": "cross_entropy"}],
        "penalties": [{"penalty": penalty, "weight": 0.1, "layers": layers}],
    }
    stage = Distil.from_config(DistilConfig.model_validate(config))
    with pytest.raises(ConfigError, match=f"stage 'distil': .*{said}"):
        stage.check(net())
