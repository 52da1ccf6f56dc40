"""Searching on this machine: Optuna chooses the points, each trial trains in a process of its own.

A search is a function of its seed and of `parallel_trials`. Trial n starts when trials 0 to
n - parallel_trials have ended, and its point is chosen from their results alone, whatever else has ended by
then. So what was killed and taken up again gives the same trials as what was not, also with several at a
time; what is kept of finished trials is all there is to go on from.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.core.store import Place
from fakesound.orchestration.experiment import Experiment, ExperimentSpec, Parameter, ParameterValue
from fakesound.orchestration.median_stop import stop_rule
from fakesound.orchestration.sweep import (
    Best,
    Objective,
    Search,
    Trial,
    TrialRecord,
    best_of,
    forget_failures,
    read_record,
    say_trial,
)
from fakesound.orchestration.trial_process import run_in_process

if TYPE_CHECKING:
    import optuna

STUDY_NAME = "study.db"


class UnsupportedSpaceError(UserError):
    """A distribution of Katib's that Optuna does not have."""


RunTrial = Callable[[Objective, Trial, str, threading.Event], TrialRecord]

# Katib's algorithm -> its settings that mean something to the sampler here.
LOCAL_ALGORITHMS: Mapping[str, frozenset[str]] = {
    "random": frozenset({"random_state"}),
    "tpe": frozenset({"n_EI_candidates", "random_state"}),
    "multivariate-tpe": frozenset({"n_startup_trials", "n_ei_candidates", "random_state"}),
    "grid": frozenset({"random_state"}),
    "sobol": frozenset(),
    "bayesianoptimization": frozenset({"n_initial_points", "random_state"}),
}
# The n-th point of these depends on nothing but n.
_SEQUENCES = ("random", "grid", "sobol")


class OptunaSweeper:
    """Runs the experiment on this machine.

    Args:
        objective: what a trial does.
        run_trial: runs one, returns what became of it, and gives it up when the event is set.
    """

    def __init__(self, objective: Objective, run_trial: RunTrial = run_in_process) -> None:
        self._objective = objective
        self._run_trial = run_trial

    def run(self, search: Search) -> Best:
        """See `Sweeper.run`."""
        spec = search.experiment.spec
        check_algorithm(spec)
        num_trials = min(search.max_trials, _num_points(spec, search.start))
        if num_trials < search.max_trials:
            say(f"the grid has {num_trials} points: {num_trials} trials instead of {search.max_trials}")
        parallel = min(search.limits.parallel_trials, spec.parallel_trial_count, num_trials)
        records = self._run_all(search, num_trials, parallel)
        failed = [record for record in records if record.state == "failed"]
        if len(failed) >= spec.fatal_failures or len(failed) == len(records):
            forget_failures(search.place, failed)
        if len(failed) >= spec.fatal_failures:
            raise UserError(
                f"{len(failed)} trials failed, which ends the search; the last one: {failed[-1].error}. "
                "The same command tries them again and keeps the others"
            )
        best = best_of(search.experiment, records)
        write_study(search.place, search.experiment, records)
        return best

    def _run_all(self, search: Search, num_trials: int, parallel: int) -> list[TrialRecord]:
        """Trials in order, until the budget is spent or enough has been seen."""
        records: list[TrialRecord] = []
        points: list[dict[str, ParameterValue]] = []
        running: list[_Running] = []
        cancelled = threading.Event()
        with _threads_shared_by(parallel), ThreadPoolExecutor(parallel) as pool:
            try:
                for number in range(num_trials):
                    while len(records) <= number - parallel:
                        records.append(self._finish(running.pop(0), search))
                    if _has_seen_enough(search, records):
                        break
                    points.append(_point(search, points, records))
                    trial = Trial(
                        number,
                        points[-1],
                        search.experiment.overrides(points[-1]),
                        stop_rule(
                            search.experiment.spec, [r.scores for r in records if r.state == "complete"]
                        ),
                    )
                    running.append(self._start(pool, trial, search.place, cancelled))
                while running:
                    records.append(self._finish(running.pop(0), search))
            except BaseException:
                cancelled.set()
                for left in running:
                    self._abandon(left)
                raise
        return records

    def _start(
        self, pool: ThreadPoolExecutor, trial: Trial, place: Place, cancelled: threading.Event
    ) -> "_Running":
        known = read_record(place, trial.number)
        if known is not None:
            future: Future[TrialRecord] = Future()
            future.set_result(known)
            return _Running(trial, "", future)
        run = self._objective.open(trial)

        def work() -> TrialRecord:
            record = self._run_trial(self._objective, trial, run, cancelled)
            if not cancelled.is_set():
                record.write(place)
            return record

        return _Running(trial, run, pool.submit(work))

    def _finish(self, running: "_Running", search: Search) -> TrialRecord:
        record = running.future.result()
        if running.run:
            self._objective.close(running.run, record)
        say_trial(search.experiment, record)
        return record

    def _abandon(self, running: "_Running") -> None:
        if running.run:
            given_up = TrialRecord(running.trial.number, running.trial.parameters, state="failed")
            self._objective.close(running.run, given_up)


