"""A remote store gets checkpoints in the background, whole or not at all, and may fail for a while."""

import threading
import uuid

import pytest
import torch
from tiny import OnEpoch, assert_same_training, last_checkpoint, place_of

from fakesound.core.store import Place
from fakesound.training import upload
from fakesound.training.checkpoint import Checkpoint, TrainingState, load_checkpoint, load_latest
from fakesound.training.ranks import Ranks
from fakesound.training.trainer import train
from fakesound.training.upload import ATTEMPTS, LOST_IN_A_ROW, CheckpointWriter, UploadError


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(upload, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def place():
    return Place(f"memory://{uuid.uuid4()}/training/run")


def checkpoint(step, weight=None):
    state = TrainingState(
        request_key="key",
        step=step,
        epoch=step,
        epoch_so_far=None,
        score=0.5,
        best_step=step,
        best_score=0.5,
        random_states=[],
        records=[],
    )
    return Checkpoint({"model.weight": torch.zeros(3) if weight is None else weight}, state)


class Failing:
    """`Place.write_bytes` that fails the first `times` times."""

    def __init__(self, times):
        self.left, self.real = times, Place.write_bytes

    def patch(self, monkeypatch):
        def write_bytes(place, name, data):
            self.left -= 1
            if self.left >= 0:
                raise OSError("the network is down")
            self.real(place, name, data)

        monkeypatch.setattr(Place, "write_bytes", write_bytes)
        return self


def test_training_goes_on_while_one_is_stored_and_waits_before_the_next(place, monkeypatch):
    real, may_write, writing = Place.write_bytes, threading.Event(), []

    def slow(target, name, data):
        writing.append(name)
        assert may_write.wait(10)
        real(target, name, data)

    monkeypatch.setattr(Place, "write_bytes", slow)
    weight = torch.zeros(3)
    with CheckpointWriter(place, keep=2) as writer:
        writer.write(checkpoint(1, weight))
        weight.fill_(9)  # the next step
        assert load_latest(place, "key") is None
        second = threading.Thread(target=writer.write, args=(checkpoint(2),))
        second.start()
        second.join(0.05)
        assert second.is_alive(), "two at once"
        may_write.set()
        second.join()
        writer.finish()
    assert torch.equal(load_checkpoint(place, 1, "key").tensors["model.weight"], torch.zeros(3))
    assert load_latest(place, "key").state.step == 2
    assert len(writing) == 6


def test_a_failing_upload_is_tried_again(place, monkeypatch, capsys):
    Failing(ATTEMPTS - 1).patch(monkeypatch)
    with CheckpointWriter(place, keep=2) as writer:
        writer.write(checkpoint(1))
        writer.finish()
    assert load_latest(place, "key").state.step == 1
    assert capsys.readouterr().out == ""


def test_one_lost_is_said_and_forgiven_when_the_next_arrives(place, monkeypatch, capsys):
    Failing(ATTEMPTS).patch(monkeypatch)
    with CheckpointWriter(place, keep=2) as writer:
        writer.write(checkpoint(1))
        writer.write(checkpoint(2))
        writer.finish()
    assert load_latest(place, "key").state.step == 2
    assert "checkpoint of step 1 not stored after 5 attempts" in capsys.readouterr().out


def test_the_last_one_lost_is_an_error(place, monkeypatch):
    Failing(10**9).patch(monkeypatch)
    with CheckpointWriter(place, keep=2) as writer:
        writer.write(checkpoint(1))
        with pytest.raises(UploadError, match="network is down"):
            writer.finish()


def test_so_many_in_a_row_are_an_error_before_the_end(place, monkeypatch):
    Failing(10**9).patch(monkeypatch)
    with CheckpointWriter(place, keep=2) as writer:
        for step in range(LOST_IN_A_ROW):
            writer.write(checkpoint(step))
        with pytest.raises(UploadError, match="3 checkpoint"):
            writer.write(checkpoint(9))


def test_half_an_upload_is_not_taken_for_a_checkpoint(place, monkeypatch):
    with CheckpointWriter(place, keep=2) as writer:
        writer.write(checkpoint(1))
        writer.finish()
        real = Place.write_bytes

        def only_tensors(target, name, data):
            if name.endswith("state.json"):
                raise OSError("gone")
            real(target, name, data)

        monkeypatch.setattr(Place, "write_bytes", only_tensors)
        writer.write(checkpoint(2))
        with pytest.raises(UploadError):
            writer.finish()
    assert any("step-00000002" in name for name in place.names())
    assert load_latest(place, "key").state.step == 1


def test_a_training_in_a_remote_store_survives_it(tiny_model, make_request):
    whole = make_request("whole")
    train(whole, Ranks())
    broken = make_request().model_copy(update={"store_url": f"memory://{uuid.uuid4()}"})

    with pytest.MonkeyPatch.context() as patched:

        def network_goes_down(record):
            if record.epoch == 2:
                Failing(10**9).patch(patched)

        with pytest.raises(UploadError, match="network is down"):
            train(broken, Ranks(), OnEpoch(network_goes_down))
    assert last_checkpoint(broken).state.epoch in (1, 2)  # the second may still have been on its way
    train(broken, Ranks())
    assert place_of(broken).is_complete()
    assert_same_training(whole, broken)
