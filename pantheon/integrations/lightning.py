"""Lightning's Trainer on a stream of knowledge, resumed exactly after a kill.

Lightning asks the loader itself for its state, as it has `state_dict` and `load_state_dict`, and
saves it with model, optimizers and loops in one file. What is added here: `Batches`, as Lightning
expects a loader that is restored at an epoch's end to begin the next one; `AtomicCheckpointIO`, so
that the file is written atomically on any file system; `ExactResume`, so that random numbers and
half-done steps go on.

Example:
    ::

        trainer = Trainer(plugins=[AtomicCheckpointIO()], callbacks=[ExactResume()])
        trainer.fit(module, Batches(loader), ckpt_path="last")
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from pantheon import chance
from pantheon.errors import ConfigError, ResumeMismatch, StoreError
from pantheon.integrations.batches import Batches
from pantheon.ranks import Ranks, current
from pantheon.stream import KnowledgeStream

__all__ = ["AtomicCheckpointIO", "Batches", "ExactResume"]

KEY = "pantheon"


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

    That is the random states of torch, Python and numpy; and, where a file is written between two
    batches of one step (Lightning does so after every resume, with `accumulate_grad_batches`), the
    gradients that have been added up.

    Raises:
        ConfigError: when training starts, for a loader that is not in `Batches`.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add them to a file; every rank calls it."""
        ranks = current()
        checkpoint[KEY] = {
            "random": {n: ranks.gather(state) for n, state in chance.states().items()},
            "gradients": _gradients(module, ranks) if trainer.fit_loop._should_accumulate() else {},
        }

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Remember them; training takes them up when it begins."""
        self._saved = checkpoint.get(KEY)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Go on from them, if they were saved by as many ranks.

        Raises:
            ResumeMismatch: gradients of another number of ranks.
        """
        _check_loaders(trainer.train_dataloader)
        saved, self._saved, ranks = self._saved, None, current()
        if saved is None:
            return
        if len(saved["random"]["torch"]) == ranks.world:
            chance.restore({n: states[ranks.rank] for n, states in saved["random"].items()})
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


def _check_loaders(loader: Any) -> None:
    if isinstance(loader, KnowledgeStream) and not isinstance(loader, Batches):
        raise ConfigError(
            f"trainer.fit was given a {type(loader).__name__} itself, whose epoch is empty when it "
            "is resumed right after the last batch, and training would end there; give it "
            "pantheon.integrations.lightning.Batches(loader)"
        )
