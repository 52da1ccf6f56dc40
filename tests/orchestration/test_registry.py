from dataclasses import replace

import numpy as np
import pytest
import torch

from fakesound.core.errors import UserError
from fakesound.core.store import Store
from fakesound.features.config import FeatureConfig
from fakesound.models.build import build_detector
from fakesound.models.bundle import save_bundle
from fakesound.models.config import FCNResNetConfig
from fakesound.orchestration import registry
from fakesound.orchestration.registry import Candidate, fetch_bundle, find_champion, register
from fakesound.orchestration.tracking import CHAMPION_URI, Tracking

MODEL = FCNResNetConfig(widths=(4,), depths=(1,), time_strides=(1,))
FRONT_END = FeatureConfig(num_mels=16, n_fft=512)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Tracking(Store(str(tmp_path_factory.mktemp("store"))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bundle")
    save_bundle(
        path,
        detector=build_detector(MODEL, FRONT_END.num_mels),
        config=MODEL,
        num_mels=FRONT_END.num_mels,
        front_end=FRONT_END.model_dump(mode="json"),
        facts={"operating_point": {"clip": 0.5, "frame": 0.5}},
    )
    return path


def candidate(folder, digest, score, **changes):
    def rescore(bundle):
        assert bundle.config == MODEL
        return 0.9

    made = Candidate(folder, digest, "front-end", "validation", score, rescore)
    return replace(made, **changes)


def test_the_champion_gate(tracking, folder):
    """In one story, since each version meets the ones before it."""
    run = tracking.start("run", "pipeline")

    first = register(tracking, run, candidate(folder, "a", 0.5))
    assert (first.version, first.is_champion) == ("1", True)
    assert "no champion yet" in first.reason

    again = register(tracking, run, candidate(folder, "a", 0.5))
    assert (again.version, again.is_champion) == ("1", True)
    assert "already" in again.reason

    worse = register(tracking, run, candidate(folder, "b", 0.4))
    assert (worse.version, worse.is_champion) == ("2", False)
    equal = register(tracking, run, candidate(folder, "c", 0.5))
    assert not equal.is_champion

    better = register(tracking, run, candidate(folder, "d", 0.6))
    assert (better.version, better.is_champion) == ("4", True)
    assert "0.6000 against 0.5000 of version 1" in better.reason

    # Scored on other clips: the champion is scored anew (0.9), and stays.
    elsewhere = register(tracking, run, candidate(folder, "e", 0.8, validation_digest="other"))
    assert not elsewhere.is_champion
    assert "0.8000 against 0.9000 of version 4" in elsewhere.reason

    other = register(tracking, run, candidate(folder, "f", 1.0, front_end_digest="other"))
    assert not other.is_champion
    assert "another front end" in other.reason

    for decision in (first, worse, better, elsewhere, other):
        version = tracking.client.get_model_version("fakesound", decision.version)
        assert version.description == decision.reason == version.tags["fakesound.reason"]
    champion = find_champion(tracking)
    assert champion is not None
    assert str(champion.version) == "4"


def test_a_run_killed_between_registering_and_deciding_decides_the_next_time(tracking, folder, monkeypatch):
    run = tracking.start("run", "pipeline")
    made = candidate(folder, "killed", 0.95)

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_compare", die)
        with pytest.raises(KeyboardInterrupt):
            register(tracking, run, made)
    count = len(tracking.client.search_model_versions("name = 'fakesound'"))
    decision = register(tracking, run, made)
    assert decision.is_champion
    assert len(tracking.client.search_model_versions("name = 'fakesound'")) == count


def test_the_champion_comes_back_as_a_bundle_and_as_a_model_that_takes_audio(tracking, folder, tmp_path):
    import mlflow

    # A new process does not know where to look, and must not look below the current folder.
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/elsewhere.db")
    mlflow.set_registry_uri(f"sqlite:///{tmp_path}/elsewhere.db")
    assert fetch_bundle(tracking, CHAMPION_URI).config == MODEL
    assert not list(tmp_path.iterdir())
    model = mlflow.pyfunc.load_model(CHAMPION_URI)
    samples = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    (judged,) = model.predict(samples, params={"sample_rate_hz": 16_000})
    assert judged["duration_s"] == pytest.approx(1, abs=0.02)
    assert set(judged) >= {"forged", "probability", "regions"}


def test_a_missing_model_is_the_users_to_mend(tracking):
    with pytest.raises(UserError, match="no model"):
        fetch_bundle(tracking, "models:/fakesound@nobody")
