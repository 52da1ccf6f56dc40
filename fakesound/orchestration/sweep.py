"""Sweepers: who tries the points of the experiment file. Locally that is Optuna, one trial after another."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.core.store import Place
from fakesound.orchestration.experiment import EarlyStopping, Experiment, Parameter, ParameterValue

if TYPE_CHECKING:
    import optuna

TRIALS = "trials"

# Katib's defaults for medianstop.
MIN_TRIALS_REQUIRED = 3
START_STEP = 4


class TrialStoppedError(Exception):
    """The trial is worse than the median of the others at this step: give it up."""


@dataclass(frozen=True)
class Trial:
    """One point to try.

    Attributes:
        number: from 0.
        parameters: name -> value, as in the experiment file.
        overrides: the same as `key.key=value` overrides of the run configuration.
        report: (step, score) after each epoch; raises TrialStoppedError when the trial is not worth its time.
    """

    number: int
    parameters: dict[str, ParameterValue]
    overrides: list[str]
    report: Callable[[int, float], None]


@dataclass
class TrialRecord:
    """What is kept of a trial, as JSON: enough to rebuild the study."""

    number: int
    parameters: dict[str, ParameterValue]
    state: str = "complete"  # complete | stopped | failed
    value: float | None = None
    steps: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Best:
    """The best point found."""

    value: float
    number: int
    parameters: dict[str, ParameterValue]
    overrides: list[str]


class Sweeper(Protocol):
    """Searches the space of an experiment."""

    def run(
        self,
        experiment: Experiment,
        objective: Callable[[Trial], float],
        *,
        place: Place,
        max_trials: int,
        seed: int,
        start: Mapping[str, ParameterValue] | None = None,
    ) -> Best:
        """Try up to `max_trials` points and return the best.

        Args:
            experiment: space, algorithm and budget.
            objective: trains at a point and returns its score.
            place: keeps finished trials; those found there are not tried again.
            max_trials: not more than the experiment's own.
            seed: of the search.
            start: the point to try first; None leaves the first one to the algorithm too.

        Raises:
            UserError: no trial came to an end.
        """
        ...


class OptunaSweeper:
    """Runs the experiment in this process. The study is rebuilt from the records of finished trials, and each
    trial has a seed of its own: an interrupted search goes on as if it had not been."""

    def run(
        self,
        experiment: Experiment,
        objective: Callable[[Trial], float],
        *,
        place: Place,
        max_trials: int,
        seed: int,
        start: Mapping[str, ParameterValue] | None = None,
    ) -> Best:
        """See `Sweeper.run`."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("optuna").setLevel(logging.WARNING)
        spec = experiment.spec
        study = optuna.create_study(direction=spec.objective.type, pruner=_pruner(spec.early_stopping))
        distributions = {parameter.name: distribution(parameter) for parameter in spec.parameters}
        failed = 0
        for number in range(min(max_trials, spec.max_trial_count)):
            name = f"{TRIALS}/{number:03d}.json"
            if place.exists(name):
                record = TrialRecord(**place.read_json(name))
                study.add_trial(_frozen(record, distributions))
            else:
                if number == 0 and start is not None:
                    study.enqueue_trial(dict(start))
                study.sampler = _sampler(spec.algorithm.algorithm_name, seed + number)
                record, error = _try(study, distributions, experiment, objective)
                failed += error is not None
                if error is not None and failed > spec.max_failed_trial_count:
                    raise error
                place.write_json(name, vars(record))
            metric = spec.objective.objective_metric_name
            say(f"trial {number}: {record.state}, {metric} {_shown(record.value)}")
        return _best(study, experiment)


def distribution(parameter: Parameter) -> "optuna.distributions.BaseDistribution":
    """Optuna's counterpart of a Katib parameter."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = parameter.feasible_space
    if parameter.parameter_type in ("categorical", "discrete"):
        return CategoricalDistribution(parameter.choices)
    assert space.min is not None and space.max is not None
    log = space.distribution == "logUniform"
    if parameter.parameter_type == "int":
        return IntDistribution(int(space.min), int(space.max), log=log, step=int(space.step or 1))
    return FloatDistribution(space.min, space.max, log=log, step=space.step)


def get_sweeper(name: str) -> Sweeper:
    """The sweeper of that name.

    Raises:
        UserError: there is none.
    """
    check_sweeper(name)
    return OptunaSweeper()


def check_sweeper(name: str) -> None:
    """Refuse what `get_sweeper` would, without importing anything heavy."""
    if name == "katib":
        raise UserError("sweeper 'katib' is not available yet: use sweeper=optuna")
    if name != "optuna":
        raise UserError(f"no sweeper {name!r}; known: optuna, katib")


def _sampler(algorithm: str, seed: int) -> "optuna.samplers.BaseSampler":
    from optuna.samplers import RandomSampler, TPESampler

    return TPESampler(seed=seed) if algorithm == "tpe" else RandomSampler(seed=seed)


def _pruner(early_stopping: EarlyStopping | None) -> "optuna.pruners.BasePruner":
    from optuna.pruners import MedianPruner, NopPruner

    if early_stopping is None:
        return NopPruner()
    return MedianPruner(
        n_startup_trials=early_stopping.setting("min_trials_required", MIN_TRIALS_REQUIRED),
        n_warmup_steps=early_stopping.setting("start_step", START_STEP),
    )


def _try(
    study: "optuna.Study",
    distributions: "dict[str, optuna.distributions.BaseDistribution]",
    experiment: Experiment,
    objective: Callable[[Trial], float],
) -> tuple[TrialRecord, Exception | None]:
    asked = study.ask(distributions)
    record = TrialRecord(number=asked.number, parameters=asked.params)

    def report(step: int, score: float) -> None:
        asked.report(score, step)
        record.steps[str(step)] = score
        if asked.should_prune():
            raise TrialStoppedError

    trial = Trial(asked.number, asked.params, experiment.overrides(asked.params), report)
    failure: Exception | None = None
    try:
        record.value = objective(trial)
        if not math.isfinite(record.value):
            raise ValueError(f"trial {asked.number} ended with score {record.value}")
    except TrialStoppedError:
        record.state, record.value = "stopped", list(record.steps.values())[-1]
    except UserError:
        raise
    except Exception as error:
        record.state, record.value, failure = "failed", None, error
        say(f"trial {asked.number} failed: {error}")
    # Optuna takes a stopped trial's value from its last report.
    study.tell(asked, record.value if record.state == "complete" else None, state=_states()[record.state])
    return record, failure


def _states() -> "dict[str, optuna.trial.TrialState]":
    from optuna.trial import TrialState

    return {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


def _frozen(record: TrialRecord, distributions: dict[str, Any]) -> "optuna.trial.FrozenTrial":
    from optuna.trial import create_trial

    return create_trial(
        state=_states()[record.state],
        value=record.value,
        params=record.parameters,
        distributions=distributions,
        intermediate_values={int(step): score for step, score in record.steps.items()},
    )


def _best(study: "optuna.Study", experiment: Experiment) -> Best:
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if not complete:
        raise UserError(f"no trial of {len(study.trials)} came to an end: nothing to choose from")
    best = study.best_trial
    assert best.value is not None
    return Best(best.value, best.number, best.params, experiment.overrides(best.params))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
