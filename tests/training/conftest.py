"""Features of a tiny corpus and a model small enough to train in a test."""

import pytest
import torch
from torch import nn

from fakesound.core.store import Pointer, Store
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features
from fakesound.models.config import VisionMambaConfig
from fakesound.models.detector import Detector, DetectorOutput
from fakesound.training.config import TrainingConfig
from fakesound.training.request import TrainingRequest

FRONT_END = FeatureConfig(sample_rate_hz=8000, n_fft=256, hop_samples=80, num_mels=20)


class TinyNetwork(nn.Module):
    """A convolution over time with batch normalisation and dropout: state of every sort there is."""

    def __init__(self, num_mels: int, by_chance: bool) -> None:
        super().__init__()
        self.mix = nn.Conv1d(num_mels, 8, 5, padding=2)
        self.norm = nn.BatchNorm1d(8) if by_chance else nn.Identity()
        self.drop = nn.Dropout(0.2 if by_chance else 0.0)
        self.head = nn.Linear(8, 2)

    def forward(self, image_BFM, mask_BF):
        hidden = torch.relu(self.norm(self.mix(image_BFM.transpose(1, 2)))).transpose(1, 2)
        logits_BFC = self.head(self.drop(hidden))
        valid_BF = mask_BF.float()
        clip_B = (logits_BFC[..., 0] * valid_BF).sum(1) / valid_BF.sum(1)
        return DetectorOutput(clip_B, logits_BFC[..., 1])


@pytest.fixture(scope="session")
def tiny_features(tmp_path_factory, make_corpus) -> Pointer:
    store = Store(str(tmp_path_factory.mktemp("features")))
    return extract_features(make_corpus(store, num_clips=40), FRONT_END, store)


@pytest.fixture
def tiny_model(monkeypatch):
    """Trains TinyNetwork in place of whatever model is asked for."""
    _train_tiny(monkeypatch, by_chance=True)


@pytest.fixture
def tiny_model_without_chance(monkeypatch):
    """TinyNetwork without dropout and batch statistics: the same whatever the batches are dealt to."""
    _train_tiny(monkeypatch, by_chance=False)


def _train_tiny(monkeypatch, by_chance):
    def build(config, num_mels):
        return Detector(TinyNetwork(num_mels, by_chance), num_mels)

    monkeypatch.setattr("fakesound.training.trainer.build_detector", build)


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
