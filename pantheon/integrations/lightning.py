"""Lightning's Trainer on a stream of knowledge, resumed exactly after a kill.

Lightning asks the loader itself for its state, as it has `state_dict` and `load_state_dict`, and
saves it with model, optimizers and loops in one file. What is added here: `Batches`, as Lightning
expects a loader that is restored at an epoch's end to begin the next one; `AtomicCheckpointIO`, so
that the file is written atomically on any file system; `ExactResume`, so that the loader's place,
random numbers and half-done steps go on.

Example:
    ::

        trainer = Trainer(plugins=[AtomicCheckpointIO()], callbacks=[ExactResume()])
        trainer.fit(module, Batches(loader), ckpt_path="last")
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng

from pantheon.errors import ConfigError, ResumeMismatch, StoreError
from pantheon.integrations.batches import Batches
from pantheon.integrations.disk import flush
from pantheon.ranks import Ranks, current
from pantheon.saving import chance
from pantheon.stream import BatchStream

__all__ = ["AtomicCheckpointIO", "Batches", "ExactResume"]

KEY = "pantheon"

BACKWARD = "a backward pass"
STEP = "an optimizer's step"


class AtomicCheckpointIO(TorchCheckpointIO):  # type: ignore[misc]  # lightning is not looked into
    """Checkpoints that are there whole or not at all, whatever dies when.

    Lightning's own way writes into the system's temporary folder and moves the file, which is a
    copy, and can be torn, where that is another file system. Files are read with ``weights_only``.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write beside the file, flush, and rename; remote paths are left to Lightning.

        Raises:
            StoreError: the disk refuses.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
            flush(target.parent)  # Lightning may remove the file before right after this one.
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise StoreError(f"cannot write the checkpoint {target}: {error}") from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        """Read a file; nothing in it is executed unless `weights_only` is False."""
        only = True if weights_only is None else weights_only
        found: dict[str, Any] = super().load_checkpoint(path, map_location, only)
        return found


class ExactResume(Callback):  # type: ignore[misc]  # lightning is not looked into
    """Saves and restores what Lightning leaves out, for every rank.

    That is the random states of torch, Python and numpy; the gradients that have been added up,
    where a file is written between two batches of one step (Lightning does so after every resume,
    with `accumulate_grad_batches`); and every loader's place after the batches that were learned
    from, for files of an epoch's end and of an exception too. Random numbers that are drawn while
    validating do not count: Lightning does not validate again after a resume.

    Raises:
        ConfigError: when training starts, for a loader that is not in `Batches`.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] = {}
        self._places: _Places = []
        self._over = False
        self._given: _Places = []
        self._learned: _Places = []
        self._random: dict[str, Any] = {}
        self._resumed = False
        self._reached = ""

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add them to a file; every rank calls it."""
        ranks, loop = current(), trainer.fit_loop
        torn, between = "", loop._should_accumulate()
        if _unfinished(loop):
            done = loop.epoch_loop.batch_progress.current.processed
            between = done % trainer.accumulate_grad_batches != 0
            torn = self._reached if between or self._reached == STEP else ""
            _take_back(checkpoint["loops"]["fit_loop"])
        learned = self._learned if _unfinished(loop) else self._given
        _put_places(checkpoint["loops"]["fit_loop"], learned)
        checkpoint[KEY] = {
            "random": self._gather(ranks, earlier=_unfinished(loop) or trainer.validating),
            "gradients": _gradients(module, ranks) if between and not torn else {},
            "torn": torn,
        }

    def _gather(self, ranks: Ranks, *, earlier: bool) -> dict[str, Any]:
        """Each rank's random states: now, or before the batch or the validation at hand."""
        with isolate_rng(include_cuda=_on_gpus()):
            if earlier and self._random:
                _set_rng_states(self._random)
            return _every_rank(chance.states(), ranks)

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Remember them; training takes them up when it begins."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._saved = checkpoint.get(KEY) or {}
        self._places, self._over = _places_in(checkpoint.get("loops", {}).get("fit_loop", {}))

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Go on from them, if they were saved by as many ranks.

        Raises:
            ConfigError: loaders that cannot be resumed.
            ResumeMismatch: gradients of another number of ranks, other loaders, or a file that an
                exception had written in the middle of a step.
        """
        _check_loaders(trainer.fit_loop)
        saved, self._saved = self._saved, {}
        _check_whole(saved.get("torn"))
        self._place(trainer.fit_loop)
        if saved:
            _restore(saved, module, current())
        self._given = self._learned = _places_of(trainer.fit_loop)
        self._remember()
        self._resumed = bool(saved)

    def _place(self, loop: Any) -> None:
        """Have the loaders go on after what was learned from.

        Lightning does so only where an epoch was unfinished. Nothing has been read so far.
        """
        places, self._places = self._places, []
        for loader, place in _pairs(loop, places):
            if isinstance(loader, Batches) and place is not None:
                refill = loop._combined_loader._mode != "max_size"
                loader.resume(place, over=self._over, refill=refill)

    def _remember(self) -> None:
        self._random = _collect_rng_states(include_cuda=_on_gpus())
        self._reached = ""

    def _redraw(self) -> None:
        """Forget what was drawn since training began: Lightning passes over a validation by then.

        It begins the validation's loader to do so, which draws a seed.
        """
        resumed, self._resumed = self._resumed, False
        if resumed:
            _set_rng_states(self._random)

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Go on from the random states of the file."""
        self._redraw()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Go on from the random states of the file."""
        self._redraw()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Remember where loaders and random numbers stand, should this batch fail."""
        self._redraw()
        self._given = _places_of(trainer.fit_loop)
        self._remember()

    def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
        """From here on a failure leaves half a batch's gradients."""
        self._reached = BACKWARD

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        """From here on a failure leaves a step that is taken, or half taken."""
        self._reached = STEP

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The batch was learned from."""
        self._learned = self._given
        self._remember()

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Have training draw the random numbers that it would without the validation."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._random:
            _set_rng_states(self._random)


_Places = list[dict[str, Any] | None]
"""The states of Lightning's stateful loaders; None for those that are not `Batches`."""


