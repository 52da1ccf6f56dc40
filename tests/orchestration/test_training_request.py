"""What a run's configuration asks a training for: models of one size, weights to start from."""

import hashlib

import pytest

from fakesound.core.errors import UserError
from fakesound.core.store import Store
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features
from fakesound.models.budget import count_flops, unallocated
from fakesound.models.detector import count_parameters
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.stages.train import training_request

FRONT_END = FeatureConfig(sample_rate_hz=8000, n_fft=256, hop_samples=80, num_mels=40)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def features(store, make_corpus):
    return extract_features(make_corpus(store, num_clips=10), FRONT_END, store)


@pytest.fixture
def models(store, features):
    def models(*overrides):
        config = RunConfig.load("builtin", ["detector.embed_dim=48", *overrides])
        return [training_request(config, role, features, store).model for role in ("detector", "baseline")]

    return models


def size(model):
    return count_parameters(unallocated(model, FRONT_END.num_mels))


def test_without_a_budget_models_are_as_configured(models):
    config = RunConfig.load("builtin", ["detector.embed_dim=48"])
    assert models() == [config.detector, config.baseline]


def test_one_line_makes_both_as_large(models):
    for model in models("budget={parameters: 200_000}"):
        assert 180_000 <= size(model) <= 220_000


def test_one_line_makes_the_baseline_as_large_as_the_detector(models):
    plain = models()
    detector, baseline = models("budget={match: parameters}")
    assert detector == plain[0] and baseline != plain[1]
    assert size(baseline) == pytest.approx(size(detector), rel=0.1)
    detector, baseline = models("budget={match: gflops}")
    assert detector == plain[0]
    flops = [count_flops(model, FRONT_END.num_mels) for model in (detector, baseline)]
    assert flops[1] == pytest.approx(flops[0], rel=0.1)


def test_a_budget_that_cannot_be_met_is_refused(models):
    with pytest.raises(UserError, match="no width of vim"):
        models("budget={parameters: 10}")
    with pytest.raises(UserError, match="give one of"):
        models("budget={parameters: 10, match: gflops}")


def test_initial_weights_travel_with_their_digest(tmp_path):
    path = tmp_path / "vim.pth"
    path.write_bytes(b"weights")
    config = RunConfig.load("builtin", [f"training.initial_weights={path}"])
    assert config.training.initial_weights is not None
    assert config.training.initial_weights.sha256 == hashlib.sha256(b"weights").hexdigest()
    path.unlink()  # what a stage is handed is the JSON, wherever it runs
    assert RunConfig.load(config.to_json()) == config
    with pytest.raises(UserError, match="cannot be read"):
        RunConfig.load("builtin", [f"training.initial_weights={path}"])
