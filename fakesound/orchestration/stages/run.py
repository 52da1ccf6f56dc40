"""Opening and closing the tracking run that holds everything one pipeline run does."""

import os
import platform
from pathlib import Path

from fakesound.core.errors import UserError
from fakesound.core.store import Place, Store
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.launch import check_launcher
from fakesound.orchestration.process import RUN_PID
from fakesound.orchestration.sweep import check_sweeper
from fakesound.orchestration.tracking import Tracking

RECORD_NAME = "run.json"
PROCESS_TAG = "fakesound.process"
SUCCEEDED = "SUCCEEDED"


def open_run(*, store: str, config: str, recordings: str, launcher: str, sweeper: str, job_id: str) -> str:
    """Check what can be checked before any work is done, open the parent run and return its id.

    Args:
        store: URL.
        config: preset, file or JSON.
        recordings: folder of recordings; empty for the built-in corpus.
        launcher: see `launch.get_launcher`.
        sweeper: see `sweep.get_sweeper`.
        job_id: the orchestrator's name for this run, by which `close_run` finds it.

    Raises:
        UserError: any of these cannot be used.
    """
    check_sweeper(sweeper)
    run_config = RunConfig.load(config)
    opened = Store(store)
    check_launcher(launcher, run_config.launch, opened)
    tracking = Tracking(opened)
    for abandoned in tracking.running():
        if _is_gone(abandoned.data.tags.get(PROCESS_TAG, "")):
            tracking.kill(abandoned.info.run_id)
    run = tracking.start(
        f"run-{run_config.digest()[:8]}",
        "pipeline",
        params=run_config.model_dump(mode="json"),
        tags={
            "fakesound.job": job_id,
            "fakesound.config_digest": run_config.digest(),
            "fakesound.recordings": recordings or "builtin",
            **_process_tag(),
        },
    )
    _record(opened, job_id).write_json(RECORD_NAME, {"run": run})
    return run


def close_run(*, store: str, job_id: str, state: str) -> None:
    """Close the parent run with the pipeline's outcome. Nothing to do when it was never opened.

    Args:
        store: URL.
        job_id: as given to `open_run`.
        state: the orchestrator's word; `SUCCEEDED` is success.
    """
    opened = Store(store)
    record = _record(opened, job_id)
    if not record.exists(RECORD_NAME):
        return
    Tracking(opened).finish(record.read_json(RECORD_NAME)["run"], succeeded=state == SUCCEEDED)


def _process_tag() -> dict[str, str]:
    """Which process drives the run, where one is named: a run on one machine, not on a cluster."""
    pid = os.environ.get(RUN_PID)
    return {PROCESS_TAG: f"{platform.node()}:{pid}"} if pid else {}


def _is_gone(process: str) -> bool:
    """Whether a process of this machine has ended: its run was killed, and nobody else will close it."""
    host, _, pid = process.rpartition(":")
    return bool(pid) and host == platform.node() and not Path(f"/proc/{pid}").exists()


def _record(store: Store, job_id: str) -> Place:
    if not job_id or "/" in job_id or job_id.startswith("."):
        raise UserError(f"{job_id!r} cannot name a run")
    return store.place("runs", job_id)
