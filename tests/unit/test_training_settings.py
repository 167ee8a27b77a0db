"""Each setting of the training loop does what it says, and survives a kill with the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pantheon import Knowledge, Objective, Term, Training
from pantheon.config import LoopConfig, OptimizerConfig
from pantheon.demo.recipe import LabelledBatch
from pantheon.errors import ConfigError, ResumeMismatch
from pantheon.training.average import Average
from pantheon.training.history import Step
from pantheon.training.learner import Learner
from pantheon.training.objective import IGNORE
from pantheon.training.optimizing import optimizer_from, schedule_from
from pantheon.training.settings import TrainingSettings, settings_from
from tests.unit.test_training import ROWS, STEPS, Killed, Stream, batch, both


class Images(Stream):
    """The stream of `test_training`, of images."""

    def __iter__(self) -> Iterator[LabelledBatch]:
        for small in super().__iter__():
            generator = torch.Generator().manual_seed(self.epoch * STEPS + self.step)
            yield replace(small, inputs=torch.randn(ROWS, 3, 6, 6, generator=generator))


def net(dropout: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(64, 2),
    )


def training(path: Path | None = None, model: nn.Module | None = None, **said: Any) -> Training:
    """Three epochs of images, as a YAML file would have them with these keys."""
    config = LoopConfig.model_validate({"epochs": 3, **said})
    model = model or net()
    settings = settings_from(config)
    optimizer = optimizer_from(config.optimizer, model)
    steps = settings.steps(STEPS)
    return Training(
        model,
        Images(),
        both(),
        optimizer,
        epochs=3,
        settings=settings,
        scheduler=schedule_from(config.optimizer, optimizer, 3, steps),
        evaluate=lambda model: {"sum": sum(p.sum() for p in model.parameters())},
        path=path,
        every=1,
    )


def state(run: Training) -> dict[str, Tensor]:
    """All that a training has learned."""
    average = {} if run.average is None else run.average.state_dict(prefix="average.")
    return run.model.state_dict() | average


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(found[k].equal(expected[k]) for k in expected)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models are traced, but not compiled by a compiler of C++, which takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    yield
    torch.compiler.reset()


SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True}

SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": SGD},
    "adam": {"optimizer": {"betas": [0.8, 0.9], "weight_decay": 0.1, "decay_norms": False}},
    "clip": {"optimizer": {"lr": 0.01, "clip_norm": 0.1}},
    "reference": {"optimizer": {"name": "torch.optim:RAdam", "args": {"lr": 0.01}}},
    "warm-up": {"optimizer": {"warmup_steps": 7}},
    "cosine": {"optimizer": {"warmup_steps": 4, "schedule": "cosine", "min_lr": 0.1}},
    "linear": {"optimizer": {"warmup_steps": 4, "schedule": "linear"}},
    "step": {"optimizer": {"warmup_steps": 4, "schedule": "step", "milestones": [1, 2]}},
    "ema": {"ema": {"decay": 0.9}},
    "bfloat16": {"precision": "bfloat16"},
    "channels_last": {"channels_last": True},
    "accumulate": {"accumulate": 2},
    "compile": {"compile": True},
    "all": {
        "accumulate": 3,
        "ema": {"decay": 0.9},
        "precision": "bfloat16",
        "channels_last": True,
        "compile": True,
        "optimizer": {"clip_norm": 0.5, "warmup_steps": 3, "schedule": "cosine"},
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_training_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = training(**SETTINGS[name])
    epochs = [(e.losses, e.metrics) for e in whole.run()]
    steps = whole.steps
    for at in {1, steps - 1, steps, 2 * steps + 1}:
        path = tmp_path / f"{at}.safetensors"
        killed = training(path, **SETTINGS[name])
        killed.on_step = partial(_kill, at)
        with pytest.raises(Killed):
            killed.run()
        resumed = training(path, **SETTINGS[name])
        assert resumed.resume()
        assert [(e.losses, e.metrics) for e in resumed.run()] == epochs
        assert same(state(resumed), state(whole))
        assert resumed.ids == whole.ids


def _kill(at: int, step: Step) -> None:
    if step.epoch * step.steps + step.step == at:
        raise Killed


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_makes_a_difference(name: str) -> None:
    plain, other = training(), training(**SETTINGS[name])
    plain.run()
    other.run()
    if name not in ("channels_last", "compile"):
        assert not same(state(other), state(plain))
    assert all(value.isfinite().all() for value in state(other).values())


def test_a_checkpoint_without_an_average_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    training(path).run()
    with pytest.raises(ResumeMismatch, match="this run has average, model"):
        training(path, ema={}).resume()


def test_the_average_after_two_steps_is_that_of_both() -> None:
    seen: list[dict[str, Tensor]] = []
    run = training(ema={"decay": 0.75})
    run.on_step = lambda step: seen.append(_copy(run.model))
    run.path, run.epochs = None, 1
    run._step(*[batch_of_images(0)])
    assert same(_copy(run.final_model), seen[0])
    run._step(*[batch_of_images(1)])
    found = _copy(run.final_model)
    for name in ("0.weight", "5.bias", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(found[name], 0.75 * seen[0][name] + 0.25 * seen[1][name])
    assert found["1.num_batches_tracked"] == 2


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def batch_of_images(seed: int) -> LabelledBatch:
    generator = torch.Generator().manual_seed(seed)
    return batch(seed, inputs=torch.randn(ROWS, 3, 6, 6, generator=generator))


def test_the_average_is_what_is_evaluated_and_kept() -> None:
    run = training(ema={"decay": 0.9})
    seen: list[nn.Module] = []
    run.evaluate = lambda model: seen.append(model) or {}
    run.run()
    assert seen == [run.final_model] * 3
    assert run.final_model is not run.model
    assert not run.final_model.training
    assert run.final_model.state_dict().keys() == net().state_dict().keys()
    assert training().final_model.state_dict().keys() == net().state_dict().keys()


def test_of_a_learner_the_student_alone_is_averaged() -> None:
    learner = Learner(net(), peers=[net()])
    run = training(model=learner, ema={"decay": 0.9})
    run.run()
    assert run.final_model.state_dict().keys() == net().state_dict().keys()
    assert Training(learner, Images(), both(), run.optimizer, epochs=1).final_model is (
        learner.student
    )


def test_masks_and_counters_are_not_averaged() -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("mask", torch.tensor([1.0, 0.0]))
    average = Average(model, 0.9)
    average.update_parameters(model)
    model.mask.copy_(torch.tensor([0.0, 1.0]))
    average.update_parameters(model)
    assert average.module.mask.tolist() == [0.0, 1.0]


def test_a_model_that_cannot_be_copied_has_no_average() -> None:
    model = nn.Linear(1, 1)
    model.lock = open(__file__)  # type: ignore[assignment]  # noqa: SIM115
    with model.lock, pytest.raises(ConfigError, match="cannot be copied for the average of its we"):  # type: ignore[attr-defined]
        Average(model, 0.9)


@pytest.mark.parametrize(("bound", "moved"), [(1.0, [-0.6, -0.8]), (10.0, [-3.0, -4.0])])
def test_gradients_are_scaled_to_the_bound_only_where_they_exceed_it(
    bound: float, moved: list[float]
) -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    objective = Objective([Term("sum", lambda outputs, _: outputs.mean())])
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    settings = TrainingSettings(clip_norm=bound)
    run = Training(model, Stream(), objective, optimizer, epochs=1, settings=settings)
    run._step(batch(0, inputs=torch.tensor([[3.0, 4.0]] * ROWS)))
    assert model.weight.flatten().tolist() == pytest.approx(moved, rel=1e-5)


def joined(parts: list[LabelledBatch]) -> LabelledBatch:
    """One batch of the rows of several."""
    ids, logits = torch.cat([b.ids for b in parts]), [b.knowledge["logits"] for b in parts]
    return LabelledBatch(
        torch.cat([b.inputs for b in parts]),
        torch.cat([b.targets for b in parts]),
        ids,
        torch.cat([b.mask for b in parts]),
        Knowledge(ids, {"logits": torch.cat(logits)}),
    )


class Uneven(Stream):
    """Batches of which other numbers of rows are real and labelled; joined by `size`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def __len__(self) -> int:
        return -(-STEPS // self.size)

    def __iter__(self) -> Iterator[LabelledBatch]:
        every = []
        for number, one in enumerate(super().__iter__()):
            mask, targets = one.mask.clone(), one.targets.clone()
            mask[: number % 3], targets[number % 2 + 2 :] = False, IGNORE
            every.append(replace(one, mask=mask, targets=targets))
        for start in range(0, STEPS, self.size):
            yield joined(every[start : start + self.size])


def test_several_batches_teach_what_one_of_all_their_rows_does() -> None:
    def run(size: int, accumulate: int) -> tuple[Training, list[Step]]:
        torch.manual_seed(0)
        model, steps = nn.Linear(3, 2), []
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        settings = TrainingSettings(accumulate=accumulate)
        training = Training(model, Uneven(size), both(), optimizer, epochs=2, settings=settings)
        training.on_step = steps.append
        training.run()
        return training, steps

    (once, _), (thrice, steps) = run(2, 1), run(1, 2)
    assert [(s.step, s.steps) for s in steps] == [(0, 3), (1, 3), (2, 3)] * 2
    assert thrice.ids == once.ids
    assert thrice.history[1].samples == once.history[1].samples == 16
    for name, weight in once.model.state_dict().items():
        torch.testing.assert_close(thrice.model.state_dict()[name], weight)
    for term in ("teacher", "labels"):
        assert thrice.history[1].losses[term] == pytest.approx(once.history[1].losses[term])


def test_in_a_lower_precision_the_losses_are_still_of_float32() -> None:
    seen: list[torch.dtype] = []
    model = net()
    model[5].register_forward_hook(lambda module, args, output: seen.append(output.dtype))

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        seen.append(output.dtype)
        seen.append((output @ output.T).dtype)
        return nn.functional.cross_entropy(output, targets)

    run = training(model=Learner(model, layers=["0"]), precision="bfloat16")
    layer = Term("layer", lambda a, b: seen.append(a.dtype) or a.mean(), layer="0", field="logits")
    run.objective = Objective([Term("labels", loss), layer])
    run._step(batch_of_images(0))
    assert seen == [torch.bfloat16] + [torch.float32] * 3
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


def test_float16_is_refused_on_the_cpu() -> None:
    with pytest.raises(ConfigError, match="precision is float16, and the model is on the CPU"):
        training(precision="float16")


def test_images_and_weights_are_in_channels_last_until_the_training_ends() -> None:
    seen: list[bool] = []
    model = net(dropout=0.0)

    def look(module: nn.Module, args: Any) -> None:
        last = torch.channels_last
        seen.append(args[0].is_contiguous(memory_format=last))
        seen.append(module.weight.is_contiguous(memory_format=last))

    model[0].register_forward_pre_hook(look)
    run = training(model=model, channels_last=True, ema={}, optimizer=SGD)
    plain = training(model=net(dropout=0.0), ema={}, optimizer=SGD)
    run.run()
    plain.run()
    assert seen == [True] * len(seen)
    assert len(seen) == 2 * 3 * STEPS
    assert all(p.is_contiguous() for m in (run.model, run.final_model) for p in m.parameters())
    for name, value in state(plain).items():
        torch.testing.assert_close(state(run)[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("wrap", [lambda model: model, Learner])
def test_a_compiled_model_learns_the_same_and_keeps_its_names(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    calls: list[Any] = []
    compile_ = torch.compile

    def counting(model: nn.Module, **options: Any) -> Any:
        calls.append(options)
        return compile_(model, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", counting)
        run = training(model=wrap(net(dropout=0.0)), compile=True, optimizer=SGD)
    plain = training(model=wrap(net(dropout=0.0)), optimizer=SGD)
    run.run()
    plain.run()
    assert calls == [{"dynamic": False}]
    assert state(run).keys() == state(plain).keys()
    for name, value in state(plain).items():
        torch.testing.assert_close(state(run)[name], value, atol=1e-4, rtol=1e-3)


def test_a_compiled_model_has_no_taps() -> None:
    with pytest.raises(ConfigError, match=r"compile is true, and losses look at the layers 0, 1"):
        training(model=Learner(net(), layers=["0", "1"]), compile=True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"clip_norm": 0.0}, "clip_norm is 0.0; expected a number above 0"),
        ({"accumulate": 0}, "accumulate is 0; expected a number from 1"),
        ({"ema": 1.0}, "ema is 1.0; expected a decay between 0 and 1"),
        ({"precision": "float8"}, "precision is 'float8'; expected one of float32, bfloat16"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TrainingSettings(**settings)


def test_every_key_of_a_configuration_reaches_the_settings() -> None:
    said = LoopConfig.model_validate(SETTINGS["all"])
    assert settings_from(said) == TrainingSettings(
        clip_norm=0.5,
        accumulate=3,
        ema=0.9,
        precision="bfloat16",
        channels_last=True,
        compile=True,
    )
    assert settings_from(LoopConfig(optimizer=OptimizerConfig())) == TrainingSettings()
