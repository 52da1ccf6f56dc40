import io
import re
import sys

import pytest
from kfp import dsl

from fakesound.core.errors import UserError
from fakesound.core.store import Store
from pipelines import local as runner
from pipelines.local import RunView, StepFailedError, main, only_run, run_locally


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def toy(how: str) -> None:
    from fakesound.core.errors import UserError
    from fakesound.core.progress import say
    from fakesound.orchestration.process import run_step

    def work() -> None:
        say("working")
        if how == "user":
            raise UserError("no recordings in there")
        if how == "bug":
            raise ZeroDivisionError("of course")
        if how == "death":
            import os

            os.kill(os.getpid(), 9)

    if how == "early":
        raise ImportError("no such thing")
    run_step(work)


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def closing(status: dsl.PipelineTaskFinalStatus) -> None:
    from fakesound.core.progress import say
    from fakesound.orchestration.process import run_step

    run_step(say, f"closing after {status.state}")


@dsl.pipeline(name="toy-pipeline")
def toy_pipeline(how: str) -> None:
    with dsl.ExitHandler(closing()):
        toy(how=how)


@pytest.mark.parametrize(
    ("how", "code", "pattern"),
    [
        ("user", 2, r"error: no recordings in there"),
        ("bug", 1, r"(?s)Traceback.*ZeroDivisionError: of course"),
        ("early", 1, r"(?s)Traceback.*\n  File .*ImportError: no such thing\n*"),
        ("death", 1, r"(?s)a step died without a traceback.*"),
    ],
)
def test_a_failing_steps_own_words_come_through(how, code, pattern, tmp_path, capsys):
    with pytest.raises(StepFailedError) as failure:
        run_locally(toy_pipeline, {"how": how}, root=tmp_path / "kfp", log_path=tmp_path / "run.log")
    assert failure.value.exit_code == code
    assert re.fullmatch(pattern, failure.value.text)
    assert "Inner task failed" not in failure.value.text
    screen = capsys.readouterr().out
    assert how == "early" or "working" in screen
    assert "closing after FAILED" in screen
    assert "Executing" not in screen
    assert "Inner task failed" in (tmp_path / "run.log").read_text()


def test_a_run_that_works_shows_headings_and_the_steps_own_lines(tmp_path, capsys):
    run_locally(toy_pipeline, {"how": "well"}, root=tmp_path / "kfp", log_path=tmp_path / "run.log")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["[00:00] toy", "    working", lines[2], "    closing after SUCCEEDED"]
    assert lines[2].endswith("] closing")
    print("plain")
    assert capsys.readouterr().out == "plain\n"


def test_the_first_failure_is_the_cause_and_lines_may_come_in_pieces():
    screen, log = io.StringIO(), io.StringIO()
    view = RunView(screen, log)
    for piece in (
        "00:00:00.000 - INFO - Executing task \x1b[96m'corpus'\x1b[0m\n",
        "    fakesound| one",
        "\n        fakesound! Traceback\n    fakesound! ValueError: cause\n",
        "00:00:01.000 - ERROR - Task \x1b[96m'corpus'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m\n",
        "00:00:01.000 - INFO - Executing task 'close-run'\n    fakesound! ValueError: effect\n",
    ):
        view.write(piece)
    assert view.failure() == "Traceback\nValueError: cause"
    assert screen.getvalue() == "[00:00] corpus\n    one\n"
    assert "effect" in log.getvalue()


def test_a_second_run_on_the_same_store_is_refused(tmp_path):
    store = Store(str(tmp_path))
    with only_run(store), pytest.raises(UserError, match="another run"), only_run(store):
        pass
    with only_run(store):
        pass


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--recordings", "nowhere"], "no folder"),
        (["--config", "nowhere"], "presets"),
        (["--set", "training.nonsense=1"], "nonsense"),
        (["--store", "nosuch://store"], "nosuch"),
    ],
)
def test_a_users_mistake_is_a_message_and_code_2(arguments, complaint, tmp_path, capsys):
    assert main(["--store", str(tmp_path / "store"), *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_the_failing_steps_words_are_the_last_thing_on_the_screen(tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise StepFailedError("Traceback\nValueError: cause")

    monkeypatch.setattr(runner, "run_locally", fail)
    assert main(["--store", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("Traceback\nValueError: cause\n")
    assert sys.stdout is not None
