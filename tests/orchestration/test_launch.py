"""What is launched, and what a launcher makes of a job that fails or is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from torchx.specs.api import AppState, AppStatus

from fakesound.core.errors import UserError
from fakesound.core.store import Store
from fakesound.orchestration import local_launcher, training_app
from fakesound.orchestration.launch import (
    JobLostError,
    check_launcher,
    exit_on_sigterm,
    get_launcher,
    until_done,
)
from fakesound.orchestration.launch_config import LaunchConfig
from fakesound.orchestration.local_launcher import LocalLauncher
from fakesound.orchestration.rank_failure import TrainingFailedError
from fakesound.orchestration.training_app import TrainingJob, rendezvous_port

GOLDEN = Path(__file__).with_name("training_app.yaml")


def job(*, arguments=("s3://bucket/training/0123456789abcdef", "run-id"), **launch):
    return TrainingJob(
        name="train-0123456789abcdef",
        arguments=arguments,
        launch=LaunchConfig.parse(launch),
        image="fakesound:0.1.0-cpu",
    )


def app(**changes):
    return training_app.training_app(job(**changes), python="python")


def test_the_application_of_one_machine_is_the_golden_one():
    described = app()
    (role,) = described.roles
    kept = ("name", "image", "entrypoint", "args", "env", "num_replicas", "resource")
    found = {"name": described.name, "role": {name: _plain(getattr(role, name)) for name in kept}}
    assert found == yaml.safe_load(GOLDEN.read_text())


def _plain(value):
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def test_the_description_is_a_pure_function():
    assert app(nodes=2) == app(nodes=2)


def test_every_job_has_a_rendezvous_port_of_its_own_below_those_of_linux():
    ports = [rendezvous_port(f"train-{number:016x}") for number in range(20)]
    assert ports == [rendezvous_port(f"train-{number:016x}") for number in range(20)]
    assert len(set(ports)) == 20
    assert all(20_000 <= port < 32_768 for port in ports)


def test_nodes_run_what_they_are_given_in_a_shell_word_for_word(tmp_path):
    """`sh` is given the arguments of a node, with python replaced by a program that repeats them."""
    from torchx.specs import macros

    hostile = ("a b", "$HOME", "'; touch owned; '", "$${x}")
    (role,) = app(arguments=hostile, nodes=2, min_nodes=1, processes=3).roles
    values = macros.Values(img_root="", app_id="app", replica_id="1", rank0_env="FIRST_NODE")
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    python.chmod(0o755)
    told = subprocess.run(
        [role.entrypoint, *values.apply(role).args],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "FIRST_NODE": "node-0.job", "POD_IP": "192.0.2.7"},
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    arguments = json.loads(told.stdout)
    assert arguments[-len(hostile) :] == list(hostile)
    assert f"--rdzv-endpoint=node-0.job:{rendezvous_port('train-0123456789abcdef')}" in arguments
    assert {"--local-addr=192.0.2.7", "--nnodes=1:2", "--nproc-per-node=3"} <= set(arguments)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("values", "pattern"),
    [
        ({"min_nodes": 2}, "more than nodes"),
        ({"gpus_per_process": 2}, "gpus_per_process"),
        ({"env": {"LD_PRELOAD": "x.so"}}, "LD_PRELOAD: only settings"),
        ({"env": {"NCCL_": "x"}}, "only settings"),
        ({"cluster": {"queue": "Not A Name"}}, r"cluster\.queue"),
        ({"cluster": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}, "takes no value"),
        ({"cluster": {"tolerations": [{"key": "a", "effect": "Never"}]}}, "effect"),
        ({"cluster": {"gpu": 1}}, r"cluster\.gpu"),
    ],
)
def test_what_cannot_be_launched_is_refused_by_name(values, pattern):
    with pytest.raises(UserError, match=pattern):
        LaunchConfig.parse(values)


def test_communication_is_configured_by_the_names_of_its_libraries():
    env = {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0", "TORCH_NCCL_BLOCKING_WAIT": "1"}
    (role,) = app(env=env).roles
    assert env.items() <= role.env.items()


def test_launchers_are_refused_what_they_cannot_do(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match="launcher=volcano needs a cluster"):
        check_launcher("volcano", LaunchConfig(), Store("memory://bucket"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    local, remote = Store(str(tmp_path)), Store("memory://bucket")
    claim = {"cluster": {"store_claim": "store"}}
    assert isinstance(get_launcher("local", LaunchConfig(), local, ""), LocalLauncher)
    check_launcher("volcano", LaunchConfig(), remote)
    check_launcher("volcano", LaunchConfig.parse(claim), local)
    for name, launch, store, pattern in (
        ("ssh", {}, local, "known: local, volcano"),
        ("local", {"nodes": 2}, local, "one node, not 2"),
        ("volcano", {}, local, "do not see the folder"),
        ("volcano", claim, remote, "is remote"),
        ("volcano", {}, remote, "needs a container image"),
    ):
        with pytest.raises(UserError, match=pattern):
            get_launcher(name, LaunchConfig.parse(launch), store, "")


@pytest.mark.parametrize("losses", [0, 1, 2])
def test_a_lost_job_is_submitted_again_as_often_as_said(losses, capsys):
    outcomes = [JobLostError("node 1 failed")] * losses + [None]

    def attempt():
        outcome = outcomes.pop(0)
        if outcome:
            raise outcome

    until_done(attempt, 2)
    assert not outcomes
    assert capsys.readouterr().out.count("node 1 failed. Submitted again") == losses


def test_a_job_that_is_lost_once_more_than_that_has_failed():
    attempts = []

    def attempt():
        attempts.append(1)
        raise JobLostError("node 0 gone")

    with pytest.raises(TrainingFailedError, match=r"node 0 gone\. Given up after 3 attempts"):
        until_done(attempt, 2)
    assert len(attempts) == 3


def test_a_failure_is_not_tried_again():
    attempts = []

    def attempt():
        attempts.append(1)
        raise UserError("mend me")

    with pytest.raises(UserError):
        until_done(attempt, 2)
    assert len(attempts) == 1


def test_sigterm_leaves_the_block_as_an_exit_and_is_as_before_after_it():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left, exit_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_failure_that_ranks_could_not_tell_is_read_from_the_error_file():
    told = {"message": {"message": "ValueError: boom", "extraInfo": {"py_callstack": "THE TRACEBACK\n"}}}
    status = AppStatus(AppState.FAILED, structured_error_msg=json.dumps(told))
    failure = local_launcher._unspoken_failure(status)
    assert isinstance(failure, TrainingFailedError)
    assert str(failure) == "a training process failed: ValueError: boom\n\nTHE TRACEBACK"


@pytest.mark.parametrize("structured", ["<NONE>", "{}", "[]", "not json", json.dumps({"message": {}})])
def test_processes_that_died_without_a_word_are_said_to_have(structured):
    failure = local_launcher._unspoken_failure(AppStatus(AppState.FAILED, structured_error_msg=structured))
    assert isinstance(failure, JobLostError)
    assert "without a traceback" in str(failure)


WORKER = """
import os, signal, sys, time
from pathlib import Path
from fakesound.core.errors import UserError
from fakesound.core.lifetime import end_with_parent
from fakesound.orchestration.rank_failure import announce

