"""A detector survives being written and read; anything else in its folder is refused."""

import json

import pytest
import torch

from fakesound.core.errors import IntegrityError, UserError
from fakesound.models.build import build_detector
from fakesound.models.bundle import load_bundle, save_bundle
from fakesound.models.config import (
    DeepLabMobileNetConfig,
    FCNResNetConfig,
    LCNNConfig,
    VisionMambaConfig,
)

VIM = VisionMambaConfig(embed_dim=8, depth=1, patch_mels=4, patch_frames=4)
FCN = FCNResNetConfig(widths=(4,), depths=(1,), time_strides=(1,))
DEEPLAB = DeepLabMobileNetConfig(width_multiplier=0.05)
LCNN = LCNNConfig(width_multiplier=0.1)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "detector", VIM)


def write(folder, config):
    torch.manual_seed(0)
    detector = build_detector(config, 8)
    detector.set_normalisation(torch.arange(8.0), torch.arange(1.0, 9.0))
    save_bundle(
        folder,
        detector=detector,
        config=config,
        num_mels=8,
        front_end={"num_mels": 8},
        facts={"threshold": 0.25},
    )
    return folder


@pytest.mark.parametrize("config", [VIM, FCN, DEEPLAB, LCNN], ids=lambda config: config.kind)
def test_round_trip(tmp_path, config):
    bundle = load_bundle(write(tmp_path, config))
    torch.manual_seed(0)
    original = build_detector(config, 8).eval()
    original.set_normalisation(torch.arange(8.0), torch.arange(1.0, 9.0))
    features, mask = torch.randn(2, 9, 8), torch.ones(2, 9, dtype=torch.bool)
    for want, have in zip(original(features, mask), bundle.detector(features, mask), strict=True):
        assert torch.equal(want, have)
    assert (bundle.config, bundle.num_mels) == (config, 8)
    assert (bundle.front_end, bundle.facts) == ({"num_mels": 8}, {"threshold": 0.25})
    assert not bundle.detector.training
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.json", "model.safetensors"]


def test_altered_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match="is not what"):
        load_bundle(folder)


def test_weights_of_another_model_are_refused(folder):
    description = json.loads((folder / "detector.json").read_text())
    description["model"]["depth"] = 2
    (folder / "detector.json").write_text(json.dumps(description))
    with pytest.raises(IntegrityError, match="does not fit"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 1}, "not a detector of schema 2"),
        ({"num_mels": "8"}, "num_mels is missing or not of type int"),
        ({"num_mels": 0}, "at least 1"),
        ({"model": {"kind": "pickle"}}, "pickle"),
        ({"weights_sha256": None}, "weights_sha256"),
    ],
)
def test_bad_descriptions_are_refused(folder, change, message):
    description = json.loads((folder / "detector.json").read_text()) | change
    (folder / "detector.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=message):
        load_bundle(folder)


def test_a_folder_without_a_bundle_is_refused(tmp_path, folder):
    with pytest.raises(UserError, match=r"no detector in .*detector\.json"):
        load_bundle(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no detector in .*model\.safetensors"):
        load_bundle(folder)
    (folder / "detector.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_bundle(folder)
