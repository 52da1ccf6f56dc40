import json

import numpy as np
import pytest
import torch
from tiny import OnEpoch, OnStep, last_checkpoint, place_of

from fakesound.core.errors import UserError
from fakesound.training import loop, step
from fakesound.training.data import collate
from fakesound.training.divergence import DivergedError, DivergenceWatch
from fakesound.training.interruption import Interruption
from fakesound.training.progress import EpochProgress, Means, mean_of_steps
from fakesound.training.ranks import Ranks
from fakesound.training.trainer import train


def spoil_step(monkeypatch, number, value=float("nan")):
    """One clip's features in that step (0-based) are not finite; what returns will hold its clips' ids."""
    calls, clip_ids = [], []

    def collate_spoilt(bank, plan, augmentation=None, epoch=0):
        batch = collate(bank, plan, augmentation, epoch)
        if len(calls) == number:
            batch.features_BFM[0] = value
            clip_ids.extend(bank.features.table["clip_id"].take(bank.rows[plan.clips]).to_pylist())
        calls.append(plan)
        return batch

    monkeypatch.setattr(step, "collate", collate_spoilt)
    return clip_ids


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_step_and_its_clips_are_named(tiny_model, make_request, monkeypatch, value):
    request = make_request()
    with monkeypatch.context() as patched:
        clip_ids = spoil_step(patched, 5, value)
        with pytest.raises(DivergedError, match=r"epoch 2: .* at step 6 .*peak_lr"):
            train(request, Ranks())
    told = place_of(request).read_json("diverged.json")
    assert (told["epoch"], told["first_step"], told["last_step"]) == (2, 6, 6)
    assert told["clip_ids"] == clip_ids
    assert len(clip_ids) == 6
    assert told["gradient_norm"] == "nan"
    checkpoint = last_checkpoint(request)
    assert checkpoint.state.step == 4
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.tensors.values())
    train(request, Ranks())
    assert place_of(request).is_complete()
    assert not place_of(request).exists("diverged.json")


class OnGpu(DivergenceWatch):
    """One that is read as rarely as on a GPU."""

    def __init__(self, device):
        super().__init__(device)
        self._can_read_freely = False


def test_where_reading_would_make_a_gpu_wait_the_step_is_found_later(tiny_model, make_request, monkeypatch):
    request = make_request(log_every_steps=3)

    told = []

    monkeypatch.setattr(loop, "DivergenceWatch", OnGpu)
    clip_ids = spoil_step(monkeypatch, 6)
    with pytest.raises(DivergedError, match="at step 7 "):
        train(request, Ranks(), OnStep(lambda record: told.append(record.step)))
    assert told == [3, 4, 6], "looked for at step 8, the end of the epoch"
    assert place_of(request).read_json("diverged.json")["clip_ids"] == clip_ids
    assert last_checkpoint(request).state.step == 4


def test_asked_to_stop_after_a_bad_step_it_does_not_save_it(tiny_model, make_request, monkeypatch):
    request, interruption = make_request(log_every_steps=100), Interruption()
    monkeypatch.setattr(loop, "DivergenceWatch", OnGpu)
    spoil_step(monkeypatch, 6)
    real = DivergenceWatch.see

    def ask(self, number, values):
        real(self, number, values)
        interruption.is_asked = number >= 7

    monkeypatch.setattr(DivergenceWatch, "see", ask)
    with pytest.raises(DivergedError, match="at step 7 "):
        train(request, Ranks(), interruption=interruption)
    assert last_checkpoint(request).state.step == 4


def test_a_loss_that_is_not_finite_though_its_gradient_is_stops_too(tiny_model, make_request, monkeypatch):
    real = step.Stepper.take

    def take(self, number, batches):
        values = real(self, number, batches)
        if number == 1:
            values[1] = torch.inf
        return values

    monkeypatch.setattr(step.Stepper, "take", take)
    request = make_request(log_every_steps=3)
    with pytest.raises(DivergedError, match="at steps 1 to 3"):
        train(request, Ranks())
    told = place_of(request).read_json("diverged.json")
    assert len(told["clip_ids"]) == 18
    assert told["clip_loss"] == "inf"
    assert np.isfinite(told["loss"])


def test_divergence_stops_before_anything_is_saved(tiny_model, make_request):
    request = make_request(schedule={"peak_lr": 1e30, "warmup_start_lr": 1e30, "warmup_share": 0.0})
    with pytest.raises(DivergedError, match="peak_lr"):
        train(request, Ranks())
    assert isinstance(DivergedError(""), UserError)
    assert place_of(request).names() == ["diverged.json"]
    json.loads(place_of(request).read_bytes("diverged.json"), parse_constant=pytest.fail)


def test_steps_are_told_every_few_and_at_an_epochs_end(tiny_model, make_request):
    steps, epochs = [], []

    class Both(OnStep, OnEpoch):
        def __init__(self):
            self.on_step, self.on_epoch = steps.append, epochs.append

    train(make_request(epochs=2, log_every_steps=3), Ranks(), Both())
    assert [(record.epoch, record.step, record.step_in_epoch) for record in steps] == [
        (1, 3, 3),
        (1, 4, 4),
        (2, 6, 2),
        (2, 8, 4),
    ]
    assert {(record.total_steps, record.steps_in_epoch) for record in steps} == {(8, 4)}
    assert steps[-1].learning_rate == epochs[-1].learning_rate
    for figure in Means._fields:
        told = (3 * getattr(steps[0], figure) + getattr(steps[1], figure)) / 4
        assert told == pytest.approx(getattr(epochs[0], figure), rel=1e-6)
    assert all(record.clips_per_s > 0 and 0 < record.loader_share < 1 for record in steps)


def test_sums_of_other_processes_are_taken_over():
    """Two processes' sums, taken up by one: the same means."""
    state = {
        "steps": 2,
        "seconds": 3.0,
        "loader_seconds": 1.0,
        "sums": [[1.0, 2.0, 3.0, 8.0], [0.5, 0.25, 0.0, 8.0]],
    }
    progress = EpochProgress(torch.device("cpu"))
    progress.restore(state, Ranks())
    assert mean_of_steps(progress.sums, progress.steps, Ranks()) == Means(0.75, 1.125, 1.5, 4.0)
    assert progress.state(Ranks())["sums"] == [[1.5, 2.25, 3.0, 8.0]]
    others = EpochProgress(torch.device("cpu"))
    others.restore(state, Ranks(2, 2, 3))
    assert others.sums.tolist() == [0.0] * 4
