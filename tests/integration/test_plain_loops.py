"""Plain loops save and restore what they have, with a `Checkpoint` or with torch.save."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pantheon import Checkpoint
from pantheon.errors import ResumeMismatch
from student_client import KnowledgeLoader
from teacher_server import Teacher

SIZE, BATCH, EPOCHS = 100, 16, 2
STEPS = EPOCHS * -(-SIZE // BATCH)
Kept = list[bytes]


@pytest.fixture(scope="module")
def samples() -> torch.Tensor:
    return torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def address(samples: torch.Tensor) -> Iterator[str]:
    """Of a deterministic teacher."""
    torch.manual_seed(2)
    with Teacher(nn.Linear(6, 4), samples, fixed_rows=16).start("tcp://127.0.0.1:0") as server:
        yield server.addresses[0]


class Run:
    """A plain loop's model, optimizer and loader."""

    def __init__(self, samples: torch.Tensor, address: str) -> None:
        torch.manual_seed(3)
        self.model = nn.Linear(6, 4)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 0.01)
        self.loader = KnowledgeLoader(samples, BATCH, shuffle=True, seed=4, teachers={"t": address})
        self.ids: list[list[int]] = []

    def learn(self, saved: Callable[[], None]) -> None:
        """Go on to the end of the last epoch; `saved` is called after every step."""
        for _ in range(self.loader.epoch, EPOCHS):
            for batch in self.loader:
                loss = nn.functional.mse_loss(self.model(batch.inputs), batch.knowledge["logits"])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.ids.append(batch.ids.tolist())
                saved()
        self.loader.close()

    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "loader": self.loader}

    def weights(self) -> bytes:
        return b"".join(p.detach().numpy().tobytes() for p in self.model.parameters())


def torch_saves(run: Run, kept: Kept, _: Path) -> Callable[[], None]:
    """Keeps what torch.save writes."""

    def save() -> None:
        file = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in run.parts().items()}, file)
        kept.append(file.getvalue())

    return save


def torch_loads(run: Run, data: bytes, _: Path) -> None:
    state = torch.load(io.BytesIO(data), weights_only=True)
    for name, part in run.parts().items():
        part.load_state_dict(state[name])


def checkpoint_saves(run: Run, kept: Kept, path: Path) -> Callable[[], None]:
    """Keeps what a checkpoint writes."""
    checkpoint = Checkpoint(path, every=1, **run.parts())

    def save() -> None:
        checkpoint.step()
        kept.append(path.read_bytes())

    return save


def checkpoint_loads(run: Run, data: bytes, path: Path) -> None:
    path.write_bytes(data)
    assert Checkpoint(path, **run.parts()).resume()


@pytest.mark.parametrize(
    ("saves", "loads"), [(torch_saves, torch_loads), (checkpoint_saves, checkpoint_loads)]
)
def test_a_loop_goes_on_after_every_step_with_the_same_ids_and_weights(
    samples: torch.Tensor, address: str, tmp_path: Path, saves: Any, loads: Any
) -> None:
    whole, kept = Run(samples, address), []
    whole.learn(saves(whole, kept, tmp_path / "run"))
    assert len(kept) == len(whole.ids) == STEPS
    for done, data in enumerate(kept, 1):
        again = Run(samples, address)
        loads(again, data, tmp_path / "again")
        again.learn(lambda: None)
        assert again.ids == whole.ids[done:], done
        assert again.weights() == whole.weights(), done


class Twice:
    """A run that may meet another teacher, or other samples, when it is started again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self, count: int, samples: torch.Tensor, weights: int, **options: Any) -> str:
        """Learn for so many steps; the teacher's revision."""
        torch.manual_seed(weights)
        teacher = Teacher(nn.Linear(6, 4), samples)
        with KnowledgeLoader(samples, BATCH, teachers={"t": teacher}, **options) as loader:
            saved = Checkpoint(self.path, every=1, loader=loader)
            saved.resume()
            for _, _ in zip(range(count), loader, strict=False):
                saved.step()
            return str(loader.state_dict()["teachers"]["t"])


def test_a_run_goes_on_with_no_other_revision_of_its_teacher_unless_asked_to(
    tmp_path: Path, samples: torch.Tensor
) -> None:
    run = Twice(tmp_path / "run")
    old = run.steps(2, samples, weights=1)
    assert run.steps(1, samples, weights=1) == old
    with pytest.raises(ResumeMismatch, match=f"revision {old} of teacher 't', which has") as caught:
        run.steps(1, samples, weights=2)
    new = str(caught.value).split("'")[-2]
    assert new not in (old, "")
    assert run.steps(1, samples, weights=2, revision={"t": new}) == new
    with pytest.raises(ResumeMismatch, match=f"revision {new} of teacher 't', which has {old}"):
        run.steps(1, samples, weights=1)


def test_a_run_goes_on_with_no_other_samples(tmp_path: Path, samples: torch.Tensor) -> None:
    run = Twice(tmp_path / "run")
    run.steps(2, samples, weights=1)
    with pytest.raises(ResumeMismatch, match=r"from a dataset with fingerprint .* one with "):
        run.steps(1, samples + 1, weights=1)


def test_what_was_learned_from_stays_in_a_state_that_is_saved_before_teachers_answer(
    samples: torch.Tensor, address: str
) -> None:
    teachers = {"t": address}
    with KnowledgeLoader(samples, BATCH, teachers=teachers) as loader:
        next(iter(loader))
        state = loader.state_dict()
    with KnowledgeLoader(samples, BATCH, teachers=teachers) as loader:
        assert loader.state_dict()["teachers"] == {}
        loader.load_state_dict(state)
        assert loader.state_dict() == state
