"""Options of learning in whole trainings: resumed, shared out to processes, and one head at a time."""

import signal

import pytest
import torch
from rank_processes import Fault, run
from tiny import assert_same_training, build_by_chance, build_without_chance, last_checkpoint

from fakesound.core.errors import UserError
from fakesound.training.config import TrainingConfig
from fakesound.training.ranks import Ranks
from fakesound.training.trainer import train
from fakesound.training.validate import validation_score

OPTIONS = {
    "groups": {
        "loss": {"group_dro_step": 0.5, "clip_label_smoothing": 0.1},
        "sampling": {"balance": "family"},
    },
    "mixing": {
        "augment": {
            "mixup_probability": 0.5,
            "cutmix_probability": 0.5,
            "filter_db": 6.0,
            "band_limit_share": 0.3,
        },
        "loss": {"frame_loss": "focal", "frame_label_smoothing": 0.1, "edge_weight": 2.0},
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_take_the_steps_that_one_takes(tiny_model_without_chance, make_request, name):
    alone = make_request("alone", epochs=2, **OPTIONS[name])
    train(alone, Ranks())
    together = make_request("together", epochs=2, world_size=2, accumulate_steps=2, **OPTIONS[name])
    assert run(together, 2, build=build_without_chance) == [0, 0]
    one, two = last_checkpoint(alone), last_checkpoint(together)
    assert one.tensors.keys() == two.tensors.keys()
    for tensor_name, tensor in one.tensors.items():
        torch.testing.assert_close(two.tensors[tensor_name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_killed_within_an_epoch_and_resumed_equals_uninterrupted(make_request, name):
    options = {"checkpoint_every_steps": 1, **OPTIONS[name]}
    whole, broken = make_request("whole", **options), make_request("broken", **options)
    assert run(whole) == [0]
    assert run(broken, fault=Fault(0, 6, signal.SIGKILL)) == [-signal.SIGKILL]
    assert last_checkpoint(broken).state.step in (5, 6)
    assert run(broken) == [0]
    assert_same_training(whole, broken)


def test_group_weights_are_saved_and_move_towards_the_worse_group(tiny_model, make_request):
    request = make_request(epochs=1, **OPTIONS["groups"])
    train(request, Ranks())
    weights_G = last_checkpoint(request).part("loss")["group_weights"]
    assert weights_G.sum().item() == pytest.approx(1)
    assert weights_G[1] > 0.5  # the forged clips: their frames count thrice
    plain = make_request("plain", epochs=1)
    train(plain, Ranks())
    assert not last_checkpoint(plain).part("loss")


@pytest.mark.parametrize(("alpha", "trained"), [(1.0, "clip_auc"), (0.0, "frame_auc")])
def test_a_single_task_is_one_line_and_is_scored_by_its_own_head(tiny_model, make_request, alpha, trained):
    request = make_request(epochs=2, loss={"alpha": alpha})
    train(request, Ranks())
    for record in last_checkpoint(request).state.records:
        parts = [value for name, value in record["validation"].items() if name.endswith(trained)]
        assert record["score"] == pytest.approx(sum(parts) / len(parts))


def test_the_head_that_is_not_trained_only_decays(tiny_model, make_request):
    request = make_request(epochs=2, loss={"alpha": 0.0}, weight_decay=0.0)
    torch.manual_seed(request.training.seed)
    drawn = build_by_chance(None, 20).state_dict()["network.head.weight"]
    train(request, Ranks())
    head = last_checkpoint(request).part("model")["network.head.weight"]
    assert torch.equal(head[0], drawn[0])
    assert not torch.equal(head[1], drawn[1])


def test_without_figures_of_the_trained_head_the_score_is_minus_the_loss():
    metrics = {"validation/clip_auc": 0.9, "validation/clip_log_loss": 0.3}
    assert validation_score(metrics, 0.5, alpha=0.3) == 0.9
    assert validation_score(metrics, 0.5, alpha=0.0) == -0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augment": {"mixup_probability": 0.6, "cutmix_probability": 0.6}}, "must not exceed 1"),
        ({"augment": {"mixup_probability": 0.1}, "loss": {"group_dro_step": 0.1}}, "clips of one group each"),
        ({"loss": {"clip_label_smoothing": 1.0}}, "clip_label_smoothing"),
        ({"sampling": {"balance": "source"}}, "balance"),
    ],
)
def test_options_that_do_not_fit_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        TrainingConfig.parse(values)
