"""Searching hyperparameters in the space of the experiment file."""

import json

from fakesound.core.config import digest_of
from fakesound.core.progress import say
from fakesound.core.store import Place, Pointer, Store
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.epochs import SCORE, TrackingReports, read_records
from fakesound.orchestration.experiment import Experiment, load_experiment
from fakesound.orchestration.stages.train import DETECTOR, NO_OVERRIDES, training_request
from fakesound.orchestration.sweep import Trial, TrialStoppedError, get_sweeper
from fakesound.orchestration.tracking import Tracking
from fakesound.training.ranks import Ranks
from fakesound.training.reports import EpochRecord
from fakesound.training.request import training_place
from fakesound.training.trainer import train

SWEEP_VERSION = 2
BEST_NAME = "best.json"


def sweep(*, store: str, config: str, features: str, run: str, sweeper: str) -> str:
    """Search (or find the search finished) and return the best point's overrides as a JSON list.

    Args:
        store: URL.
        config: preset, file or JSON; `sweep.max_trials=0` skips the search.
        features: pointer file.
        run: parent tracking run; empty for none.
        sweeper: see `sweep.get_sweeper`.

    Raises:
        UserError: something given cannot be used, or no trial came to an end.
    """
    opened, run_config, pointer = Store(store), RunConfig.load(config), Pointer.read(features)
    if run_config.sweep.max_trials == 0:
        say("no sweep: sweep.max_trials is 0")
        return NO_OVERRIDES
    experiment = load_experiment()
    place = opened.place("sweeps", _key(experiment, run_config, pointer))
    if place.is_complete():
        say("this search is already finished")
    else:
        _search(place, experiment, _Objective(run_config, pointer, opened, run), sweeper)
    return json.dumps(place.read_json(BEST_NAME)["overrides"])


def _key(experiment: Experiment, config: RunConfig, features: Pointer) -> str:
    parts = config.model_dump(mode="json", include={"detector", "budget", "unseen", "sweep"})
    parts["training"] = config.training.identity()
    return digest_of([SWEEP_VERSION, experiment.digest(), parts, features.digest])


def _search(place: Place, experiment: Experiment, objective: "_Objective", sweeper: str) -> None:
    limits = objective.config.sweep
    best = get_sweeper(sweeper).run(
        experiment,
        objective,
        place=place,
        max_trials=limits.max_trials,
        seed=limits.seed,
        # A short search must not end with something worse than what the configuration already says.
        start=experiment.point_of(objective.config.model_dump(mode="json")),
    )
    say(f"best: trial {best.number} with validation score {best.value:.4f}")
    place.write_json(BEST_NAME, vars(best))
    place.complete({"value": best.value, "parameters": best.parameters})


class _TrialReports(TrackingReports):
    """Tells the trial too, which may end the training."""

    def __init__(self, tracking: Tracking, run: str, trial: Trial) -> None:
        super().__init__(tracking, run)
        self._trial = trial

    def on_epoch(self, record: EpochRecord) -> None:
        """See `Reports.on_epoch`."""
        super().on_epoch(record)
        self._trial.report(record.epoch, record.score)


class _Objective:
    """Trains the detector at a point, in this process, and returns the best epoch's validation score."""

    def __init__(self, config: RunConfig, features: Pointer, store: Store, run: str) -> None:
        self.config = config
        self._features = features
        self._store = store
        self._run = run
        self._tracking = Tracking(store)

    def __call__(self, trial: Trial) -> float:
        limits = [f"training.epochs={self.config.sweep.epochs}", "launch.processes=1"]
        config = self.config.with_overrides([*trial.overrides, *limits])
        request = training_request(config, DETECTOR, self._features, self._store)
        child = self._tracking.start(
            f"trial-{trial.number}", "trial", parent=self._run, params=trial.parameters
        )
        try:
            train(request, Ranks(), _TrialReports(self._tracking, child, trial))
        except TrialStoppedError:
            self._tracking.set_tags(child, {"fakesound.stopped": "worse than the median at this epoch"})
            self._tracking.finish(child, succeeded=True)
            raise
        except BaseException:
            self._tracking.finish(child, succeeded=False)
            raise
        self._tracking.finish(child, succeeded=True)
        return max(record[SCORE] for record in read_records(training_place(self._store, request)))
