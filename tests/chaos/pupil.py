"""A student that saves after every step, for `tests.chaos.doomed`; alone or one of several ranks.

Everything it has goes into its checkpoint: model, average of weights, optimizer, schedule, loader,
and the random states of torch, Python and numpy, all of which it draws from. What it says, one line
of JSON each, is in its file even when it is killed the moment after.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pantheon import Checkpoint
from pantheon.errors import DiskFullError
from pantheon.ranks import Ranks, current
from pantheon.saving import whole_file
from student_client import KnowledgeLoader
from tests.chaos.doomed import FULL, Fate
from tests.chaos.lessons import CLASSES, WIDTH, Rows

SIZE, GLOBAL_BATCH, EPOCHS = 155, 20, 2
STEPS = EPOCHS * -(-SIZE // GLOBAL_BATCH)
FILE = "run.safetensors"
ROWS = Rows()
Say = Callable[..., None]
torch.optim.AdamW([torch.zeros(1)])  # What torch loads late is loaded before the first fork.


class Pupil:
    """What a student has, and one step of it."""

    def __init__(self, addresses: Any, ranks: Ranks) -> None:
        torch.manual_seed(7)
        self.ranks = ranks
        self.model = nn.Sequential(
            nn.Linear(WIDTH, 24), nn.Tanh(), nn.Dropout(0.1), nn.Linear(24, CLASSES)
        )
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.01)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [5, 12])
        self.loader = KnowledgeLoader(
            ROWS,
            GLOBAL_BATCH // ranks.world,
            teachers={"expert": addresses},
            ids=range(SIZE),
            shuffle=True,
            seed=3,
            dataset_fingerprint="chaos",
            request_rows=10,
            rank=ranks.rank,
            world=ranks.world,
        )
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(100 + ranks.rank)

    def parts(self) -> dict[str, Any]:
        return {k: part for k, part in vars(self).items() if hasattr(part, "load_state_dict")}

    def learn(self, batch: Any) -> None:
        """One step, without the optimizer's."""
        noise = torch.randn(batch.inputs.shape) + random.gauss(0, 1) + np.random.standard_normal()
        errors = self.model(batch.inputs + 0.01 * noise) - batch.knowledge["logits"]
        real = batch.mask.sum()
        loss = errors[batch.mask].square().sum() / self.ranks.gather(real).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.ranks.sum_gradients(self.model.parameters())

    def update(self) -> None:
        """Take the step."""
        self.optimizer.step()
        self.ema.update_parameters(self.model)
        self.scheduler.step()

    def digest(self) -> str:
        """Of the weights, the averaged weights, and what the generators say next."""
        state = hashlib.sha256()
        for tensor in (*self.model.state_dict().values(), *self.ema.state_dict().values()):
            state.update(tensor.numpy().tobytes())
        if self.ranks.first:  # The others' generators start anew when their number changes.
            state.update(repr((torch.rand(1).item(), random.random(), np.random.rand())).encode())
        return state.hexdigest()


def torn(fate: Fate) -> Callable[..., Any]:
    """Opens files whose buffer is written in two halves."""
    opened = fate.opener()

    def opens(path: Any, mode: str, buffering: int = -1) -> Any:
        file = opened(path, mode)
        return io.BufferedWriter(file, buffering) if file.writable() else file

    return opens


def train(fate: Fate, path: str, addresses: Any, say: Say) -> None:
    """Go on from the checkpoint to the end of the last epoch."""
    pupil = Pupil(addresses, current())
    saved = Checkpoint(os.path.join(path, FILE), every=1, **pupil.parts())
    saved.resume()
    say(begins=saved.steps)
    for _ in range(pupil.loader.epoch, EPOCHS):
        for batch in pupil.loader:
            say(learns=saved.steps, ids=batch.ids[batch.mask].tolist(), flying=flying(pupil))
            fate.step("batch")
            pupil.learn(batch)
            fate.step("gradients")
            pupil.update()
            fate.step("learned")
            saved.step()
            if pupil.ranks.first:  # The others go on while it writes.
                say(saved=saved.steps)
    counted = pupil.loader.stats().as_dict()
    say(digest=pupil.digest(), counted=counted, taken=fate.taken)
    pupil.loader.close()


def flying(pupil: Pupil) -> int:
    """Requests that are being answered now."""
    return sum(t.in_flight for t in pupil.loader.stats().teachers.values())


def live(
    fate: Fate,
    path: str,
    addresses: Any,
    said: str,
    rank: int = 0,
    world: int = 1,
    meeting: str = "",
) -> int:
    """Train; `FULL` when the disk is.

    Args:
        path: the folder of the checkpoint.
        said: the file for what is said.
        meeting: a file by which the ranks find each other.
    """
    if fate.doomed:
        whole_file.open = torn(fate)  # type: ignore[attr-defined]
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(**what: Any) -> None:
        os.write(file, f"{json.dumps(what)}\n".encode())

    if world > 1:
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world)
    try:
        train(fate, path, addresses, say)
    except DiskFullError:
        return FULL
    return 0
