import os
import signal
import subprocess
import sys
import time

import pytest

from fakesound.core.errors import IntegrityError, UserError
from fakesound.orchestration.process import FAILURE_MARK, LINE_MARK, RUN_PID, STEP_LINES, run_step


@pytest.fixture
def marked(monkeypatch):
    monkeypatch.setenv(STEP_LINES, "1")


def test_a_step_returns_what_the_stage_returns(monkeypatch, capsys):
    monkeypatch.delenv(STEP_LINES, raising=False)
    assert run_step(lambda a, b: a + b, 1, b=2) == 3
    assert capsys.readouterr().out == ""


def test_the_steps_own_lines_are_marked(marked, capsys):
    run_step(lambda: print("one\ntwo") or print("th", end="") or print("ree"))
    assert capsys.readouterr().out == f"{LINE_MARK}one\n{LINE_MARK}two\n{LINE_MARK}three\n"


@pytest.mark.parametrize("error", [UserError, IntegrityError])
def test_what_the_user_can_mend_ends_with_code_2_and_its_message_alone(error, marked, capsys):
    def stage():
        raise error("no recordings\nin there")

    with pytest.raises(SystemExit) as end:
        run_step(stage)
    assert end.value.code == 2
    assert capsys.readouterr().out == f"{FAILURE_MARK}error: no recordings\n{FAILURE_MARK}in there\n"


def test_a_bug_ends_with_code_1_and_its_traceback(monkeypatch, capsys):
    monkeypatch.delenv(STEP_LINES, raising=False)

    def stage():
        raise ZeroDivisionError("of course")

    with pytest.raises(SystemExit) as end:
        run_step(stage)
    assert end.value.code == 1
    out = capsys.readouterr().out
    assert out.startswith("Traceback")
    assert out.endswith("ZeroDivisionError: of course\n")


def test_a_step_dies_with_the_run_even_when_that_is_killed():
    code = "import time; from fakesound.orchestration.process import run_step; run_step(time.sleep, 60)"
    run = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    step = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {RUN_PID: str(run.pid)})
    time.sleep(0.5)
    assert step.poll() is None
    run.kill()
    run.wait()
    assert step.wait(timeout=20) == -signal.SIGKILL
