"""A training by its tracking run: failed, taken up, found done."""

import json

import pytest

from fakesound.core.errors import UserError
from fakesound.core.store import Pointer, Store
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features
from fakesound.orchestration.rank_failure import TrainingFailedError
from fakesound.orchestration.stages import train as stage
from fakesound.orchestration.tracking import Tracking
from fakesound.training.ranks import Ranks
from fakesound.training.request import TrainingRequest
from fakesound.training.trainer import train

CONFIG = {
    "detector": {"embed_dim": 16, "depth": 1},
    "training": {"epochs": 2, "batch_clips": 8},
    "launch": {"processes": 1},
}


class Engine:
    """Trains in this process; fails as often as it is told to."""

    def __init__(self):
        self.failures = 0
        self.jobs = []

    def run(self, job):
        self.jobs.append(job)
        if self.failures:
            self.failures -= 1
            raise TrainingFailedError("lost")
        place_uri, _ = job.arguments
        request = TrainingRequest.read(f"{place_uri}/request.json")
        train(request, Ranks())


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = Engine()
    monkeypatch.setattr(stage, "get_launcher", lambda *arguments: found)
    return found


@pytest.fixture
def features(tmp_path, make_corpus):
    store = Store(str(tmp_path / "store"))
    front_end = FeatureConfig(sample_rate_hz=8000, n_fft=256, hop_samples=80, num_mels=20)
    path = tmp_path / "features.json"
    extract_features(make_corpus(store, num_clips=20), front_end, store).write(path)
    return str(path)


def start(tmp_path, features, out=None):
    stage.train(
        store=str(tmp_path / "store"),
        config=json.dumps(CONFIG),
        overrides=stage.NO_OVERRIDES,
        role="detector",
        features=features,
        run="",
        launcher="local",
        image="",
        training_out=out,
    )


def test_a_failed_training_is_taken_up_in_its_own_run_as_it_was_launched(engine, features, tmp_path):
    engine.failures = 1
    with pytest.raises(TrainingFailedError):
        start(tmp_path, features)
    tracking = Tracking(Store(str(tmp_path / "store")))
    (run,) = tracking.client.search_runs([tracking._experiment_id()])
    assert run.info.status == "FAILED"
    out = tmp_path / "training.json"
    stage.resume(store=str(tmp_path / "store"), run=run.info.run_id, training_out=str(out))
    (again,) = tracking.client.search_runs([tracking._experiment_id()])
    assert again.info.status == "FINISHED"
    assert len(tracking.client.get_metric_history(run.info.run_id, "loss")) == 2
    assert engine.jobs[0] == engine.jobs[1]
    assert Pointer.read(out).open().is_complete()
    stage.resume(store=str(tmp_path / "store"), run=run.info.run_id, training_out=None)
    assert len(engine.jobs) == 2, "nothing is left to train"


def test_only_a_trainings_run_can_be_taken_up(engine, tmp_path):
    tracking = Tracking(Store(str(tmp_path)))
    with pytest.raises(UserError, match="no run nowhere"):
        stage.resume(store=str(tmp_path), run="nowhere", training_out=None)
    other = tracking.start("run", "pipeline")
    with pytest.raises(UserError, match="is not a training"):
        stage.resume(store=str(tmp_path), run=other, training_out=None)
