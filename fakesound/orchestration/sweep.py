"""Searching hyperparameters: what a search is, what is kept of its trials, and who can do it.

`optuna_sweeper` tries the points of the experiment file on this machine, `katib_sweeper` on a cluster.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.core.store import Place, Pointer
from fakesound.orchestration.config import SweepConfig
from fakesound.orchestration.experiment import Experiment, ParameterValue
from fakesound.orchestration.median_stop import StopRule

TRIALS = "trials"
SWEEPERS = ("optuna", "katib")

State = Literal["complete", "stopped", "failed"]


class TrialStoppedError(Exception):
    """The trial is worse than others were at this step: give it up."""


@dataclass(frozen=True)
class TrialInputs:
    """What every trial of a search is given; the point that it tries comes on top.

    Attributes:
        store_url: where features are read and trainings kept.
        config: the run configuration as JSON, with the budget of a trial.
        features: what to train on.
        run: parent tracking run; empty for none.
    """

    store_url: str
    config: str
    features: Pointer
    run: str


@dataclass(frozen=True)
class Trial:
    """One point to try.

    Attributes:
        number: from 0.
        parameters: name -> value, as in the experiment file.
        overrides: the same as `key.key=value` overrides of the run configuration.
        rule: when to give it up; None for never.
    """

    number: int
    parameters: dict[str, ParameterValue]
    overrides: list[str]
    rule: StopRule | None = None


@dataclass
class TrialRecord:
    """What is kept of a trial, as JSON: enough to go on from.

    Attributes:
        number: from 0.
        parameters: name -> value.
        state: `stopped` early, `failed`, or `complete`.
        value: what the trial is judged by; None if it failed.
        steps: epoch -> score; empty where only the value is known.
        seconds: wall time.
        error: why it failed.
    """

    number: int
    parameters: dict[str, ParameterValue]
    state: State = "complete"
    value: float | None = None
    steps: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""

    @property
    def scores(self) -> list[float]:
        """Scores in order of epochs."""
        return [self.steps[step] for step in sorted(self.steps, key=int)]

    def write(self, place: Place) -> None:
        """Keep it in a search's place."""
        place.write_json(_name(self.number), asdict(self))


@dataclass(frozen=True)
class Best:
    """The best point found."""

    value: float
    number: int
    parameters: dict[str, ParameterValue]
    overrides: list[str]


@dataclass(frozen=True)
class Search:
    """What to search.

    Attributes:
        experiment: space, algorithm and limits.
        limits: how much of the experiment's budget to spend.
        inputs: of every trial.
        place: keeps what is known of trials; those found there are not tried again.
        start: the point to try first; None leaves the first one to the algorithm too.
    """

    experiment: Experiment
    limits: SweepConfig
    inputs: TrialInputs
    place: Place
    start: Mapping[str, ParameterValue] | None = None

    @property
    def max_trials(self) -> int:
        """The lower of the two budgets."""
        return min(self.limits.max_trials, self.experiment.spec.max_trial_count)

    def is_out_of_time(self, records: Iterable[TrialRecord]) -> bool:
        """Whether these trials have used up the hours that all of them together may take."""
        hours = self.limits.max_trial_hours
        return hours is not None and sum(record.seconds for record in records) >= 3600 * hours


class Objective(Protocol):
    """Trains at a point. It is sent to the process that trains, so it must pickle."""

    def open(self, trial: Trial) -> str:
        """Called before the trial starts; the name by which the other two know it."""
        ...

    def __call__(self, trial: Trial, run: str, report: Callable[[int, float], None]) -> float:
        """Train and return the score.

        Args:
            trial: what to try.
            run: what `open` returned.
            report: (epoch, score) after each epoch; raises TrialStoppedError when it is not worth going on.
        """
        ...

    def close(self, run: str, record: TrialRecord) -> None:
        """Called once the trial has ended, whichever way."""
        ...


class Sweeper(Protocol):
    """Searches the space of an experiment."""

    def run(self, search: Search) -> Best:
        """Try points until the budget is spent and return the best.

        Raises:
            UserError: too many trials failed, or none came to an end.
        """
        ...


def get_sweeper(name: str, *, objective: Objective, image: str) -> Sweeper:
    """The sweeper of that name.

    Args:
        name: optuna or katib.
        objective: what a trial on this machine does.
        image: what a trial on a cluster runs in.

    Raises:
        UserError: there is none, or it cannot be used here.
    """
    check_sweeper(name)
    if name == "katib":
        from fakesound.orchestration.katib_sweeper import KatibSweeper

        return KatibSweeper.connect(image)
    from fakesound.orchestration.optuna_sweeper import OptunaSweeper

    return OptunaSweeper(objective)


def check_sweeper(name: str) -> None:
    """Refuse what `get_sweeper` would, without importing anything heavy."""
    if name not in SWEEPERS:
        raise UserError(f"no sweeper {name!r}; known: {', '.join(SWEEPERS)}")
    if name == "katib":
        from fakesound.orchestration.kube import check_cluster

        check_cluster("sweeper=katib")


def read_record(place: Place, number: int) -> TrialRecord | None:
    """What is kept of a trial; None if it never ended."""
    return TrialRecord(**place.read_json(_name(number))) if place.exists(_name(number)) else None


def read_trials(place: Place) -> list[TrialRecord]:
    """Every trial that ended, in order."""
    names = [name for name in place.names() if name.startswith(f"{TRIALS}/")]
    return sorted((TrialRecord(**place.read_json(name)) for name in names), key=lambda r: r.number)


def forget_failures(place: Place, records: Iterable[TrialRecord]) -> None:
    """Drop failed trials, so that the next search of this place tries them again."""
    for record in records:
        if record.state == "failed":
            place.remove(_name(record.number))


def best_of(experiment: Experiment, records: Sequence[TrialRecord]) -> Best:
    """The best of the trials that came to an end; the earliest of equals.

    Raises:
        UserError: none did.
    """
    best: TrialRecord | None = None
    for record in records:
        if record.state != "complete" or record.value is None:
            continue
        if (
            best is None
            or best.value is None
            or experiment.spec.objective.is_better(record.value, best.value)
        ):
            best = record
    if best is None or best.value is None:
        reasons = "; ".join(sorted({record.error for record in records if record.error}))
        raise UserError(
            f"no trial of {len(records)} came to an end: nothing to choose from. {reasons}".rstrip()
        )
    return Best(best.value, best.number, best.parameters, experiment.overrides(best.parameters))


def say_trial(experiment: Experiment, record: TrialRecord) -> None:
    """One line about a trial that ended."""
    metric = experiment.spec.objective.objective_metric_name
    value = "-" if record.value is None else f"{record.value:.4f}"
    say(f"trial {record.number}: {record.state}, {metric} {value}{record.error and f' ({record.error})'}")


def _name(number: int) -> str:
    return f"{TRIALS}/{number:03d}.json"
