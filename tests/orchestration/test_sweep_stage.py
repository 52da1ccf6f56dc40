"""The stage on features that are never read: `train` is replaced by what it would leave behind."""

import json
from pathlib import Path

import pytest
from sweeps import changed, run_here

from fakesound.core.errors import UserError
from fakesound.core.store import Pointer, Store
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.median_stop import StopRule
from fakesound.orchestration.stages import sweep as stage
from fakesound.orchestration.sweep import Trial, TrialInputs, TrialRecord
from fakesound.orchestration.tracking import Tracking
from fakesound.orchestration.trial_process import attempt
from fakesound.training.request import training_place

SCORES = [0.5, 0.7, 0.6]


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def trained(monkeypatch):
    """`train` as it is after an interruption: the first epoch was reported by the process that died."""

    def train(request, ranks, report):
        place = training_place(Store(request.store_url), request)
        lines = [json.dumps({"epoch": k, "score": score}) for k, score in enumerate(SCORES, start=1)]
        place.write_bytes(stage.EPOCHS_NAME, "\n".join(lines).encode())

    monkeypatch.setattr(stage, "train", train)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture
def inputs(store):
    return TrialInputs(store.url, RunConfig.load("builtin").to_json(), Pointer("u", "d" * 64), "")


def trial(rule=None):
    return Trial(0, {"posWeight": 2.0}, ["training.loss.pos_weight=2.0"], rule)


def test_a_trial_reports_every_epoch_of_its_training_and_is_worth_its_best(trained, inputs):
    objective = stage.TrainingObjective(inputs)
    run = objective.open(trial())
    record = attempt(objective, trial(), run)
    objective.close(run, record)
    assert (record.steps, record.value) == ({"1": 0.5, "2": 0.7, "3": 0.6}, 0.7)
    tracking = Tracking(Store(inputs.store_url))
    kept = tracking.client.get_run(run)
    assert kept.info.status == "FINISHED"
    assert [m.value for m in tracking.client.get_metric_history(run, "score")] == SCORES
    assert kept.data.metrics["best_score"] == 0.7
    assert kept.data.params["posWeight"] == "2.0"


def test_a_trial_below_the_bar_is_stopped_where_it_would_have_been(trained, inputs):
    rule = StopRule(bar=0.9, start_step=2, objective=changed(lambda spec: None).spec.objective)
    objective = stage.TrainingObjective(inputs)
    run = objective.open(trial(rule))
    record = attempt(objective, trial(rule), run)
    objective.close(run, record)
    assert (record.state, record.steps) == ("stopped", {"1": 0.5, "2": 0.7})
    assert "fakesound.stopped" in Tracking(Store(inputs.store_url)).client.get_run(run).data.tags


def test_a_trial_that_failed_says_so_in_its_run(inputs):
    objective = stage.TrainingObjective(inputs)
    run = objective.open(trial())
    objective.close(run, TrialRecord(0, {}, state="failed", error="killed by signal 9"))
    kept = Tracking(Store(inputs.store_url)).client.get_run(run)
    assert kept.info.status == "FAILED"
    assert kept.data.tags["fakesound.error"] == "killed by signal 9"


def test_the_stage_searches_once_and_leaves_page_and_database(trained, store, tmp_path, monkeypatch):
    from fakesound.orchestration import optuna_sweeper

    def sweeper(name, *, objective, image):
        return optuna_sweeper.OptunaSweeper(objective, run_here)

    monkeypatch.setattr(stage, "get_sweeper", sweeper)
    Pointer("u", "d" * 64).write(tmp_path / "features.json")
    run = Tracking(store).start("run", "pipeline")
    arguments = {
        "store": store.url,
        "config": RunConfig.load("builtin").to_json(),
        "features": str(tmp_path / "features.json"),
        "run": run,
        "sweeper": "optuna",
        "image": "",
    }
    overrides = json.loads(stage.sweep(**arguments))
    assert "training.schedule.peak_lr=0.002" in overrides  # of equals the first: the configuration itself
    [place] = (Path(store.url) / "sweeps").iterdir()
    left = {path.name for path in place.iterdir()}
    assert left == {"best.json", "search.html", "study.db", "trials", "_SUCCESS.json"}
    monkeypatch.setattr(stage, "get_sweeper", None)  # found, not searched again
    assert json.loads(stage.sweep(**arguments)) == overrides
    attached = Tracking(store).client.list_artifacts(run, "sweep")
    assert [item.path for item in attached] == ["sweep/search.html"]


@pytest.mark.parametrize("objective", [{"type": "minimize"}, {"objectiveMetricName": "loss"}])
def test_an_objective_that_trainings_do_not_print_is_refused(objective):
    with pytest.raises(UserError, match="trainings print validation_score"):
        stage.check_objective(changed(lambda spec: spec["objective"].update(objective)))
