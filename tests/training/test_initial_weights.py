"""A training that starts from published ImageNet weights, and is known by their content."""

import pytest
import torch
from tiny import OnEpoch

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.store import Store
from fakesound.models.build import build_detector
from fakesound.models.bundle import load_bundle
from fakesound.models.config import FCNResNetConfig, VisionMambaConfig
from fakesound.models.imagenet import load_vim_imagenet
from fakesound.training.config import TrainingConfig
from fakesound.training.ranks import Ranks
from fakesound.training.request import TrainingRequest, training_place
from fakesound.training.trainer import train

MODEL = VisionMambaConfig(embed_dim=16, depth=1)
STANDING_STILL = {"peak_lr": 1e-12, "floor_lr": 0, "warmup_start_lr": 0}


@pytest.fixture
def weights(make_published_vim, tmp_path):
    path = tmp_path / "vim.pth"
    torch.save({"model": make_published_vim(16, 1)}, path)
    return path


def place_of(request):
    return training_place(Store(request.store_url), request)


def test_training_starts_from_the_file_and_draws_the_heads(make_request, weights, capsys):
    request = make_request(epochs=1, max_steps=1, schedule=STANDING_STILL, initial_weights=str(weights))
    train(request, Ranks())
    have = load_bundle(place_of(request).local_path("detector")).detector.network.state_dict()
    torch.manual_seed(request.training.seed)
    network = build_detector(MODEL, 20).network
    load_vim_imagenet(weights, network)
    for name, want in network.state_dict().items():
        torch.testing.assert_close(have[name], want, atol=1e-9, rtol=0, msg=name)
    said = capsys.readouterr().out
    assert f"starting from {weights}; drawn anew: clip_head.weight" in said
    # Clips of the tiny corpus have 20 mels: two patches in frequency, so something of the positions is lost.
    assert "of their variance" in said and "keep 100%" not in said


def test_the_files_content_keys_the_training_and_its_place_does_not(make_request, weights, tmp_path):
    first = make_request(initial_weights=str(weights))
    copy = tmp_path / "copy.pth"
    copy.write_bytes(weights.read_bytes())
    assert make_request(initial_weights=str(copy)).key() == first.key() != make_request().key()
    assert make_request(initial_weights=str(copy)).training.identity() == first.training.identity()
    assert TrainingConfig.parse(first.training.model_dump(mode="json")) == first.training
    copy.write_bytes(weights.read_bytes() + b"\0")
    assert make_request(initial_weights=str(copy)).key() != first.key()


def test_a_file_that_changed_since_is_refused(make_request, weights):
    request = make_request(initial_weights=str(weights))
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match="is not the file that was asked for"):
        train(request, Ranks())


def test_a_resumed_training_no_longer_needs_the_file(make_request, weights):
    request = make_request(epochs=2, initial_weights=str(weights))

    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(request, Ranks(), OnEpoch(stop))
    weights.unlink()
    train(request, Ranks())
    assert place_of(request).is_complete()


def test_a_missing_file_and_another_kind_of_model_are_refused(make_request, weights, tmp_path):
    with pytest.raises(UserError, match=r"initial_weights.*none\.pth cannot be read: No such file"):
        make_request(initial_weights=str(tmp_path / "none.pth"))
    values = make_request(initial_weights=str(weights)).model_dump(mode="json")
    fcn = FCNResNetConfig(widths=(4,), depths=(1,), time_strides=(1,)).model_dump(mode="json")
    with pytest.raises(UserError, match="for models of kind vim, not fcn_resnet"):
        train(TrainingRequest.parse(values | {"model": fcn}), Ranks())
