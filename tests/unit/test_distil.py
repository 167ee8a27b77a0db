"""The distillation stage trains as its settings say, and hands on what the training ends with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

from pantheon import SampleStream, Term
from pantheon.compress.artifact import Artifact
from pantheon.compress.config import DistilConfig
from pantheon.compress.distil import Distil
from pantheon.compress.stage import Outcome, Work
from pantheon.config import OptimizerConfig
from pantheon.errors import ConfigError
from pantheon.losses import Aligned
from pantheon.sampling.batch import Batch
from pantheon.stream import Parts
from pantheon.training.history import Step
from pantheon.training.objective import IGNORE
from pantheon.training.settings import TrainingSettings

SIZE = 20


class Watcher:
    """Keeps the steps that it is told of."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def step(self, step: Step) -> None:
        self.steps.append(step)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def distilled(folder: Path, **settings: Any) -> tuple[Outcome, list[dict[str, float]], list[Step]]:
    """The outcome of two epochs of two batches each, the metrics and the steps."""
    torch.manual_seed(3)
    artifact = Artifact.make("torch.nn:Linear", {"in_features": 3, "out_features": 2})
    data = TensorDataset(torch.randn(SIZE, 3), torch.randint(0, 2, (SIZE,)))
    stream, watcher = SampleStream(data, 10), Watcher()

    def metric(model: nn.Module, _: Any) -> Mapping[str, float]:
        return {"sum": sum(p.sum().item() for p in model.parameters())}

    stage = Distil(losses=[Term("labels", nn.functional.cross_entropy)], epochs=2, **settings)
    work = Work(folder, Parts(stream, stream), metric=metric, watcher=watcher)  # type: ignore[arg-type]
    outcome = stage.run(artifact, work)
    return outcome, [epoch.metrics for epoch in outcome.history], watcher.steps


def weights(outcome: Outcome) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in outcome.artifact.model.parameters()])


def test_the_averaged_weights_are_handed_on_also_when_it_was_killed_after_them(
    tmp_path: Path,
) -> None:
    sgd = OptimizerConfig(name="sgd", lr=0.5)
    plain, _, _ = distilled(tmp_path / "plain", optimizer=sgd)
    ema = {"settings": TrainingSettings(ema=0.9), "optimizer": sgd}
    averaged, metrics, _ = distilled(tmp_path / "ema", **ema)
    assert not torch.equal(weights(averaged), weights(plain))
    assert metrics[-1]["sum"] == sum(p.sum().item() for p in averaged.artifact.model.parameters())
    again, _, steps = distilled(tmp_path / "ema", **ema)
    assert not steps
    assert torch.equal(weights(again), weights(averaged))


def test_the_optimizers_bound_holds_without_settings(tmp_path: Path) -> None:
    tight = OptimizerConfig(name="sgd", lr=1.0, clip_norm=1e-3)
    first, _, _ = distilled(tmp_path / "tight", optimizer=tight)
    torch.manual_seed(3)
    start = Artifact.make("torch.nn:Linear", {"in_features": 3, "out_features": 2}).model
    moved = weights(first) - torch.cat([p.detach().flatten() for p in start.parameters()])
    assert 0 < moved.norm() <= 4.001e-3


def test_the_schedule_counts_the_optimizers_steps(tmp_path: Path) -> None:
    _, _, steps = distilled(
        tmp_path, settings=TrainingSettings(accumulate=2), optimizer=OptimizerConfig()
    )
    assert [(step.epoch, step.step, step.steps) for step in steps] == [(0, 0, 1), (1, 0, 1)]


def test_a_stage_takes_its_settings_from_its_configuration() -> None:
    said = {
        "stage": "distil",
        "losses": [{"loss": "cross_entropy"}],
        "accumulate": 2,
        "ema": {"decay": 0.5},
        "optimizer": {"clip_norm": 2},
    }
    made = Distil.from_config(DistilConfig.model_validate(said))
    assert made.settings == TrainingSettings(accumulate=2, ema=0.5, clip_norm=2)
    assert made.cost(10).copies == 13


class Late:
    """A stream whose first batch has no labelled row."""

    def __init__(self, stream: SampleStream, labelled: int) -> None:
        self.stream, self.labelled = stream, labelled

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.stream):
            known = batch.targets if number >= self.labelled else torch.full_like(batch.targets, -1)
            targets = torch.where(known < 0, IGNORE, known)
            yield Batch(batch.inputs, targets, batch.knowledge, batch.mask)


def aligned() -> Distil:
    """A stage whose only loss is aligned, and counts labelled rows only."""
    hint = Aligned(lambda ours, theirs: (ours - theirs.float()).square().mean())
    return Distil(losses=[Term("hint", hint)], optimizer=OptimizerConfig(name="sgd", lr=0.1))


def run_on(folder: Path, stage: Distil, labelled: int = 0) -> Outcome:
    torch.manual_seed(3)
    artifact = Artifact.make("torch.nn:Linear", {"in_features": 3, "out_features": 2})
    data = TensorDataset(torch.randn(SIZE, 3), torch.randint(0, 2, (SIZE, 5)))
    stream: Any = Late(SampleStream(data, 10), labelled)
    return stage.run(artifact, Work(folder, Parts(stream), watcher=Watcher()))  # type: ignore[arg-type]


def test_an_alignment_is_made_of_the_first_batch_that_has_rows(tmp_path: Path) -> None:
    stage = aligned()
    kept = [run_on(tmp_path / str(i), stage, labelled=1) for i in range(2)]
    trained = load_file(tmp_path / "0" / "training.safetensors")
    assert [n for n in trained if "aligns" in n and "exp" not in n]  # In the learner's state.
    assert torch.equal(weights(kept[0]), weights(kept[1]))  # It begins anew each time.


def test_an_alignment_that_no_row_would_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no rows to learn from in a whole epoch"):
        run_on(tmp_path, aligned(), labelled=2)
