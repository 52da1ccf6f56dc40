"""A model small enough to train in a test, and listeners made of one function."""

import torch
from torch import nn

from fakesound.core.store import Store
from fakesound.models.detector import Detector, DetectorOutput
from fakesound.training.checkpoint import load_latest
from fakesound.training.reports import Quiet
from fakesound.training.request import training_place


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


def build_by_chance(config, num_mels):
    return Detector(TinyNetwork(num_mels, by_chance=True), num_mels)


def build_without_chance(config, num_mels):
    return Detector(TinyNetwork(num_mels, by_chance=False), num_mels)


class OnEpoch(Quiet):
    def __init__(self, call):
        self.on_epoch = call


class OnStep(Quiet):
    def __init__(self, call):
        self.on_step = call


def place_of(request):
    return training_place(Store(request.store_url), request)


def last_checkpoint(request):
    found = load_latest(place_of(request), request.key())
    assert found is not None
    return found


def timeless(records):
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in records]


def assert_same_training(one, other):
    """Weights, optimiser, generators and loss curves are equal bit for bit, and so are the bundles."""
    a, b = last_checkpoint(one), last_checkpoint(other)
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), name
    assert a.state.random_states == b.state.random_states
    assert timeless(a.state.records) == timeless(b.state.records)
    bundles = [place_of(request).read_bytes("detector/model.safetensors") for request in (one, other)]
    assert bundles[0] == bundles[1]
