import json

import pytest
import torch
from tiny import OnEpoch, assert_same_training, last_checkpoint, place_of

from fakesound.core.errors import UserError
from fakesound.models.bundle import load_bundle
from fakesound.training import data, trainer
from fakesound.training.data import collate
from fakesound.training.ranks import Ranks
from fakesound.training.request import TrainingRequest
from fakesound.training.trainer import train


def test_learns_reports_and_completes(tiny_model, make_request, capsys):
    request = make_request(epochs=12)
    records = []
    train(request, Ranks(), OnEpoch(records.append))
    place = place_of(request)
    assert place.is_complete()
    assert [record.epoch for record in records] == list(range(1, 13))
    assert records[-1].loss < 0.7 * records[0].loss
    assert max(record.score for record in records) > 0.9
    assert {"validation/clip_auc", "validation_unseen/frame_auc"} <= records[0].validation.keys()
    written = [json.loads(line) for line in place.read_bytes("epochs.jsonl").splitlines()]
    assert [line["score"] for line in written] == [record.score for record in records]
    best = max(records, key=lambda record: record.score)
    assert place.metadata["score"] == best.score
    assert {name for name in place.names() if name.startswith("detector/")} == {
        "detector/model.safetensors",
        "detector/detector.json",
    }
    assert "epoch 12/12" in capsys.readouterr().out


def test_a_finished_training_is_not_repeated(tiny_model, make_request, monkeypatch):
    request = make_request(epochs=1)
    train(request, Ranks())
    monkeypatch.setattr(trainer, "_Training", None)
    train(request, Ranks(), OnEpoch(pytest.fail))


def test_the_bundle_holds_the_best_weights(tiny_model, make_request):
    request = make_request(epochs=6, schedule={"peak_lr": 5e-2})
    records = []
    train(request, Ranks(), OnEpoch(records.append))
    place = place_of(request)
    best = max(records, key=lambda record: record.score)
    from safetensors.torch import load

    bundled = load(place.read_bytes("detector/model.safetensors"))
    state = load(place.read_bytes(f"checkpoints/step-{best.step:08d}/tensors.safetensors"))
    for name, tensor in bundled.items():
        assert torch.equal(tensor, state[f"model.{name}"])
    description = place.read_json("detector/detector.json")
    assert description["facts"]["step"] == best.step
    assert description["front_end"]["num_mels"] == 20


@pytest.mark.parametrize("kind", ["vim", "fcn_resnet"])
def test_trains_both_models_for_real(make_request, tmp_path, kind):
    small = {
        "vim": {"embed_dim": 16, "depth": 2},
        "fcn_resnet": {"widths": [4, 4], "depths": [1, 1], "time_strides": [1, 2]},
    }
    values = make_request(max_steps=2).model_dump(mode="json") | {"model": {"kind": kind} | small[kind]}
    request = TrainingRequest.parse(values)
    train(request, Ranks())
    bundle = load_bundle(place_of(request).local_path("detector"))
    assert bundle.config == request.model


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("after", "window_clips"), [(1, 2048), (3, 2048), (2, 7)])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    tiny_model, make_request, monkeypatch, after, window_clips
):
    monkeypatch.setattr(data, "WINDOW_CLIPS", window_clips)
    whole, broken = make_request("whole"), make_request("broken")
    train(whole, Ranks())

    def stop(record):
        if record.epoch == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(broken, Ranks(), OnEpoch(stop))
    assert not place_of(broken).is_complete()
    torch.manual_seed(999)
    resumed = []
    train(broken, Ranks(), OnEpoch(resumed.append))
    assert [record.epoch for record in resumed] == list(range(after + 1, 5))
    assert_same_training(whole, broken)


def test_a_corrupt_newest_checkpoint_costs_an_epoch_not_the_run(tiny_model, make_request, capsys):
    whole, broken = make_request("whole"), make_request("broken")
    train(whole, Ranks())

    def damage_and_stop(record):
        if record.epoch == 3:
            name = f"checkpoints/step-{record.step:08d}/tensors.safetensors"
            data = place_of(broken).read_bytes(name)
            place_of(broken).write_bytes(name, data[: len(data) // 2])
            raise Interrupted

    with pytest.raises(Interrupted):
        train(broken, Ranks(), OnEpoch(damage_and_stop))
    train(broken, Ranks())
    assert "skipped" in capsys.readouterr().out
    assert_same_training(whole, broken)


def test_a_lost_best_checkpoint_is_replaced_by_what_is_there(tiny_model, make_request, capsys):
    request = make_request(epochs=4, keep_checkpoints=1)

    def lose_the_best_and_stop(record):
        if record.epoch == 2:
            state = last_checkpoint(request).state
            best = f"checkpoints/step-{state.best_step:08d}/state.json"
            if state.best_step != state.step:
                place_of(request).remove(best)
            raise Interrupted

    with pytest.raises(Interrupted):
        train(request, Ranks(), OnEpoch(lose_the_best_and_stop))
    train(request, Ranks())
    place = place_of(request)
    assert place.is_complete()
    assert place.exists("detector/detector.json")


def test_max_steps_ends_within_an_epoch_and_sets_the_schedule(tiny_model, make_request):
    request = make_request(max_steps=5)
    records = []
    train(request, Ranks(), OnEpoch(records.append))
    assert [record.step for record in records] == [4, 5]
    assert records[-1].learning_rate == request.training.schedule.floor_lr


def test_validation_is_never_augmented(tiny_model, make_request, monkeypatch):
    seen = []

    def spy(bank, step, augmentation=None, epoch=0):
        seen.append((augmentation is not None, len(bank)))
        return collate(bank, step, augmentation, epoch)

    monkeypatch.setattr("fakesound.training.validate.collate", spy)
    train(make_request(epochs=1), Ranks())
    assert seen
    assert not any(augmented for augmented, _ in seen)


def test_normalisation_comes_from_training_rows_alone(tiny_model, make_request):
    request = make_request(epochs=1)
    train(request, Ranks())
    from fakesound.features.reader import FeatureSet
    from fakesound.training.data import ClipBank

    features = FeatureSet.open(request.features)
    mean, _ = ClipBank.read(features, "train", features.metadata["protocol"]).statistics()
    tensors = last_checkpoint(request).tensors
    assert torch.equal(tensors["model.input_mean_M"], torch.from_numpy(mean))


def test_the_key_holds_what_determines_the_result_and_nothing_else(make_request, tmp_path):
    base = make_request()
    assert base.key() == make_request("elsewhere").key()
    assert base.key() != make_request(seed=1).key()
    assert base.key() != make_request(world_size=2).key()
    base.write(tmp_path / "request.json")
    assert TrainingRequest.read(tmp_path / "request.json") == base
    (tmp_path / "bad.json").write_text('{"features": 3}')
    with pytest.raises(UserError, match=r"bad\.json"):
        TrainingRequest.read(tmp_path / "bad.json")
    with pytest.raises(UserError, match="no training request"):
        TrainingRequest.read(tmp_path / "none.json")


def test_ranks_come_from_the_environment(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.from_env() == Ranks(0, 0, 1)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(UserError, match="torchrun"):
        Ranks.from_env()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Ranks.from_env() == Ranks(3, 0, 4)
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(UserError, match="torchrun"):
        Ranks.from_env()
