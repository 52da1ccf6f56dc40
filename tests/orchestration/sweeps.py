"""What the tests of sweeps share: objectives that train nothing, and searches of the shipped experiment."""

import os
import signal
import time
from pathlib import Path

import yaml

from fakesound.core.store import Pointer
from fakesound.orchestration.config import SweepConfig
from fakesound.orchestration.experiment import Experiment, load_experiment
from fakesound.orchestration.sweep import Search, TrialInputs
from fakesound.orchestration.trial_process import attempt

INPUTS = TrialInputs("s3://bucket/store", '{"training":{"epochs":3}}', Pointer("s3://f", "d" * 64), "run-1")


class Objective:
    """Best at posWeight 4; remembers what it was asked; can be told to die or to fail."""

    def __init__(self, *, die_at=None, fail_at=(), steps=0):
        self.tried, self.closed, self.die_at, self.fail_at, self.steps = [], [], die_at, fail_at, steps

    def open(self, trial):
        return f"run-{trial.number}"

    def __call__(self, trial, run, report):
        if trial.number == self.die_at:
            raise KeyboardInterrupt
        self.tried.append((trial.number, dict(trial.parameters)))
        if trial.number in self.fail_at:
            raise RuntimeError("loss is not a number")
        score = -abs(trial.parameters["posWeight"] - 4)
        for step in range(self.steps):
            report(step + 1, score)
        return score

    def close(self, run, record):
        self.closed.append((run, record.state))


class SlowObjective:
    """Runs in processes: leaves a mark for each trial, prints, and may kill itself."""

    def __init__(self, folder, *, seconds=0.0, kill_at=None):
        self.folder, self.seconds, self.kill_at = str(folder), seconds, kill_at

    def open(self, trial):
        return ""

    def __call__(self, trial, run, report):
        Path(self.folder, f"{trial.number}-{time.monotonic_ns()}").touch()
        print(f"threads {os.environ.get('OMP_NUM_THREADS')}")
        if trial.number == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        report(1, 0.5)
        return -abs(trial.parameters["posWeight"] - 4)

    def close(self, run, record):
        raise AssertionError("nothing was opened")


def run_here(objective, trial, run, cancelled):
    """Runs a trial in this process."""
    return attempt(objective, trial, run)


def changed(change) -> Experiment:
    """The shipped experiment with its spec changed."""
    values = yaml.safe_load(yaml.safe_dump(load_experiment().manifest()))
    change(values["spec"])
    return Experiment.parse(values)


def search_of(place, experiment=None, *, start=None, **limits):
    values = {"max_trials": 8, "seed": 3} | limits
    return Search(experiment or load_experiment(), SweepConfig(**values), INPUTS, place, start)
