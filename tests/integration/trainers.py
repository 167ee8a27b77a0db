"""Students of other libraries' trainers, killed and resumed: ``python -m`` with one line of JSON.

A life is forked from this process, which has imported the library and has no threads and sockets
yet. It is killed at one of its points: the end of a step, or the moment before a file or folder
below its own is made, opened for writing, renamed or removed. Then the next life goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from student_client import KnowledgeLoader
from tests.chaos.lessons import CLASSES, WIDTH, Rows

SIZE, BATCH, EPOCHS, ACCUMULATE, SAVE = 150, 10, 2, 2, 2
SHORT = 70
"""Samples of a second loader."""
ENDED = 3
ROWS = Rows()
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


class Student(nn.Module):
    """A small network that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.net = nn.Sequential(
            nn.Linear(WIDTH, 24), nn.Tanh(), nn.Dropout(0.1), nn.Linear(24, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def digest(self) -> str:
        state = hashlib.sha256()
        for value in self.state_dict().values():
            state.update(value.numpy().tobytes())
        return state.hexdigest()


def loss_of(outputs: Tensor, batch: Any) -> Tensor:
    return nn.functional.mse_loss(outputs, batch.knowledge["logits"])


def loader_of(address: str, size: int = SIZE) -> KnowledgeLoader:
    return KnowledgeLoader(
        ROWS,
        BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        teachers={"expert": address},
        ids=range(size),
        shuffle=True,
        seed=3,
        dataset_fingerprint="chaos",
    )


class Ended(Exception):
    """A life ended before its work was done, and was not killed."""


class Fate:
    """Counts points, and kills this process at one of them, or does what it is told to."""

    def __init__(self, folder: Path, at: int | None) -> None:
        self.folder, self.at, self.points = str(folder), at, 0
        self.strike: Callable[[], object] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            _, mode, flags = arguments
            if (mode and "r" in mode and "+" not in mode) or not (mode or flags & 3):
                return
        elif event not in CHANGES:
            return
        if self.strike is None and str(arguments[0]).startswith(self.folder):
            self.point()

    def point(self) -> None:
        """One more."""
        self.points += 1
        if self.points - 1 == self.at:
            self.strike() if self.strike else os.kill(os.getpid(), signal.SIGKILL)


def huggingface(
    address: str, folder: Path, fate: Fate, log: Callable[..., None], way: str = "steps"
) -> Student:
    """Train with `DistillationTrainer`, from the newest whole folder on."""
    from transformers import TrainerCallback, TrainingArguments

    from pantheon.integrations.huggingface import DistillationTrainer, last_checkpoint

    loader = loader_of(address)

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            fate.point()

    def objective(outputs: Tensor, batch: Any) -> dict[str, Tensor]:
        log(step=trainer.state.global_step, ids=batch.ids[batch.mask].tolist())
        if way == "sigterm":
            fate.point()
        return {"mse": loss_of(outputs, batch)}

    args = TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        gradient_accumulation_steps=ACCUMULATE,
        save_strategy="steps",
        save_steps=SAVE,
        save_total_limit=1,
        enable_jit_checkpoint=way == "sigterm",
        learning_rate=0.01,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
        seed=11,
    )
    student = Student()
    trainer = DistillationTrainer(
        student, args, loader=loader, objective=objective, callbacks=[Told()]
    )
    if way == "sigterm":
        fate.strike = lambda: terminate(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    loader.close()
    if trainer.state.global_step < trainer.state.max_steps:
        raise Ended
    return student


def terminate(trainer: Any) -> None:
    """Have this process be told to end, and wait until its trainer knows."""
    (told,) = [c for c in trainer.callback_handler.callbacks if hasattr(c, "_callback")]
    manager = told._callback.jit_manager
    manager.kill_wait = 0
    os.kill(os.getpid(), signal.SIGTERM)
    until = time.monotonic() + 20
    while not manager.is_checkpoint_requested and time.monotonic() < until:
        time.sleep(0.01)


FIT: dict[str, dict[str, Any]] = {
    "limited": {"limit_train_batches": 7},
    "validated": {"val_check_interval": 4, "num_sanity_val_steps": 0},
}
SAVES: dict[str, dict[str, Any]] = {
    "epochs": {},
    "raised": {"every_n_train_steps": 10**6, "save_on_exception": True},
}
MODES = {"cycled": "max_size_cycle", "shortest": "min_size", "padded": "max_size"}


def lightning(
    address: str, folder: Path, fate: Fate, log: Callable[..., None], way: str = "steps"
) -> Student:
    """Train with Lightning's Trainer, from its last file on."""
    import logging

    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.utilities import CombinedLoader

    from pantheon.integrations.lightning import AtomicCheckpointIO, Batches, ExactResume

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    loaders = [loader_of(address)]
    data: Any = Batches(loaders[0])
    if way in MODES:
        loaders.append(loader_of(address, SHORT))
        data = CombinedLoader([Batches(loader) for loader in loaders], MODES[way])
    if way == "raised":
        fate.strike = end

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.student = Student()

        def training_step(self, given: Any, index: int) -> Tensor:
            batches = [b for b in (given if way in MODES else [given]) if b is not None]
            losses = [loss_of(self.student(batch.inputs), batch) for batch in batches]
            if way == "raised":
                fate.point()
            ids = [i for batch in batches for i in batch.ids[batch.mask].tolist()]
            log(step=self.trainer.global_step, ids=ids)
            return torch.stack(losses).sum()

        def validation_step(self, batch: Any, index: int) -> None:
            torch.rand(1), random.random()

        def val_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(range(4)) if way == "validated" else []

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 0.01)

        def on_train_batch_end(self, *_: Any) -> None:
            fate.point()

    pl.seed_everything(11, verbose=False)
    module = Module()
    saves = SAVES.get(way, {"every_n_train_steps": SAVE})
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        accumulate_grad_batches=ACCUMULATE,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=[ExactResume(), ModelCheckpoint(folder, save_top_k=1, monitor=None, **saves)],
        **FIT.get(way, {}),
    )
    files = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    trainer.fit(module, data, ckpt_path=files[-1] if files else None)
    for loader in loaders:
        loader.close()
    return module.student


