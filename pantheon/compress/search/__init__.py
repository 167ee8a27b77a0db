"""Search: spaces of models, strategies that choose what to try, workers that share the trying.

Names are imported when they are first used, so that a configuration is read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pantheon.exports import lazily

if TYPE_CHECKING:
    from pantheon.compress.search.samplers import sampler_of as sampler_of
    from pantheon.compress.search.space import Choice as Choice
    from pantheon.compress.search.space import Space as Space
    from pantheon.compress.search.task import Task as Task
    from pantheon.compress.search.trials import Fate as Fate
    from pantheon.compress.search.trials import Tally as Tally
    from pantheon.compress.search.worker import Worker as Worker

__all__ = ["Choice", "Fate", "Space", "Tally", "Task", "Worker", "sampler_of"]

_HOMES = {
    "samplers": ("sampler_of",),
    "space": ("Choice", "Space"),
    "task": ("Task",),
    "trials": ("Fate", "Tally"),
    "worker": ("Worker",),
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
