"""Optimizers and schedules are what the configuration says, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pantheon.config import OptimizerConfig
from pantheon.errors import ConfigError
from pantheon.training.optimizing import optimizer_from, schedule_from


def rates(epochs: int = 3, steps: int = 4, **settings: Any) -> list[float]:
    """The rate of every step, and the one after the last."""
    config = OptimizerConfig(name="sgd", lr=0.4, **settings)
    optimizer = optimizer_from(config, nn.Linear(1, 1))
    schedule = schedule_from(config, optimizer, epochs, steps)
    found = []
    for _ in range(epochs * steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return found


def test_a_warm_up_rises_in_equal_steps_to_the_whole_rate() -> None:
    assert rates(warmup_steps=3) == pytest.approx([0.1, 0.2, 0.3] + [0.4] * 10)


def test_a_straight_line_ends_at_the_factor_given() -> None:
    whole = [0.4, 0.37, 0.34, 0.31, 0.28, 0.25, 0.22, 0.19, 0.16, 0.13, 0.1, 0.07, 0.04]
    assert rates(schedule="linear", min_lr=0.1) == pytest.approx(whole)


def test_a_straight_line_after_a_warm_up_takes_the_steps_that_are_left() -> None:
    fall = [0.4 - 0.05 * step for step in range(9)]
    assert rates(schedule="linear", warmup_steps=4) == pytest.approx(
        [0.08, 0.16, 0.24, 0.32, *fall]
    )


def test_half_a_cosine_is_in_the_middle_halfway_and_ends_at_the_factor_given() -> None:
    found = rates(schedule="cosine", min_lr=0.1, warmup_steps=4)
    assert found[:4] == pytest.approx([0.08, 0.16, 0.24, 0.32])
    assert [found[step] for step in (4, 8, 12)] == pytest.approx([0.4, 0.22, 0.04])


@pytest.mark.parametrize("warmup", [0, 3])
def test_milestones_are_epochs_from_the_beginning(warmup: int) -> None:
    found = rates(schedule="step", milestones=(1, 2), gamma=0.5, warmup_steps=warmup)
    assert found[3:] == pytest.approx([0.4] + [0.2] * 4 + [0.1] * 5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"warmup_steps": 12}, "the warm-up takes 12 steps, and the training has 12"),
        (
            {"schedule": "step", "milestones": (1, 2), "warmup_steps": 4},
            "milestones: the first, 1, is reached after 4 steps, while the rate still warms up",
        ),
    ],
)
def test_a_schedule_that_does_not_fit_the_training_is_refused(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        rates(**settings)


def test_norms_and_biases_can_be_spared_the_weight_decay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 1))
    config = OptimizerConfig(lr=0.1, weight_decay=0.5, decay_norms=False)
    optimizer = optimizer_from(config, model)
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = {name for name, p in model.named_parameters() if torch.equal(p, torch.ones_like(p))}
    assert kept == {"0.bias", "1.weight", "1.bias", "3.bias"}
    assert model[0].weight.flatten()[0].item() == pytest.approx(0.95)


def test_settings_reach_the_optimizer() -> None:
    sgd = OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    found = optimizer_from(sgd, nn.Linear(1, 1)).param_groups[0]
    assert (found["momentum"], found["nesterov"], found["weight_decay"]) == (0.9, True, 0.01)
    adam = optimizer_from(OptimizerConfig(betas=(0.8, 0.9)), nn.Linear(1, 1))
    assert adam.param_groups[0]["betas"] == (0.8, 0.9)


def test_an_optimizer_can_be_named_by_reference() -> None:
    config = OptimizerConfig(name="torch.optim:RAdam", args={"lr": 0.3}, schedule="cosine")
    optimizer = optimizer_from(config, nn.Linear(1, 1))
    assert isinstance(optimizer, torch.optim.RAdam)
    assert schedule_from(config, optimizer, 1, 2).get_last_lr() == [0.3]


@pytest.mark.parametrize(
    ("reference", "args", "says"),
    [
        ("builtins:list", {}, "name: builtins:list answers a list; expected a torch.optim.Opt"),
        ("torch.optim:RAdam", {"rate": 1}, "name: torch.optim:RAdam, called with the parameters"),
        ("torch.optim:RAdamm", {}, "did you mean 'RAdam'"),
    ],
)
def test_a_reference_that_answers_no_optimizer_is_named(
    reference: str, args: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        optimizer_from(OptimizerConfig(name=reference, args=args), nn.Linear(1, 1))
