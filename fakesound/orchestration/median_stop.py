"""Katib's early stopping `medianstop`, as version 0.19 does it, for trials on this machine.

Two things are not what its name and its documentation say, and are kept so that one file means one thing on
a laptop and on a cluster: the bar is the *mean* over complete trials (of each one's mean over its first
`start_step` values), fixed when a trial starts; and a trial is held against it once, when it has given
`start_step` values (kubeflow/katib: pkg/earlystopping/v1beta1/medianstop/service.py, and updateStopRules in
cmd/metricscollector/v1beta1/file-metricscollector/main.go).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from fakesound.orchestration.experiment import ExperimentSpec, Objective

# Katib's defaults.
MIN_TRIALS_REQUIRED = 3
START_STEP = 4


@dataclass(frozen=True)
class StopRule:
    """When to give a trial up.

    Attributes:
        bar: what its best value is held against.
        start_step: after how many values.
        objective: says which of two values is better.
    """

    bar: float
    start_step: int
    objective: Objective

    def stops(self, scores: Sequence[float]) -> bool:
        """Whether a trial that has given these values so far is to end now."""
        if len(scores) != self.start_step:
            return False
        best = max(scores) if self.objective.type == "maximize" else min(scores)
        return self.objective.is_better(self.bar, best)


def stop_rule(spec: ExperimentSpec, complete: Iterable[Sequence[float]]) -> StopRule | None:
    """The rule for a trial that starts now; None if there is to be none, or too few trials are complete.

    Args:
        spec: of the experiment.
        complete: values of each complete trial, in order.
    """
    stopping = spec.early_stopping
    if stopping is None:
        return None
    start_step = stopping.setting("start_step", START_STEP)
    means = [fmean(scores[:start_step]) for scores in complete if scores]
    if len(means) < stopping.setting("min_trials_required", MIN_TRIALS_REQUIRED):
        return None
    return StopRule(fmean(means), start_step, spec.objective)
