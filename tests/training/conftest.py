"""Features of a tiny corpus, and the model of `tiny` in place of all others."""

import pytest
import tiny

from fakesound.core.store import Pointer, Store
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features
from fakesound.models.config import VisionMambaConfig
from fakesound.training.config import TrainingConfig
from fakesound.training.request import TrainingRequest

FRONT_END = FeatureConfig(sample_rate_hz=8000, n_fft=256, hop_samples=80, num_mels=20)


@pytest.fixture(scope="session")
def tiny_features(tmp_path_factory, make_corpus) -> Pointer:
    store = Store(str(tmp_path_factory.mktemp("features")))
    return extract_features(make_corpus(store, num_clips=40), FRONT_END, store)


@pytest.fixture
def tiny_model(monkeypatch):
    """Trains TinyNetwork in place of whatever model is asked for."""
    monkeypatch.setattr("fakesound.training.trainer.build_detector", tiny.build_by_chance)


@pytest.fixture
def tiny_model_without_chance(monkeypatch):
    """TinyNetwork without dropout and batch statistics: the same whatever the batches are dealt to."""
    monkeypatch.setattr("fakesound.training.trainer.build_detector", tiny.build_without_chance)


@pytest.fixture
def make_request(tiny_features, tmp_path):
    """`make_request(store="a", epochs=3, ...)`: a training of the tiny corpus into the store of that name."""

    def make(store: str = "store", world_size: int = 1, **training) -> TrainingRequest:
        values = {"epochs": 4, "batch_clips": 6, "schedule": {"peak_lr": 5e-3}} | training
        return TrainingRequest(
            features=tiny_features,
            store_url=str(tmp_path / store),
            model=VisionMambaConfig(embed_dim=16, depth=1),
            training=TrainingConfig.parse(values),
            world_size=world_size,
        )

    return make
