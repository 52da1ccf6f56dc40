"""Two processes joined by gloo: what one process would do, and what is left of it when they are killed."""

import signal

import numpy as np
import pytest
import torch
from rank_processes import Fault, exit_codes, run, start
from tiny import OnEpoch, assert_same_training, build_without_chance, last_checkpoint, place_of, timeless

from fakesound.training import trainer
from fakesound.training.interruption import INTERRUPTED_EXIT_CODE
from fakesound.training.ranks import Ranks

WORLD_SIZE = 2
NUM_STEPS = 16  # of what make_request makes
SHORT_NOTICE = {"notice_s": 0.001}  # agreed on after every step
FIGURES = ("loss", "clip_loss", "frame_loss", "gradient_norm", "score")


@pytest.mark.parametrize("window_clips", [2048, 13])
def test_two_processes_take_the_steps_that_one_takes(
    tiny_model_without_chance, make_request, monkeypatch, window_clips
):
    monkeypatch.setattr("fakesound.training.data.WINDOW_CLIPS", window_clips)
    alone = make_request("alone", epochs=2, schedule={"peak_lr": 1e-3})
    trainer.train(alone, Ranks())
    together = make_request("together", epochs=2, schedule={"peak_lr": 1e-3}, world_size=WORLD_SIZE)
    assert run(together, WORLD_SIZE, window_clips=window_clips, build=build_without_chance) == [0, 0]
    one, two = last_checkpoint(alone), last_checkpoint(together)
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], tensor, rtol=1e-4, atol=1e-6)
    assert_close_records(one.state.records, two.state.records, rel=1e-4)
    assert one.state.records[-1]["validation"] == pytest.approx(two.state.records[-1]["validation"], rel=1e-4)


def assert_close_records(one, two, rel):
    for figure in FIGURES:
        assert all(a[figure] == pytest.approx(b[figure], rel=rel) for a, b in zip(one, two, strict=True))


def break_and_resume(whole, broken, world_size, rng, num_faults):
    """Signals at random steps to random ranks, each time later, then an end undisturbed."""
    steps = np.sort(rng.choice(np.arange(1, NUM_STEPS), num_faults, replace=False))
    for step in steps:
        number = int(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1]))
        fault = Fault(int(rng.integers(world_size)), int(step), number)
        codes = run(broken, world_size, fault=fault)
        if number == signal.SIGKILL:
            assert codes[fault.rank] == -signal.SIGKILL
            assert all(codes), "a rank went on without the other"
        else:
            assert codes == [INTERRUPTED_EXIT_CODE] * world_size
            assert last_checkpoint(broken).state.step >= step
        assert not place_of(broken).is_complete()
    assert run(broken, world_size) == [0] * world_size
    assert_same_training(whole, broken)


@pytest.mark.parametrize("seed", [0])
def test_signals_at_random_steps_change_nothing(make_request, seed):
    random_interruptions(make_request, WORLD_SIZE, seed, num_faults=2)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_signals_at_random_steps_change_nothing_twenty_times_in_a_row(make_request, world_size):
    for seed in range(1, 21):
        random_interruptions(make_request, world_size, seed, num_faults=3)


def random_interruptions(make_request, world_size, seed, num_faults):
    rng = np.random.default_rng(seed)
    every = [None, 1, 2, 3][int(rng.integers(4))]
    options = {"world_size": world_size, "ema_decay": 0.9, **SHORT_NOTICE, "checkpoint_every_steps": every}
    whole, broken = (make_request(f"{name}-{seed}", **options) for name in ("whole", "broken"))
    assert run(whole, world_size) == [0] * world_size
    break_and_resume(whole, broken, world_size, rng, num_faults)
    states = last_checkpoint(whole).state.random_states
    assert len({state["cpu"] for state in states}) == world_size


def test_one_of_two_processes_is_told_to_stop_and_both_do(make_request):
    whole, broken = (make_request(n, world_size=WORLD_SIZE, epochs=12) for n in ("whole", "broken"))
    processes, reached = start(broken, WORLD_SIZE)
    assert reached.wait(60)
    processes[1].terminate()
    assert exit_codes(processes) == [INTERRUPTED_EXIT_CODE] * WORLD_SIZE
    assert last_checkpoint(broken).state.step > 2
    assert run(whole, WORLD_SIZE) == run(broken, WORLD_SIZE) == [0, 0]
    assert_same_training(whole, broken)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_training_goes_on_with_another_number_of_processes(
    tiny_model_without_chance, make_request, before, after
):
    """Within an epoch: its figures are as if nothing had happened, to a relative 1e-4."""
    whole = make_request("whole")
    trainer.train(whole, Ranks())
    request = make_request("broken", world_size=before, **SHORT_NOTICE)
    build = {"build": build_without_chance}
    fault = Fault(0, 5, signal.SIGTERM)
    assert run(request, before, fault=fault, **build) == [INTERRUPTED_EXIT_CODE] * before
    state = last_checkpoint(request).state
    assert state.epoch_so_far is not None
    assert len(state.epoch_so_far["sums"]) == before
    assert run(request, after, **build) == [0] * after
    assert_close_records(
        last_checkpoint(whole).state.records, last_checkpoint(request).state.records, rel=1e-4
    )


def test_epochs_told_of_are_not_told_again(tiny_model, make_request):
    request = make_request(world_size=WORLD_SIZE)
    assert run(request, WORLD_SIZE, fault=Fault(1, 9, signal.SIGKILL))[1] == -signal.SIGKILL
    records = []
    trainer.train(request, Ranks(), OnEpoch(records.append))
    assert [record.epoch for record in records] == [3, 4]
    assert len(timeless(last_checkpoint(request).state.records)) == 4
