import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from torchx.specs import AppState, AppStatus

from fakesound.core.errors import UserError
from fakesound.orchestration import launch
from fakesound.orchestration.launch import (
    LocalLauncher,
    TrainingFailedError,
    TrainingJob,
    get_launcher,
    training_app,
)

GOLDEN = Path(__file__).with_name("training_app.yaml")


def job(**changes):
    values = {
        "name": "train-0123456789abcdef",
        "arguments": ("s3://bucket/training/0123456789abcdef", "run-id"),
        "processes": 2,
        "threads_per_process": 1,
        "python": "python",
        "image": "fakesound:0.1.0-cpu",
    }
    return TrainingJob(**values | changes)


def test_the_job_is_the_golden_one():
    app = training_app(job())
    (role,) = app.roles
    kept = ("name", "image", "entrypoint", "args", "env", "num_replicas", "resource")
    found = {"name": app.name, "role": {name: _plain(getattr(role, name)) for name in kept}}
    assert found == yaml.safe_load(GOLDEN.read_text())


def _plain(value):
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def test_the_description_is_a_pure_function():
    assert training_app(job()) == training_app(job())


@pytest.mark.parametrize(
    ("message", "kind", "pattern"),
    [
        ({"message": "UserError: mend me"}, UserError, "^mend me$"),
        ({"message": "ValueError: boom"}, TrainingFailedError, "(?s)ValueError: boom.*THE TRACEBACK$"),
    ],
)
def test_a_failure_speaks_in_the_words_of_the_rank(message, kind, pattern):
    structured = json.dumps({"message": message | {"extraInfo": {"py_callstack": "THE TRACEBACK\n"}}})
    failure = launch._failure(AppStatus(AppState.FAILED, structured_error_msg=structured))
    assert isinstance(failure, kind)
    with pytest.raises(kind, match=pattern):
        raise failure


@pytest.mark.parametrize("structured", ["<NONE>", "{}", "[]", "not json", json.dumps({"message": {}})])
def test_a_rank_that_died_without_a_word_is_said_to_have(structured):
    failure = launch._failure(AppStatus(AppState.FAILED, structured_error_msg=structured))
    assert "without a traceback" in str(failure)


def test_volcano_is_refused_and_so_is_an_unknown_name():
    assert isinstance(get_launcher("local"), LocalLauncher)
    with pytest.raises(UserError, match="not available yet"):
        get_launcher("volcano")
    with pytest.raises(UserError, match="known: local, volcano"):
        get_launcher("ssh")


@pytest.mark.slow
def test_a_failing_rank_is_shown_with_its_own_traceback(tmp_path, monkeypatch, capfd):
    (tmp_path / "failing_worker.py").write_text(
        "from torch.distributed.elastic.multiprocessing.errors import record\n"
        "@record\n"
        "def main():\n"
        "    print('alive', flush=True)\n"
        "    raise ValueError('of rank and file')\n"
        "main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(launch, "WORKER_MODULE", "failing_worker")
    with pytest.raises(TrainingFailedError, match=r"(?s)failing_worker\.py.*ValueError: of rank and file$"):
        LocalLauncher().run(job(python=sys.executable, arguments=()))
    assert "]:alive" in capfd.readouterr().out
