"""The distillation stage: train the model on what its teachers know, and on its targets."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.config import DistilConfig
from pantheon.compress.stage import Cost, Outcome, Phase, Work
from pantheon.config import LearningConfig, OptimizerConfig
from pantheon.errors import ConfigError
from pantheon.paths import module_at
from pantheon.reference import call
from pantheon.training.learner import Learner
from pantheon.training.loop import Training
from pantheon.training.mutual import Mutual
from pantheon.training.objective import Objective, Term
from pantheon.training.optimizing import optimizer_from, schedule_from
from pantheon.training.penalties import PENALTIES, Penalised, Penalty
from pantheon.training.ramp import Ramp
from pantheon.training.rehearsal import learner_of, rehearse
from pantheon.training.settings import TrainingSettings, settings_from
from pantheon.training.terms import ramp_from, term_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Distil:
    """Trains the model for some epochs; also without teachers, on the targets alone.

    Args:
        losses: the addends of the loss, on outputs and on any layers.
        epochs: passes over the training part.
        optimizer: it and its schedule.
        settings: how steps are computed; where they do not bound the gradients, `optimizer` may.
        name: of the stage.
        every: steps after which the state is kept, besides every epoch.
        validate_every: epochs after which the metric is read; 0 for never.
        peers: students that learn at its side and from each other (deep mutual learning); made by
            functions of no argument.
        mutual: weight of what they learn from each other.
        temperature, output: of the outputs that peers compare, and which.
        penalties: on the model's weights.

    Example:
        >>> from pantheon.losses import KLDivergence
        >>> stage = Distil(losses=[Term("kl", KLDivergence(4.0), field="logits")], epochs=3)
        >>> stage.cost(samples=1000)
        Cost(epochs=3, samples=3000, copies=10)
    """

    losses: Sequence[Term]
    epochs: int = 1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    name: str = "distil"
    every: int | None = None
    validate_every: int = 1
    peers: Sequence[Any] = ()
    mutual: float | Ramp = 1.0
    temperature: float = 1.0
    output: str = "logits"
    penalties: Sequence[Penalty] = ()

    phase: Phase = field(default="train", init=False)
    changes: bool = field(default=True, init=False)

    @classmethod
    def from_config(cls, config: DistilConfig) -> Distil:
        """The stage that a configuration describes."""
        return cls.from_learning(
            config,
            name=config.name or "distil",
            every=config.every,
            validate_every=config.validate_every,
            peers=[_Peer(p.model, p.model_args, p.where("model")) for p in config.peers],
            mutual=ramp_from(config.mutual.weight),
            temperature=config.mutual.temperature,
            output=config.mutual.output,
            penalties=[
                Penalty(p.name or p.penalty, PENALTIES[p.penalty], ramp_from(p.weight), p.layers)
                for p in config.penalties
            ],
        )

    @classmethod
    def from_learning(cls, config: LearningConfig, **other: Any) -> Distil:
        """The training that a part of a configuration describes, with other arguments."""
        return cls(
            losses=[term_from(loss) for loss in config.losses],
            epochs=config.epochs,
            optimizer=config.optimizer,
            settings=settings_from(config),
            **other,
        )

    def cost(self, samples: int) -> Cost:
        """Weights are kept in two checkpoints, with two moments each, and as the artifact.

        A third checkpoint is there while it is written. An average of the weights is kept in all
        three; what peers and alignments weigh is not counted.
        """
        copies = 10 if self.settings.ema is None else 13
        return Cost(self.epochs, self.epochs * samples, copies=copies)

    def check(self, model: nn.Module) -> None:
        """Make sure that the model has the layers that the losses look at."""
        check_layers(model, self.losses, self.name)
        names = [term.name for term in self.losses] + [p.name for p in self.penalties]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"stage {self.name!r}: two losses or penalties are named {twice[0]!r}; give one "
                "another name"
            )
        for penalty in self.penalties:
            try:
                penalty.of(penalty.modules(model))
            except ConfigError as error:
                raise ConfigError(f"stage {self.name!r}: {error}") from error

    def run(self, artifact: Artifact, work: Work) -> Outcome:
        """Train; a checkpoint in the stage's folder is gone on with."""
        stream = work.parts.train
        torch.manual_seed(work.seed)
        peers = [make() for make in self.peers]
        losses = copy.deepcopy(self.losses)  # Those that learn begin anew in every run.
        learner = learner_of(artifact.model, losses, peers).to(work.device)
        alone = Objective(losses)
        objective: Any = alone
        if self.peers:
            objective = Mutual(alone, self.mutual, self.temperature, self.output)
        if self.penalties:
            objective = Penalised(objective, self.penalties, artifact.model)
        rehearse(learner, objective, stream)
        training = self._training(learner, objective, work)
        if training.resume():
            work.watcher.say(f"goes on after epoch {len(training.history)}")
        history = training.run()
        learner.eval()
        if training.final_model is not artifact.model:
            artifact.model.load_state_dict(training.final_model.state_dict())
        return Outcome(
            artifact,
            samples=sum(epoch.samples for epoch in history),
            history=tuple(history),
            figures={"ids_sha256": training.ids, "ranks": work.ranks.world},
        )

    def _training(self, learner: Learner, objective: Any, work: Work) -> Training:
        optimizer = optimizer_from(self.optimizer, learner)
        bound = self.settings.clip_norm or self.optimizer.clip_norm
        settings = replace(self.settings, clip_norm=bound)
        steps = settings.steps(len(work.parts.train))
        training = Training(
            learner,
            work.parts.train,
            objective,
            optimizer,
            epochs=self.epochs,
            settings=settings,
            scheduler=schedule_from(self.optimizer, optimizer, self.epochs, steps),
            path=work.folder / "training.safetensors",
            every=self.every,
            on_step=work.watcher.step,
            on_epoch=work.watcher.epoch,
            ranks=work.ranks,
        )

        def evaluate(model: nn.Module) -> Mapping[str, float]:
            number = len(training.history) + 1
            due = number == self.epochs or number % self.validate_every == 0
            return work.validate(model) if due else {}

        training.evaluate = evaluate if self.validate_every else None
        return training


def check_layers(model: nn.Module, losses: Sequence[Term], stage: str) -> None:
    """Make sure that a model has the layers that losses look at.

    Raises:
        ConfigError: it has not; names the stage, the loss and the nearest layers.
    """
    for term in losses:
        for path in term.layers:
            try:
                module_at(model, path)
            except ConfigError as error:
                raise ConfigError(f"stage {stage!r}, loss {term.name!r}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Peer:
    """A peer to be made, from its reference."""

    model: str
    args: Mapping[str, Any]
    where: str

    def __call__(self) -> Any:
        return call(self.model, dict(self.args), self.where)
