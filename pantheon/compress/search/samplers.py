"""The strategies of a search by their names: our own, and Optuna's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pantheon.compress.search.covariance import CovarianceAdaptation
from pantheon.compress.search.space import Choice
from pantheon.compress.search.storage import known_experimental
from pantheon.compress.search.strategies import (
    Grid,
    RegularizedEvolution,
    SimulatedAnnealing,
)
from pantheon.errors import ConfigError
from pantheon.quote import near


class Seeded(BaseSampler):
    """One of Optuna's samplers, made anew for each trial with a seed of the trial's own.

    These samplers keep nothing but random numbers from trial to trial. So a worker that joins late
    or comes back does not draw what another one drew, and one worker repeats exactly.

    Args:
        make: the sampler of a seed.
        choices: of the space.
        seed: of the search.
    """

    def __init__(
        self, make: Callable[[int], BaseSampler], choices: Sequence[Choice], seed: int
    ) -> None:
        self._make, self._choices, self._seed = make, tuple(choices), seed
        self._inner: BaseSampler = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin with random numbers that belong to the trial."""
        self._inner = self._make((self._seed * 1_000_003 + trial.number) % 2**31)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the sampler does."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the sampler does."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As the sampler does."""
        self._inner.after_trial(study, trial, state, values)


Options = Mapping[str, Any]
Maker = Callable[[Sequence[Choice], int, int, Options], BaseSampler]
"""From choices, seed, budget of trials and options."""


def _annealing(choices: Sequence[Choice], seed: int, trials: int, options: Options) -> BaseSampler:
    startup = options.get("startup", _startup(trials))
    # Down to a hundredth of the first temperature when the budget is spent.
    cooling = options.get("cooling", 0.01 ** (1 / max(1, trials - startup)))
    warming = max(startup, _startup(trials))
    given = {"warming": warming, **options, "startup": startup, "cooling": cooling}
    return SimulatedAnnealing(choices, seed, **given)


def _evolution(choices: Sequence[Choice], seed: int, trials: int, options: Options) -> BaseSampler:
    population = options.get("population", max(4, trials // 4))
    tournament = options.get("tournament", max(2, population // 4))
    given = {**options, "population": population, "tournament": tournament}
    return RegularizedEvolution(choices, seed, **given)


def _cmaes(choices: Sequence[Choice], seed: int, trials: int, options: Options) -> BaseSampler:
    return CovarianceAdaptation(choices, seed, **options)


def _optunas(made: type[BaseSampler], **defaults: Any) -> Maker:
    """One of Optuna's, with defaults of ours; those that are functions are called with trials."""

    def maker(choices: Sequence[Choice], seed: int, trials: int, options: Options) -> BaseSampler:
        own = {
            name: value(trials) if callable(value) else value for name, value in defaults.items()
        }

        def make(seed: int) -> BaseSampler:
            with known_experimental():
                return made(**{"seed": seed, **own, **options})

        return Seeded(make, choices, seed)

    return maker


def _startup(trials: int) -> int:
    return max(4, trials // 8)


def _population(trials: int) -> int:
    return max(4, trials // 6)


def _grid(choices: Sequence[Choice], seed: int, trials: int, options: Options) -> BaseSampler:
    return Grid(choices, seed, **options)


STRATEGIES: Mapping[str, Maker] = {
    "annealing": _annealing,
    "evolution": _evolution,
    # Points that others are at count as bad ones, so that workers go apart.
    "tpe": _optunas(TPESampler, n_startup_trials=_startup, multivariate=True, constant_liar=True),
    "cmaes": _cmaes,
    "nsga2": _optunas(NSGAIISampler, population_size=_population),
    "nsga3": _optunas(NSGAIIISampler, population_size=_population),
    "random": _optunas(RandomSampler),
    "grid": _grid,
}
"""By the name that a configuration gives."""

GROWING = ("annealing", "evolution")
"""Strategies that change points that were good, so that a good one is all that they need."""

SINGLE = ("annealing", "evolution", "cmaes")
"""Strategies that know one objective."""


def sampler_of(
    strategy: str,
    choices: Sequence[Choice],
    seed: int,
    trials: int,
    options: Options | None = None,
    objectives: int = 1,
    begun: bool = False,
) -> BaseSampler:
    """The sampler of a strategy.

    Args:
        strategy: its name.
        choices: of the space.
        seed: of all that is random.
        trials: the budget, which defaults are made for.
        options: of the strategy, by the names that its class gives them; Optuna's by Optuna's.
        objectives: how many there are.
        begun: whether the study begins with points of its own, which those of `GROWING` go on from
            as soon as one has a score: they begin with none by chance, unless options say so.

    Raises:
        ConfigError: no such strategy, one for a single objective where there are several, or
            options that it does not have or that cannot be.

    Example:
        >>> sampler_of("evolution", [Choice("width", (1, 2))], seed=0, trials=40).population
        10
    """
    if strategy not in STRATEGIES:
        raise ConfigError(
            f"there is no strategy {strategy!r}{near(strategy, STRATEGIES)}; expected one of "
            f"{', '.join(STRATEGIES)}"
        )
    if objectives > 1 and strategy in SINGLE:
        raise ConfigError(
            f"the strategy {strategy!r} has one objective, and the search {objectives}; take "
            f"{', '.join(name for name in STRATEGIES if name not in SINGLE)}"
        )
    given = dict(options or {})
    if begun and strategy in GROWING:
        given.setdefault("startup", 1)
    try:
        return STRATEGIES[strategy](choices, seed, trials, given)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the options of {strategy!r} do not fit: {error}") from error