class _Running:
    """A trial under way, or one that ended in an earlier search of this place."""

    def __init__(self, trial: Trial, run: str, future: "Future[TrialRecord]") -> None:
        self.trial = trial
        self.run = run
        self.future = future


def check_algorithm(spec: ExperimentSpec) -> None:
    """Refuse by name what Optuna cannot do as Katib does it.

    Raises:
        UserError: with what would be possible instead.
    """
    name = spec.algorithm.algorithm_name
    if name == "cmaes":
        raise UserError(
            "algorithm cmaes runs on a cluster only (sweeper=katib): Optuna's needs the Python package "
            "cmaes, which is not among the locked ones"
        )
    if name not in LOCAL_ALGORITHMS:
        known = ", ".join(LOCAL_ALGORITHMS)
        raise UserError(f"algorithm {name} runs on a cluster only (sweeper=katib); on this machine: {known}")
    for setting in spec.algorithm.settings.keys() - LOCAL_ALGORITHMS[name]:
        raise UserError(f"setting {setting} of {name} has no counterpart on this machine: leave it out")
    for setting, value in spec.algorithm.settings.items():
        if not value.isdecimal():
            raise UserError(f"setting {setting} of {name} must be a whole number, not {value!r}")
    for parameter in spec.parameters:
        distribution(parameter)
        if name == "grid" and parameter.parameter_type == "double" and parameter.step is None:
            raise UserError(f"algorithm grid needs a step, which {parameter.name} does not have")


def distribution(parameter: Parameter) -> "optuna.distributions.BaseDistribution":
    """Optuna's counterpart of a Katib parameter.

    Raises:
        UnsupportedSpaceError: it has none.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = parameter.feasible_space
    if not parameter.is_range:
        return CategoricalDistribution(parameter.choices)
    if space.distribution not in ("uniform", "logUniform"):
        raise UnsupportedSpaceError(
            f"{parameter.name}: distribution {space.distribution} is drawn on a cluster only (sweeper=katib, "
            "algorithm random or tpe); on this machine: uniform, logUniform"
        )
    low, high = parameter.bounds
    step = parameter.step
    if parameter.is_log and step is not None and (parameter.parameter_type, step) != ("int", 1):
        raise UnsupportedSpaceError(
            f"{parameter.name}: logUniform with a step is drawn on a cluster only (sweeper=katib)"
        )
    if parameter.parameter_type == "int":
        return IntDistribution(int(low), int(high), log=parameter.is_log, step=int(step or 1))
    return FloatDistribution(low, high, log=parameter.is_log, step=step)


def study_of(
    experiment: Experiment, records: Sequence[TrialRecord], storage: str | None = None
) -> "optuna.Study":
    """Optuna's study of these trials, with the distributions that they were drawn from.

    Args:
        experiment: that was searched.
        records: in order.
        storage: URL of a database, in which the study has the experiment's name; in memory without.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction=experiment.spec.objective.type, storage=storage, study_name=experiment.metadata.name
    )
    for record in records:
        study.add_trial(_frozen(experiment.spec, record))
    return study


def write_study(place: Place, experiment: Experiment, records: Sequence[TrialRecord]) -> None:
    """Write the trials as Optuna's own sqlite file, for its dashboard and for notebooks."""
    with place.writing(STUDY_NAME) as path:
        study_of(experiment, records, storage=f"sqlite:///{path}")


def _has_seen_enough(search: Search, records: Sequence[TrialRecord]) -> bool:
    """Whether no further trial is to start after these."""
    spec = search.experiment.spec
    failed = sum(record.state == "failed" for record in records)
    values = [r.value for r in records if r.state == "complete" and r.value is not None]
    if any(spec.objective.reaches_goal(value) for value in values):
        say(f"the goal of {spec.objective.goal} is reached")
        return True
    if search.is_out_of_time(records):
        say(f"the trials have used up {search.limits.max_trial_hours} hours")
        return True
    return failed >= spec.fatal_failures


