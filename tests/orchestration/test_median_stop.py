"""Katib's own arithmetic, replayed: `MedianStopService.get_median_value` and `updateStopRules` of v0.19."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeps import changed

from fakesound.orchestration.experiment import load_experiment
from fakesound.orchestration.median_stop import stop_rule

SCORES = st.lists(st.floats(-1, 1), min_size=1, max_size=9)


def katib_stops(complete, trial, *, start_step, required, maximize):
    """After which of its values Katib's sidecar ends the trial; None for never."""
    averages = [sum(scores[:start_step]) / len(scores[:start_step]) for scores in complete]
    if len(averages) < required:
        return None
    bar = sum(averages) / len(averages)
    left, optimum = start_step, None
    for k, value in enumerate(trial, start=1):
        if optimum is None or (value > optimum if maximize else value < optimum):
            optimum = value
        left -= 1
        if left != 0:
            continue
        if optimum < bar if maximize else optimum > bar:
            return k
    return None


@pytest.mark.parametrize("kind", ["maximize", "minimize"])
@given(
    complete=st.lists(SCORES, max_size=6),
    trial=SCORES,
    start_step=st.integers(1, 5),
    required=st.integers(1, 4),
)
def test_a_trial_ends_where_katib_would_end_it(kind, complete, trial, start_step, required):
    def change(spec):
        spec["objective"]["type"] = kind
        spec["earlyStopping"]["algorithmSettings"] = [
            {"name": "min_trials_required", "value": str(required)},
            {"name": "start_step", "value": str(start_step)},
        ]

    rule = stop_rule(changed(change).spec, complete)
    ends = [k for k in range(1, len(trial) + 1) if rule is not None and rule.stops(trial[:k])]
    expected = katib_stops(
        complete, trial, start_step=start_step, required=required, maximize=kind == "maximize"
    )
    assert (ends[0] if ends else None) == expected


def test_without_early_stopping_there_is_no_rule():
    spec = changed(lambda values: values.pop("earlyStopping")).spec
    assert stop_rule(spec, [[0.1] * 9] * 9) is None
    assert stop_rule(load_experiment().spec, [[0.1]] * 2) is None
