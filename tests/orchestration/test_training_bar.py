import io
import json
import os
import sys
from dataclasses import asdict

from fakesound.orchestration.training_bar import (
    PROGRESS_LINES,
    PROGRESS_MARK,
    WithProgressLines,
    training_bar,
)
from fakesound.training.reports import Quiet, StepRecord


def record(step):
    figures = {"loss": 0.5, "clip_loss": 0.4, "frame_loss": 0.6, "gradient_norm": 2.0, "learning_rate": 1e-3}
    counts = {"total_steps": 8, "step_in_epoch": step, "steps_in_epoch": 4}
    return StepRecord(epoch=1, step=step, clips_per_s=12.3, loader_share=0.1, **counts, **figures)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_off_a_terminal_lines_are_shown_as_they_are():
    shown = []
    with training_bar(shown.append) as take:
        assert PROGRESS_LINES not in os.environ
        take("[rank0]:epoch 1/2: loss 0.5")
    assert shown == ["[rank0]:epoch 1/2: loss 0.5"]


def test_on_a_terminal_marked_lines_move_the_bar_and_others_are_shown(monkeypatch):
    shown, terminal = [], Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with training_bar(shown.append) as take:
        assert os.environ[PROGRESS_LINES] == "1"
        take(f"[rank0]:{PROGRESS_MARK}{json.dumps(asdict(record(6)))}")
        take("[rank0]:epoch 1/2: loss 0.5")
    assert shown == ["[rank0]:epoch 1/2: loss 0.5"]
    assert PROGRESS_LINES not in os.environ
    assert "6/8" in terminal.getvalue()
    assert "12.3 clips/s, loss 0.500 (clip 0.400, frame 0.600)" in terminal.getvalue()


def test_a_rank_writes_marked_lines_and_tells_whom_it_told(capsys):
    told = Quiet()
    told.on_step = told.on_epoch = (seen := []).append
    reports = WithProgressLines(told)
    reports.on_step(record(6))
    reports.on_epoch("epoch")
    assert seen == [record(6), "epoch"]
    assert json.loads(capsys.readouterr().out.removeprefix(PROGRESS_MARK)) == asdict(record(6))