def _point(
    search: Search, points: Sequence[Mapping[str, ParameterValue]], records: Sequence[TrialRecord]
) -> dict[str, ParameterValue]:
    """The point of the next trial: `points` are those before it, `records` of those that have ended."""
    number = len(points)
    if number == 0 and search.start is not None:
        return dict(search.start)
    spec = search.experiment.spec
    space = {parameter.name: distribution(parameter) for parameter in spec.parameters}
    seed = int(spec.algorithm.settings.get("random_state", search.limits.seed))
    if spec.algorithm.algorithm_name in _SEQUENCES:
        index = number - (search.start is not None)
        return _nth_of_sequence(spec, space, seed, index)
    study = study_of(search.experiment, records)
    for point in points[len(records) :]:
        study.add_trial(_pending(space, point))
    study.sampler = _sampler(spec, seed + number)
    return study.ask(space).params


def _nth_of_sequence(
    spec: ExperimentSpec, space: "dict[str, optuna.distributions.BaseDistribution]", seed: int, index: int
) -> dict[str, ParameterValue]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=_sampler(spec, seed))
    if spec.algorithm.algorithm_name == "sobol":
        # The sampler learns the space from the first trial, which it does not draw itself.
        corner = {name: each.to_external_repr(_first(each)) for name, each in space.items()}
        study.add_trial(_pending(space, corner))
    for _ in range(index):
        study.ask(space)
    return study.ask(space).params


def _first(space: "optuna.distributions.BaseDistribution") -> float:
    """The least value of a range, or the index of the first choice."""
    from optuna.distributions import FloatDistribution, IntDistribution

    return space.low if isinstance(space, FloatDistribution | IntDistribution) else 0


def _sampler(spec: ExperimentSpec, seed: int) -> "optuna.samplers.BaseSampler":
    from optuna import samplers

    settings = {name: int(value) for name, value in spec.algorithm.settings.items() if name != "random_state"}
    match spec.algorithm.algorithm_name:
        case "random":
            return samplers.RandomSampler(seed=seed)
        case "grid":
            grid = {parameter.name: _grid_values(parameter) for parameter in spec.parameters}
            return samplers.GridSampler(grid, seed=seed)
        case "sobol":
            return samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed)
        case "bayesianoptimization":
            startup = settings.get("n_initial_points", 10)
            return samplers.GPSampler(seed=seed, n_startup_trials=startup)
        case algorithm:
            candidates = settings.get("n_EI_candidates") or settings.get("n_ei_candidates") or 24
            return samplers.TPESampler(
                seed=seed,
                multivariate=algorithm == "multivariate-tpe",
                n_startup_trials=settings.get("n_startup_trials", 10),
                n_ei_candidates=candidates,
                constant_liar=True,  # a trial under way counts as a poor one: its neighbourhood is taken
            )


def _num_points(spec: ExperimentSpec, start: Mapping[str, ParameterValue] | None) -> int:
    """How many different points there are to try."""
    if spec.algorithm.algorithm_name != "grid":
        return spec.max_trial_count
    count = 1
    for parameter in spec.parameters:
        count *= len(_grid_values(parameter))
    return count + (start is not None)


def _grid_values(parameter: Parameter) -> list[ParameterValue]:
    """A parameter's values on the grid, the maximum included where the step meets it."""
    if not parameter.is_range:
        return list(parameter.choices)
    low, high = parameter.bounds
    step = parameter.step or 1.0
    values = [low + step * k for k in range(int((high - low) / step + 1e-9) + 1)]
    return [int(value) if parameter.parameter_type == "int" else value for value in values]


def _frozen(spec: ExperimentSpec, record: TrialRecord) -> "optuna.trial.FrozenTrial":
    """A trial that ended, as Optuna keeps it; those that failed have no value."""
    from optuna.trial import TrialState, create_trial

    states = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
    return create_trial(
        state=states[record.state],
        value=record.value,
        params=record.parameters,
        distributions={parameter.name: distribution(parameter) for parameter in spec.parameters},
        intermediate_values={int(step): score for step, score in record.steps.items()},
    )


def _pending(
    space: "dict[str, optuna.distributions.BaseDistribution]", point: Mapping[str, ParameterValue]
) -> "optuna.trial.FrozenTrial":
    from optuna.trial import TrialState, create_trial

    return create_trial(state=TrialState.RUNNING, params=dict(point), distributions=space)


@contextmanager
def _threads_shared_by(parallel: int) -> Iterator[None]:
    """Processes started in the block share the cores: libraries read these variables as they load."""
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    threads = max(1, len(os.sched_getaffinity(0)) // parallel)
    os.environ |= {name: before[name] or str(threads) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