rank, restart = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
starts = Path("starts")
with starts.open("a") as stream:
    stream.write(f"{rank}.{restart} ")
attempt = starts.read_text().count("0.0")
print(f"alive {attempt} {restart}", flush=True)
end_with_parent()

def fail():
BODY

try:
    fail()
except Exception as error:
    announce(error)
    sys.exit(1)
"""


@pytest.fixture
def launch_worker(tmp_path, monkeypatch):
    """`launch_worker(body, **launch)`: that worker, launched here; `.starts()` tells its starts."""

    def launch(body, **launch):
        indented = "\n".join(f"    {line}" for line in body.splitlines())
        (tmp_path / "made_up_worker.py").write_text(WORKER.replace("BODY", indented))
        root = Path(local_launcher.__file__).parents[2]
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
        monkeypatch.setattr(training_app, "WORKER_MODULE", "made_up_worker")
        monkeypatch.chdir(tmp_path)
        LocalLauncher().run(job(arguments=(), **launch))

    def starts():
        return sorted((tmp_path / "starts").read_text().split())

    launch.starts = starts
    return launch


@pytest.mark.slow
def test_a_failing_rank_is_shown_with_its_own_traceback_after_one_restart_did_not_help(launch_worker, capfd):
    body = "if rank == 1:\n    raise ValueError('of rank and file')\ntime.sleep(60)"
    with pytest.raises(TrainingFailedError, match=r"(?s)made_up_worker\.py.*ValueError: of rank and file$"):
        launch_worker(body)
    assert "[rank1]:alive" in capfd.readouterr().out
    starts = launch_worker.starts()
    assert starts.count("1.0") == 1 and "1.1" in starts  # restarted, and the job not submitted again


@pytest.mark.slow
def test_a_mistake_of_the_users_is_told_at_once_and_never_retried(launch_worker):
    with pytest.raises(UserError, match=r"^mend me$"):
        launch_worker("raise UserError('mend me')", processes=1, max_resubmits=3)
    assert launch_worker.starts() == ["0.0"]


@pytest.mark.slow
def test_a_process_that_was_killed_is_restarted(launch_worker):
    launch_worker("if rank == 1 and restart == 0:\n    os.kill(os.getpid(), signal.SIGKILL)", max_resubmits=0)
    assert launch_worker.starts().count("1.1") == 1


@pytest.mark.slow
def test_a_torchrun_that_was_killed_is_launched_again_and_its_ranks_are_gone(launch_worker, capfd):
    body = (
        "Path(f'pid-{attempt}').write_text(str(os.getpid()))\n"
        "if attempt == 1:\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n"
        "    time.sleep(60)\n"
    )
    launch_worker(body, processes=1, max_resubmits=1)
    assert launch_worker.starts() == ["0.0", "0.0"]
    assert "killed, or out of memory). Submitted again" in capfd.readouterr().out
    assert not Path("/proc", Path("pid-1").read_text()).exists()


def test_the_process_keeps_its_own_signal_handlers():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    local_launcher._create_scheduler("a session").close()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
