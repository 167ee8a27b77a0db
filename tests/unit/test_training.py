"""The training loop and its checkpoints, over a stream made for the purpose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pantheon import Knowledge, Objective, Term, Training
from pantheon.demo.recipe import LabelledBatch
from pantheon.errors import ConfigError, ResumeMismatch, StoreError
from pantheon.losses import DKD, KLDivergence
from pantheon.stream import BatchStream
from pantheon.training.history import Epoch, Step
from pantheon.training.objective import IGNORE

STEPS, ROWS = 5, 4


class Stream:
    """The same few batches in every epoch; resumes like a loader."""

    def __init__(self) -> None:
        self.epoch, self.step, self.resumed = 0, 0, False

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[LabelledBatch]:
        self.step, self.resumed = (self.step if self.resumed else 0), False
        while self.step < STEPS:
            self.step += 1
            yield batch(self.epoch * STEPS + self.step)
        self.epoch, self.step = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.step, self.resumed = state["epoch"], state["step"], True


def batch(seed: int, **changes: Any) -> LabelledBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(ROWS)
    values = {
        "inputs": torch.randn(ROWS, 3, generator=generator),
        "targets": torch.randint(0, 2, (ROWS,), generator=generator),
        "ids": ids,
        "mask": torch.ones(ROWS, dtype=torch.bool),
        "knowledge": Knowledge(ids, {"logits": torch.randn(ROWS, 2, generator=generator)}),
    }
    return LabelledBatch(**values | changes)


def both() -> Objective:
    return Objective(
        [
            Term("teacher", KLDivergence(2.0), field="logits"),
            Term("labels", nn.CrossEntropyLoss(), weight=0.5),
        ]
    )


def training(path: Path | None = None, epochs: int = 3, **options: Any) -> Training:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * STEPS)
    return Training(
        model, Stream(), both(), optimizer, epochs=epochs, scheduler=schedule, path=path, **options
    )


def weights(run: Training) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_the_test_stream_is_a_knowledge_stream() -> None:
    assert isinstance(Stream(), BatchStream)


def test_progress_is_told_after_every_step_and_epoch() -> None:
    steps: list[Step] = []
    epochs: list[Epoch] = []
    evaluated: list[bool] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        evaluated.append(model.training or torch.is_grad_enabled())
        return {"accuracy": 0.25}

    run = training(epochs=2, on_step=steps.append, on_epoch=epochs.append, evaluate=evaluate)
    assert run.run() == epochs
    assert [(s.epoch, s.step) for s in steps] == [(e, s) for e in range(2) for s in range(STEPS)]
    assert steps[-1].remaining == 0 < steps[0].remaining
    assert steps[-1].samples == 2 * STEPS * ROWS
    assert [set(e.losses) for e in epochs] == [{"teacher", "labels"}] * 2
    assert epochs[-1].metrics == {"accuracy": 0.25}
    assert evaluated == [False, False]
    assert all(0 <= e.wait <= e.seconds for e in epochs)


class Killed(Exception):
    """Stands for the process's end."""


@pytest.mark.parametrize("at", [1, STEPS - 1, STEPS, STEPS + 2, 2 * STEPS])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, at: int) -> None:
    whole = training()
    whole.run()
    path = tmp_path / "state.safetensors"
    done = 0

    def kill(step: Step) -> None:
        nonlocal done
        done += 1
        if done == at + 1:
            raise Killed

    with pytest.raises(Killed):
        training(path, every=1, on_step=kill).run()
    resumed = training(path)
    assert resumed.resume()
    history = resumed.run()
    assert torch.equal(weights(resumed), weights(whole))
    assert [e.losses for e in history] == [e.losses for e in whole.history]


def test_there_is_nothing_to_resume_at_first(tmp_path: Path) -> None:
    assert not training(tmp_path / "absent").resume()


def test_a_finished_training_resumes_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    training(path, epochs=1).run()
    again = training(path, epochs=1)
    assert again.resume()
    assert len(again.run()) == 1


def test_a_run_that_starts_anew_says_so(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    training(path, epochs=1).run()
    again = training(path, epochs=1)
    with pytest.raises(StoreError, match="has not begun from it"):
        again.run()
    again = training(path, epochs=1)
    again.discard()
    assert len(again.run()) == 1
    assert training(path, epochs=1).resume()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    training(path, epochs=1).run()
    other = training(path)
    other.model = nn.Linear(3, 2)
    with pytest.raises(ResumeMismatch, match="does not fit this run"):
        other.resume()


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    training(path, epochs=1).run()
    other = training(path)
    other.optimizer = torch.optim.Adagrad(other.model.parameters())
    with pytest.raises(ResumeMismatch, match="this run has Adagrad; resume with"):
        other.resume()


def test_a_checkpoint_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    training(path, epochs=1).run()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StoreError, match="cannot read the checkpoint"):
        training(path).resume()


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    run = training()
    run.objective = Objective([Term("labels", lambda s, t: s.sum() * torch.nan)])
    with pytest.raises(ConfigError, match=r"epoch 0 is not finite: \{'labels': nan\}"):
        run.run()


def test_masked_unanswered_and_unlabelled_rows_do_not_count() -> None:
    real = torch.tensor([True, True, False, True])
    answered = torch.tensor([True, False, True, True])
    values = torch.randn(ROWS, 2)
    knowledge = Knowledge(torch.arange(ROWS), {"logits": values}, mask={"logits": answered})
    targets = torch.tensor([IGNORE, 1, 0, 1])
    part = batch(0, mask=real, knowledge=knowledge, targets=targets)
    outputs = torch.randn(ROWS, 2)
    losses = both()(outputs, part)
    kept = real & answered
    assert torch.equal(losses["teacher"], KLDivergence(2.0)(outputs[kept], values[kept]))
    expected = 0.5 * nn.functional.cross_entropy(outputs[[1, 3]], targets[[1, 3]])
    assert torch.equal(losses["labels"], expected)


def test_a_batch_without_labels_adds_nothing_and_has_a_gradient() -> None:
    outputs = torch.randn(ROWS, 2, requires_grad=True)
    part = batch(0, targets=torch.full((ROWS,), IGNORE))
    loss = both()(outputs, part)["labels"]
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert not outputs.grad.any()


def test_losses_that_want_labels_are_given_them() -> None:
    part = batch(0)
    outputs = {"logits": torch.randn(ROWS, 2)}
    term = Term("dkd", DKD(), field="logits", labelled=True)
    expected = DKD()(outputs["logits"], part.knowledge["logits"], part.targets)
    assert torch.equal(term(outputs, part), expected)


@pytest.mark.parametrize(
    ("outputs", "changes", "says"),
    [
        ({"scores": torch.zeros(ROWS, 2)}, {}, "the student returns scores, but a loss wants"),
        ([1], {}, "is a list; expected a tensor"),
        (torch.zeros(ROWS, 2), {"targets": None}, "needs targets, but the dataset gives none"),
    ],
)
def test_what_an_objective_cannot_use_is_named(
    outputs: Any, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        both()(outputs, batch(0, **changes))


def test_batches_without_inputs_are_refused() -> None:
    run = training()
    with pytest.raises(ConfigError, match="batches have no inputs"):
        run._step(batch(0, inputs=None))