def end() -> None:
    """Have a life end by an exception."""
    raise Ended


TRAINERS = {"huggingface": huggingface, "lightning": lightning}


def live(trainer: str, address: str, folder: Path, at: int | None, way: str) -> int:
    """Fork one life; its exit status, negative when it was killed, and `ENDED` when it ended."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        diary = (folder.parent / "diary").open("a", buffering=1)

        def log(**line: Any) -> None:
            diary.write(json.dumps(line) + "\n")

        fate = Fate(folder, at)
        digest = TRAINERS[trainer](address, folder, fate, log, way).digest()
        log(digest=digest, points=fate.points)
        code = 0
    except Ended:
        code = ENDED
    finally:
        os._exit(code)
    return code


def lives(trainer: str, address: str, folder: Path, points: list[int], way: str) -> dict[str, Any]:
    """A student that is killed at each of these points in turn, and then left in peace."""
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    codes = [live(trainer, address, folder, at, way) for at in (*points, None)]
    diary = [json.loads(line) for line in (folder.parent / "diary").read_text().splitlines()]
    learned: dict[int, list[list[int]]] = {}
    for line in diary:
        if "ids" in line:
            learned.setdefault(line["step"], []).append(line["ids"])
    return {"codes": codes, "ids": learned, **diary[-1]}


def share(told: dict[str, Any]) -> None:
    """Be one of several ranks, undisturbed, and write down what was learned from."""
    rank, folder, ids = os.environ["RANK"], Path(told["folder"]), []

    def log(**line: Any) -> None:
        ids.extend(line["ids"])

    out = folder / "out"
    out.mkdir(exist_ok=True)
    train = TRAINERS[told["trainer"]]
    digest = train(told["address"], out, Fate(out, None), log).digest()
    (folder / f"rank-{rank}.json").write_text(json.dumps({"digest": digest, "ids": ids}))


def main() -> None:
    """Live as told: ``{"trainer", "way", "address", "folder", "lives": [[point], ...]}``, or ranks.

    A way is how it is saved, and how its epochs end.
    """
    warnings.simplefilter("ignore")  # The libraries' own.
    torch.set_num_threads(1)
    told = json.loads(sys.argv[1])
    if "ranks" in told:
        share(told)
        return
    if told["trainer"] == "huggingface":
        import transformers

        transformers.Trainer  # noqa: B018  # loaded when it is first named
    else:
        import lightning.pytorch  # noqa: F401
    for points in told["lives"]:
        folder = Path(told["folder"]) / "life" / "out"
        life = lives(told["trainer"], told["address"], folder, points, told["way"])
        print(json.dumps(life), flush=True)


if __name__ == "__main__":
    main()
