"""The search stage: what is made of the model that goes in is searched for, within a pipeline."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial
from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.prune.building import losses_from, ranked_from
from pantheon.compress.prune.recalibrating import recalibrate
from pantheon.compress.quantize.stage import Quantize
from pantheon.compress.run_folder import read_json, write_json
from pantheon.compress.search.building import (
    sampler_from,
    scored_by,
    space_around,
    worker_from,
)
from pantheon.compress.search.findings import best_of
from pantheon.compress.search.latency_cost import predictor_from
from pantheon.compress.search.settings import (
    BitsSpaceConfig,
    PruningSpaceConfig,
    SearchStageConfig,
)
from pantheon.compress.search.space import Choice, point_at
from pantheon.compress.search.storage import storage_at
from pantheon.compress.search.telling import told_of
from pantheon.compress.search.trials import FOUND, fate_of
from pantheon.compress.stage import Cost, Outcome, Phase, Work
from pantheon.compress.together import SEED, first_alone
from pantheon.errors import CompressionError, ConfigError

TOLD, MADE, STUDY = "searched.json", "searched", "search.db"
"""In the stage's folder: what the report says, written last, the model, and the trials."""


@dataclass(frozen=True, slots=True)
class Search:
    """Searches for what to prune a model to, or how many bits to give its layers.

    The best point's channels or bits are what the stage leaves, with the weights that went in: what
    points learned while they were scored is forgotten. Trials are kept in the stage's folder.

    Args:
        settings: what is wanted, and how it is searched for.
        name: of the stage.
    """

    settings: SearchStageConfig
    name: str = "search"

    changes: bool = field(default=True, init=False)

    @classmethod
    def from_config(cls, config: SearchStageConfig) -> Search:
        """The stage that a configuration describes.

        Raises:
            ConfigError: objectives, a strategy, a table, a criterion or losses that cannot be.
        """
        scored_by(config)
        # The space is known when it runs.
        sampler_from(config, [Choice(name, (0, 1)) for name in ("any", "other")], 0)
        predictor_from(config)
        if config.prune is not None:
            losses_from(config.prune, ranked_from(config.prune))
        return cls(config, config.name or "search")

    @property
    def phase(self) -> Phase:
        """What becomes of the model."""
        return "quantize" if self.settings.prune is None else "prune"

    @property
    def asked(self) -> PruningSpaceConfig | BitsSpaceConfig:
        """The space."""
        asked = self.settings.prune or self.settings.bits
        assert asked is not None  # The configuration has one of the two.
        return asked

    def cost(self, samples: int) -> Cost:
        """The trainings of all points."""
        score, trials = self.settings.score, self.settings.trials
        each = score.epochs * min(score.samples or samples, samples)
        each += min(score.recalibrate, samples)
        return Cost(trials * score.epochs, trials * each, copies=12)

    def check(self, model: nn.Module) -> None:
        """Make sure that patterns match layers of the model, and that it can be rounded."""
        if isinstance(self.asked, PruningSpaceConfig):
            ranked_from(self.asked).check(model, self.name)
        else:
            Quantize.from_rounding(self.asked, 8, name=self.name).check(model)

    def run(self, artifact: Artifact, work: Work) -> Outcome:
        """Search; what was tried before a kill is not tried again."""
        first_alone(work, TOLD, partial(self._search, artifact, work))
        told: dict[str, Any] = read_json(work.folder / TOLD)
        made = Artifact.load(work.folder / MADE, work.device)
        return Outcome(made, samples=told["samples"], figures={"search": told})

    def _search(self, artifact: Artifact, work: Work) -> None:
        require_scores(self.name, work.metric is not None, work.parts.validation is not None)
        artifact.model.to("cpu")  # Points are made and counted there.
        space = space_around(artifact, self.asked, replace(work, device="cpu"))
        path = (work.folder / STUDY).absolute()
        with closing(storage_at(f"sqlite:///{path}", heartbeat=20, grace=60)) as storage:
            worker = worker_from(
                self.settings,
                space,
                storage,
                replace(work, folder=work.folder / "trials"),
                name=self.name,
                told={},
                whole=lambda: artifact.model,
                predictor=predictor_from(self.settings),
                said=lambda trial: work.watcher.say(_line(trial)),
            )
            worker.run()
            best, told = best_of(worker.study), self._told(worker.study, work)
        if not best:
            raise CompressionError(
                f"stage {self.name!r}: none of {self.settings.trials} trainings came to a score; "
                "train with smaller steps"
            )
        made = space.artifact(point_at(space, best[0].chosen))
        if self.settings.score.recalibrate:
            stream = work.parts.train.excerpt(self.settings.score.recalibrate, SEED).samples()
            made.model.to(work.device)
            recalibrate(made.model, stream, work.device)
        made.save(work.folder / MADE)
        write_json(work.folder / TOLD, told)

    def _told(self, study: Study, work: Work) -> dict[str, Any]:
        told = told_of(self.settings, study)
        trained = sum(each["found"] is not None for each in told["trials"])
        size = sum(int(batch.mask.sum()) for batch in work.parts.train.samples())
        read = trained * self.cost(size).samples // self.settings.trials
        return {**told, "samples": read}


def require_scores(name: str, metric: bool, validation: bool) -> None:
    """Make sure that a stage has what points are scored by.

    Raises:
        ConfigError: it lacks the metric, or the validation part.
    """
    if not metric or not validation:
        raise ConfigError(
            f"stage {name!r} scores points by the metric on a validation part; give the pipeline a "
            "metric, and the stream parts with a validation part"
        )


def _line(trial: FrozenTrial) -> str:
    """A trial in a line.

    >>> from optuna.trial import create_trial
    >>> _line(create_trial(value=1.0, user_attrs={FOUND: {"top1": 71.25}})).split(maxsplit=2)[2]
    'scored: top1 71.25'
    """
    found = ", ".join(f"{k} {v:.4g}" for k, v in trial.user_attrs.get(FOUND, {}).items())
    return f"trial {trial.number} {fate_of(trial).value}" + (f": {found}" if found else "")
