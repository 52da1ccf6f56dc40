import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.training.config import ScheduleConfig
from fakesound.training.schedule import lr_at

STUDY = ScheduleConfig(
    peak_lr=5e-4, warmup_start_lr=1e-6, floor_lr=1e-5, warmup_share=50 / 400, cooldown_share=50 / 400
)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 1e-6),
        (25, (1e-6 + 5e-4) / 2),
        (50, 5e-4),
        (125, 1e-5 + (5e-4 - 1e-5) * (1 + math.cos(math.pi / 4)) / 2),
        (200, (5e-4 + 1e-5) / 2),
        (349, 1e-5 + (5e-4 - 1e-5) * (1 + math.cos(math.pi * 299 / 300)) / 2),
        (350, 1e-5),
        (399, 1e-5),
    ],
)
def test_the_studys_curve_in_closed_form(step, expected):
    assert lr_at(step, 400, STUDY) == pytest.approx(expected, rel=1e-12)


configs = st.builds(
    lambda warmup, rest, peak, start, floor: ScheduleConfig(
        peak_lr=peak,
        warmup_start_lr=start * peak,
        floor_lr=floor * peak,
        warmup_share=warmup,
        cooldown_share=rest * (1 - warmup),
    ),
    *[st.floats(0, 1)] * 2,
    st.floats(1e-6, 1),
    *[st.floats(0, 1)] * 2,
)


@given(configs, st.integers(1, 300))
def test_rises_then_falls_within_bounds(config, total):
    curve = [lr_at(step, total, config) for step in range(total)]
    low = min(config.floor_lr, config.warmup_start_lr)
    assert all(low - 1e-12 <= rate <= config.peak_lr + 1e-12 for rate in curve)
    top = curve.index(max(curve))
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(curve[: top + 1]))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(curve[top:]))


def test_warm_restarts_repeat_the_cosine():
    """SGDR with T_mult = 1: two cycles of 150 steps are twice the one cycle of 150."""
    config = STUDY.model_copy(update={"cosine_cycles": 2})
    curve = [lr_at(step, 400, config) for step in range(400)]
    cycle = [1e-5 + (5e-4 - 1e-5) * (1 + math.cos(math.pi * k / 150)) / 2 for k in range(150)]
    assert curve[50:350] == pytest.approx(cycle * 2, rel=1e-12)
    assert curve[:50] == [lr_at(step, 400, STUDY) for step in range(50)]
    assert curve[350:] == [1e-5] * 50


@given(configs, st.integers(1, 300), st.integers(1, 7))
def test_restarts_begin_at_the_peak_and_fall(config, total, cycles):
    config = config.model_copy(update={"cosine_cycles": cycles})
    start = round(config.warmup_share * total)
    stop = total - round(config.cooldown_share * total)
    curve = [lr_at(step, total, config) for step in range(start, stop)]
    assert not curve or curve[0] == pytest.approx(config.peak_lr)
    rises = sum(a < b - 1e-12 for a, b in itertools.pairwise(curve))
    assert rises <= cycles - 1
    assert all(config.floor_lr - 1e-12 <= rate <= config.peak_lr + 1e-12 for rate in curve)


def test_impossible_schedules_and_steps_are_refused():
    with pytest.raises(UserError, match="must not exceed 1"):
        ScheduleConfig.parse({"warmup_share": 0.6, "cooldown_share": 0.6})
    with pytest.raises(UserError, match="must not exceed peak_lr"):
        ScheduleConfig.parse({"floor_lr": 1.0})
    with pytest.raises(ValueError, match="no step"):
        lr_at(-1, 10, STUDY)
    with pytest.raises(ValueError, match="no step"):
        lr_at(0, 0, STUDY)
