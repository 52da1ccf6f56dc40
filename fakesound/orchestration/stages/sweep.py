"""Searching hyperparameters in the space of the experiment file."""

import json
from collections.abc import Callable, Sequence

from fakesound.core.config import digest_of
from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.core.store import Place, Pointer, Store
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.epochs import SCORE, TrackingReports, backfill, read_records
from fakesound.orchestration.experiment import Experiment, load_experiment
from fakesound.orchestration.stages.train import DETECTOR, NO_OVERRIDES, training_request
from fakesound.orchestration.sweep import (
    Best,
    Search,
    Trial,
    TrialInputs,
    TrialRecord,
    get_sweeper,
    read_trials,
)
from fakesound.orchestration.sweep_report import render_sweep
from fakesound.orchestration.tracking import Tracking
from fakesound.training.ranks import Ranks
from fakesound.training.reports import EPOCHS_NAME, EpochRecord
from fakesound.training.request import training_place
from fakesound.training.trainer import train

SWEEP_VERSION = 3
BEST_NAME = "best.json"
PAGE_NAME = "search.html"
PRINTED_METRIC = "validation_score"  # what `fakesound train` prints after every epoch


def sweep(*, store: str, config: str, features: str, run: str, sweeper: str, image: str) -> str:
    """Search (or find the search finished) and return the best point's overrides as a JSON list.

    Args:
        store: URL.
        config: preset, file or JSON; `sweep.max_trials=0` skips the search.
        features: pointer file.
        run: parent tracking run; empty for none.
        sweeper: see `sweep.get_sweeper`.
        image: what trials on a cluster run in; on this machine they need none.

    Raises:
        UserError: something given cannot be used, too many trials failed, or none came to an end.
    """
    opened, run_config, pointer = Store(store), RunConfig.load(config), Pointer.read(features)
    if run_config.sweep.max_trials == 0:
        say("no sweep: sweep.max_trials is 0")
        return NO_OVERRIDES
    experiment = load_experiment()
    check_objective(experiment)
    place = opened.place("sweeps", _key(experiment, run_config, pointer, sweeper))
    if place.is_complete():
        say("this search is already finished")
    else:
        inputs = TrialInputs(opened.url, _trial_config(run_config), pointer, run)
        search = Search(experiment, run_config.sweep, inputs, place, _start(experiment, run_config))
        best = get_sweeper(sweeper, objective=TrainingObjective(inputs), image=image).run(search)
        _finish(search, best)
    page = place.local_path(PAGE_NAME)
    say(f"the search as a page: {place.uri}/{PAGE_NAME}")
    if run:
        Tracking(opened).log_file(run, page, "sweep")
    return json.dumps(place.read_json(BEST_NAME)["overrides"])


def check_objective(experiment: Experiment) -> None:
    """Refuse an experiment that is judged by what a training does not print.

    Raises:
        UserError: it is.
    """
    objective = experiment.spec.objective
    if (objective.objective_metric_name, objective.type) != (PRINTED_METRIC, "maximize"):
        raise UserError(
            f"the experiment file would {objective.type} {objective.objective_metric_name}; trainings print "
            f"{PRINTED_METRIC}, and more is better"
        )


def _key(experiment: Experiment, config: RunConfig, features: Pointer, sweeper: str) -> str:
    parts = config.model_dump(mode="json", include={"detector", "budget", "unseen", "sweep"})
    parts["training"] = config.training.identity()
    return digest_of([SWEEP_VERSION, sweeper, experiment.digest(), parts, features.digest])


def _trial_config(config: RunConfig) -> str:
    """The configuration that each trial's overrides are put on: one process, and the budget of a trial."""
    launch = f"launch={{processes: 1, threads_per_process: {config.launch.threads_per_process}}}"
    return config.with_overrides([f"training.epochs={config.sweep.epochs}", launch]).to_json()


def _start(experiment: Experiment, config: RunConfig) -> dict[str, float | int | str] | None:
    """A short search must not end with something worse than what the configuration already says."""
    return experiment.point_of(config.model_dump(mode="json"))


def _finish(search: Search, best: Best) -> None:
    place, records = search.place, read_trials(search.place)
    say(f"best: trial {best.number} with validation score {best.value:.4f}")
    page = render_sweep(search.experiment, records, best)
    place.write_bytes(PAGE_NAME, page.encode())
    place.write_json(BEST_NAME, vars(best))
    place.complete({"value": best.value, "parameters": best.parameters})


class TrainingObjective:
    """Trains the detector at a point, in one process, and returns its validation score."""

    def __init__(self, inputs: TrialInputs) -> None:
        self._inputs = inputs

    def open(self, trial: Trial) -> str:
        """Start the trial's tracking run and return its id."""
        return self._tracking().start(
            f"trial-{trial.number}", "trial", parent=self._inputs.run, params=trial.parameters
        )

    def __call__(self, trial: Trial, run: str, report: Callable[[int, float], None]) -> float:
        """See `sweep.Objective`. What an interrupted trial had trained is gone on from."""
        store = Store(self._inputs.store_url)
        config = RunConfig.load(self._inputs.config, trial.overrides)
        request = training_request(config, DETECTOR, self._inputs.features, store)
        place = training_place(store, request)
        tracking = self._tracking()
        told = _Told(place, report)
        train(request, Ranks(), _TrialReports(tracking, run, told))
        scores = told.tell()
        backfill(tracking, run, read_records(place))
        return load_experiment().spec.objective.value_of(scores)

    def close(self, run: str, record: TrialRecord) -> None:
        """End the trial's tracking run with what became of it."""
        tracking = self._tracking()
        if record.state == "stopped":
            tracking.set_tags(run, {"fakesound.stopped": "worse than the others at this epoch"})
        if record.error:
            tracking.set_tags(run, {"fakesound.error": record.error[:500]})
        if record.value is not None:
            tracking.log_metrics(run, {"best_score": record.value})
        tracking.finish(run, succeeded=record.state != "failed")

    def _tracking(self) -> Tracking:
        return Tracking(Store(self._inputs.store_url))


class _TrialReports(TrackingReports):
    """Tells the trial too, which may end the training."""

    def __init__(self, tracking: Tracking, run: str, told: "_Told") -> None:
        super().__init__(tracking, run)
        self._told = told

    def on_epoch(self, record: EpochRecord) -> None:
        """See `Reports.on_epoch`."""
        super().on_epoch(record)
        self._told.tell()


class _Told:
    """Passes every epoch's score on, once: also of those before an interruption, which `train` leaves out."""

    def __init__(self, training: Place, report: Callable[[int, float], None]) -> None:
        self._training = training
        self._report = report
        self._num_told = 0

    def tell(self) -> Sequence[float]:
        """Report what is new, and return the scores of all epochs."""
        records = read_records(self._training) if self._training.exists(EPOCHS_NAME) else []
        for record in records[self._num_told :]:
            self._num_told += 1
            self._report(record["epoch"], record[SCORE])
        return [record[SCORE] for record in records]
