"""Opening and closing the tracking run that holds everything one pipeline run does."""

from fakesound.core.errors import UserError
from fakesound.core.store import Place, Store
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.launch import check_launcher
from fakesound.orchestration.sweep import check_sweeper
from fakesound.orchestration.tracking import Tracking

RECORD_NAME = "run.json"
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
    check_launcher(launcher)
    check_sweeper(sweeper)
    run_config = RunConfig.load(config)
    opened = Store(store)
    tracking = Tracking(opened)
    run = tracking.start(
        f"run-{run_config.digest()[:8]}",
        "pipeline",
        params=run_config.model_dump(mode="json"),
        tags={
            "fakesound.job": job_id,
            "fakesound.config_digest": run_config.digest(),
            "fakesound.recordings": recordings or "builtin",
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


def _record(store: Store, job_id: str) -> Place:
    if not job_id or "/" in job_id or job_id.startswith("."):
        raise UserError(f"{job_id!r} cannot name a run")
    return store.place("runs", job_id)