def _stateful(loop: Any) -> list[Any]:
    """The loaders whose states Lightning saves, in its order."""
    return [loader for loader in loop._combined_loader.flattened if isinstance(loader, _Stateful)]


def _places_of(loop: Any) -> _Places:
    return [x.state_dict() if isinstance(x, Batches) else None for x in _stateful(loop)]


def _places_in(saved: Mapping[str, Any]) -> tuple[_Places, bool]:
    """The loaders' states in a file, and whether Lightning's epoch was over with them."""
    places = saved.get("state_dict", {}).get("combined_loader", [])
    if not places:
        return [], False
    progress = saved["epoch_loop.batch_progress"]
    at, total = progress["current"], progress["total"]
    last = progress["is_last_batch"] and at["ready"] == at["processed"]
    return places, last or at["processed"] == 0 < total["processed"]


def _put_places(saved: dict[str, Any], places: _Places) -> None:
    """Replace what Lightning saved: it counts batches that were read and not learned from."""
    theirs = saved["state_dict"].get("combined_loader", [])
    if len(places) == len(theirs):
        both = zip(places, theirs, strict=True)
        saved["state_dict"]["combined_loader"] = [
            their if our is None else our for our, their in both
        ]


def _pairs(loop: Any, places: _Places) -> Iterable[tuple[Any, dict[str, Any] | None]]:
    loaders = _stateful(loop)
    if places and len(loaders) != len(places):
        raise ResumeMismatch(
            f"the file holds the places of {len(places)} loaders, and trainer.fit was given "
            f"{len(loaders)} that have one; give it the loaders of the run that wrote the file"
        )
    return zip(loaders, places, strict=False)


def _unfinished(loop: Any) -> bool:
    """Whether an exception has come within a batch."""
    at = loop.epoch_loop.batch_progress.current
    return bool(at.ready > at.processed)


def _take_back(saved: dict[str, Any]) -> None:
    """Have a file count the batches that were learned from; Lightning would skip a last one."""
    progress = saved["epoch_loop.batch_progress"]
    for count in (progress["current"], progress["total"]):
        count.update(dict.fromkeys(("ready", "started", "completed"), count["processed"]))
    progress["is_last_batch"] = False


def _on_gpus() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _every_rank(states: dict[str, torch.Tensor], ranks: Ranks) -> dict[str, Any]:
    """Each rank's states; machines may have different numbers of GPUs."""
    cuda = states.pop("cuda", torch.empty(0, 16, dtype=torch.uint8))
    found: dict[str, Any] = {name: ranks.gather(state) for name, state in states.items()}
    counts = ranks.gather(torch.tensor([len(cuda)])).flatten().tolist()
    if max(counts):
        padded = torch.zeros(max(counts), 16, dtype=torch.uint8)
        padded[: len(cuda)] = cuda
        rows = ranks.gather(padded)
        found["cuda"] = [every[:n].clone() for every, n in zip(rows, counts, strict=True)]
    return found


def _restore(saved: Mapping[str, Any], module: Any, ranks: Ranks) -> None:
    """Random states, where there are as many ranks, and gradients."""
    if len(saved["random"]["torch"]) == ranks.world:
        mine = {name: states[ranks.rank] for name, states in saved["random"].items()}
        chance.restore({name: state for name, state in mine.items() if len(state)})
    for name, parameter in module.named_parameters():
        if name in saved["gradients"]:
            every = saved["gradients"][name]
            _check_world(len(every), ranks)
            parameter.grad = every[ranks.rank].to(parameter)


def _gradients(module: Any, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Each rank's gradients, ``[world, ...]``; all ranks have the same parameters."""
    named = ((n, p.grad) for n, p in module.named_parameters())
    return {n: ranks.gather(grad.detach().cpu()) for n, grad in named if grad is not None}


def _check_world(saved: int, ranks: Ranks) -> None:
    if saved != ranks.world:
        raise ResumeMismatch(
            f"the file was written within a step, with the gradients of {saved} ranks, and there "
            f"are {ranks.world}; resume with {saved} ranks, or from a file of another step"
        )


def _check_whole(torn: str | None) -> None:
    if torn:
        raise ResumeMismatch(
            f"the file was written when an exception came within {torn}, of which a part was done; "
            "a file between two batches was expected: resume from an older one"
        )


def _check_loaders(loop: Any) -> None:
    for loader in loop._combined_loader.flattened:
        if isinstance(loader, BatchStream) and not isinstance(loader, Batches):
            raise ConfigError(
                f"trainer.fit was given a {type(loader).__name__} itself, whose epoch is empty "
                "when it is resumed right after the last batch, and training would end there; give "
                "it pantheon.integrations.lightning.Batches(loader)"
            )
    if any(isinstance(x, Batches) for x in _stateful(loop)) and loop._data_fetcher.length is None:
        raise ConfigError(
            "trainer.fit was given a loader without a length beside one in Batches, and Lightning "
            "reads a batch ahead of such loaders, before the place is restored; give it a __len__"
        )
