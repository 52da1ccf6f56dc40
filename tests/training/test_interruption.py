"""Asked to stop: at every step, in validation, by a real signal; and how processes agree on it."""

import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import OnStep, assert_same_training, last_checkpoint, place_of

from fakesound.training import interruption as module
from fakesound.training.data import plan_epoch, steps_per_epoch
from fakesound.training.interruption import Agreement, InterruptedTrainingError, Interruption
from fakesound.training.ranks import Ranks
from fakesound.training.trainer import train


def stop_after(step):
    """Listens to steps and asks to stop after that one."""
    interruption = Interruption()

    def ask(record):
        interruption.is_asked = record.step == step

    return {"reports": OnStep(ask), "interruption": interruption}


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.5}, {"checkpoint_every_steps": 3}])
def test_stopped_after_every_single_step_and_resumed_equals_uninterrupted(tiny_model, make_request, options):
    options |= {"log_every_steps": 1, "epochs": 2}
    whole, broken = make_request("whole", **options), make_request("broken", **options)
    train(whole, Ranks())
    for step in range(1, 9):
        with pytest.raises(InterruptedTrainingError, match=f"after step {step},"):
            train(broken, Ranks(), **stop_after(step))
        state = last_checkpoint(broken).state
        assert (state.step, state.epoch, state.score) == (step, (step - 1) // 4, None)
        assert state.epoch_so_far is not None
        assert state.epoch_so_far["steps"] == step - 4 * state.epoch
    train(broken, Ranks())
    assert_same_training(whole, broken)


def test_stopped_within_validation_it_validates_again(tiny_model, make_request, monkeypatch):
    whole, broken = make_request("whole"), make_request("broken")
    train(whole, Ranks())
    interruption, scored = Interruption(), []
    from fakesound.training import validate

    real = validate.collate

    def ask_while_scoring(*args):
        scored.append(args)
        interruption.is_asked = True
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(validate, "collate", ask_while_scoring)
        patched.setattr(validate, "plan_validation", one_clip_a_batch(validate.plan_validation))
        with pytest.raises(InterruptedTrainingError):
            train(broken, Ranks(), interruption=interruption)
    assert len(scored) == 1, "clips were scored for nobody"
    assert last_checkpoint(broken).state.records == []
    train(broken, Ranks())
    assert_same_training(whole, broken)


def one_clip_a_batch(plan_validation):
    return lambda num_frames, batch_clips, **ranks: plan_validation(num_frames, 1, **ranks)


def test_real_signals_ask_for_the_time_of_the_block(tiny_model, make_request):
    request, before = make_request(), signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        interruption = Interruption()
        with interruption.on_signals():
            assert not interruption.is_asked
            os.kill(os.getpid(), number)
            assert interruption.is_asked
            with pytest.raises(InterruptedTrainingError):
                train(request, Ranks(), interruption=interruption)
    assert signal.getsignal(signal.SIGTERM) is before
    assert last_checkpoint(request).state.step == 2
    assert not place_of(request).is_complete()


class TwoRanks(Ranks):
    """One of two, the other of which was asked or not and takes so long for a step."""

    def __init__(self, other):
        super().__init__(0, 0, 2)
        object.__setattr__(self, "other", other)
        object.__setattr__(self, "talks", 0)

    def largest(self, values):
        object.__setattr__(self, "talks", self.talks + 1)
        return [max(mine, others) for mine, others in zip(values, self.other, strict=True)]


@pytest.mark.parametrize(
    ("step_s", "talks_in_100_steps"), [(1e-9, 1), (0.01, 1 + 99 // 30), (0.3, 100), (5.0, 100)]
)
def test_they_talk_as_often_as_the_notice_period_needs(monkeypatch, step_s, talks_in_100_steps):
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    ranks = TwoRanks([0.0, step_s])
    agreement = Agreement(Interruption(), ranks, notice_s=3.0)
    assert not any(agreement.after_step() for _ in range(100))
    assert ranks.talks == talks_in_100_steps


def test_any_of_them_is_enough(monkeypatch):
    assert Agreement(Interruption(), TwoRanks([1.0, 0.0]), 1.0).now()
    here = Interruption()
    here.is_asked = True
    assert Agreement(here, TwoRanks([0.0, 0.0]), 1.0).after_step()
    assert Agreement(here, Ranks(), 1.0).after_step()


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=80).map(np.array),
    st.integers(1, 20),
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.data(),
)
def test_each_clip_of_an_epoch_comes_once_though_processes_come_and_go(
    num_frames, batch_clips, world_sizes, draw
):
    """Taken up at any steps, each time by another number of processes."""
    num_steps = steps_per_epoch(len(num_frames), batch_clips)
    cuts = [draw.draw(st.integers(0, num_steps)) for _ in world_sizes[1:]]
    edges = [0, *sorted(cuts), num_steps]
    seen = []
    for world_size, first, last in zip(world_sizes, edges[:-1], edges[1:], strict=True):
        for rank in range(world_size):
            plan = plan_epoch(
                num_frames,
                np.arange(len(num_frames)) // 6,
                batch_clips=batch_clips,
                seed=3,
                epoch=1,
                rank=rank,
                world_size=world_size,
            )
            seen += [clip for step in plan[first:last] for clip in step.clips[~step.is_padding]]
    assert sorted(seen) == list(range(len(num_frames)))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.floats(0.01, 100))
def test_slowest_steps_never_outlast_the_notice(step_times, notice_s):
    agreement = Agreement(Interruption(), TwoRanks([0.0, max(step_times)]), notice_s)
    agreement.now()
    steps = next(k for k in range(1, 2000) if agreement._steps_to_go == k)
    assert steps == 1 or steps * max(step_times) <= notice_s / module.CHECKS_PER_NOTICE
