"""MLflow: one parent run per pipeline run, children for trials, trainings and the evaluation.

Without MLFLOW_TRACKING_URI a local store keeps its own: sqlite in {store}/mlflow/mlflow.db, artifacts beside.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fakesound.core.errors import UserError
from fakesound.core.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

EXPERIMENT = "fakesound"
MODEL_NAME = "fakesound"
CHAMPION = "champion"
CHAMPION_URI = f"models:/{MODEL_NAME}@{CHAMPION}"

TRACKING_URI_VARIABLE = "MLFLOW_TRACKING_URI"
COMMIT_VARIABLE = "FAKESOUND_GIT_COMMIT"
MAX_PARAM_CHARS = 500
MAX_PARAMS_PER_CALL = 100
MAX_METRICS_PER_CALL = 1000


def tracking_uri(store: Store) -> str:
    """MLFLOW_TRACKING_URI if set, else the local store's own database.

    Raises:
        UserError: the store is remote and no server is named.
    """
    named = os.environ.get(TRACKING_URI_VARIABLE)
    if named:
        return named
    if store.local_root is None:
        raise UserError(f"the store {store.url} is remote: set {TRACKING_URI_VARIABLE} to an MLflow server")
    return f"sqlite:///{_local_folder(store)}/mlflow.db"


def has_tracking(store: Store) -> bool:
    """Whether runs can be looked up without creating anything."""
    if os.environ.get(TRACKING_URI_VARIABLE):
        return True
    return store.local_root is not None and (_local_folder(store) / "mlflow.db").exists()


def open_command(store: Store) -> str:
    """The one command (or address) that shows the runs in a browser."""
    uri = tracking_uri(store)
    if uri.startswith("http"):
        return uri
    # The interpreter's own mlflow: the user's PATH need not know the environment.
    return f"{_environment_command('mlflow')} ui --backend-store-uri {uri}"


def _environment_command(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    try:
        return str(beside.relative_to(Path.cwd()))
    except ValueError:
        return str(beside)


def _local_folder(store: Store) -> Path:
    assert store.local_root is not None
    return store.local_root / "mlflow"


class Tracking:
    """The tracking server of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.uri = tracking_uri(store)
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        _quieten()
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def make_default(self) -> None:
        """Tell the parts of MLflow that take no client (models, artifacts of models) where to look."""
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)

    def start(
        self,
        name: str,
        kind: str,
        *,
        parent: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Open a run and return its id.

        Args:
            name: shown in the list of runs.
            kind: pipeline, trial, training, evaluation or registration.
            parent: id of the parent run; empty for none.
            params: nested values are flattened to dotted names.
            tags: beside those that every run carries (kind, git commit).
        """
        every = {"fakesound.kind": kind, "fakesound.store": self._store.url} | dict(tags or {})
        commit = git_commit()
        if commit:
            every["mlflow.source.git.commit"] = commit
        if parent:
            every["mlflow.parentRunId"] = parent
        run = self.client.create_run(self._experiment_id(), tags=every, run_name=name)
        self.log_params(run.info.run_id, params or {})
        return run.info.run_id

    def finish(self, run_id: str, *, succeeded: bool) -> None:
        """Close a run with its outcome."""
        self.client.set_terminated(run_id, "FINISHED" if succeeded else "FAILED")

    def reopen(self, run_id: str) -> None:
        """Go on in a run that was closed."""
        self.client.update_run(run_id, status="RUNNING")

    def tags_of(self, run_id: str) -> dict[str, str]:
        """The tags of a run.

        Raises:
            UserError: there is no such run.
        """
        from mlflow.exceptions import MlflowException

        try:
            return dict(self.client.get_run(run_id).data.tags)
        except MlflowException as error:
            raise UserError(f"no run {run_id} in {self.uri}: {error.message:.200}") from None

    def running(self) -> "list[Run]":
        """Runs that nobody closed yet."""
        return list(self.client.search_runs([self._experiment_id()], "attributes.status = 'RUNNING'"))

    def kill(self, run_id: str) -> None:
        """Close an abandoned run and its open children as killed."""
        for run in self.running():
            if run_id in (run.info.run_id, run.data.tags.get("mlflow.parentRunId")):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters; nested mappings become dotted names."""
        from mlflow.entities import Param

        flat = [Param(key, str(value)[:MAX_PARAM_CHARS]) for key, value in flatten(params).items()]
        for start in range(0, len(flat), MAX_PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=flat[start : start + MAX_PARAMS_PER_CALL])

    def log_metrics(self, run_id: str, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Log the finite numbers among `metrics`; nested mappings become dotted names."""
        self.log_series(run_id, [(step, metrics)])

    def log_series(self, run_id: str, series: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """As `log_metrics`, for many (step, metrics) at once."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        flat = [
            Metric(key, float(value), now_ms, step)
            for step, metrics in series
            for key, value in flatten(metrics).items()
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
        ]
        for start in range(0, len(flat), MAX_METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=flat[start : start + MAX_METRICS_PER_CALL])

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """For the time of the block, track this machine every ten seconds: processors, memory, disk, network,
        GPUs (`system/…`).
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags on a run."""
        for key, value in tags.items():
            self.client.set_tag(run_id, key, value)

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Attach a file to a run."""
        self.client.log_artifact(run_id, str(path), folder)

    def log_folder(self, run_id: str, path: Path, folder: str) -> None:
        """Attach every file of a folder to a run."""
        self.client.log_artifacts(run_id, str(path), folder)

    def _experiment_id(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return found.experiment_id
        own = self.uri.startswith("sqlite:///") and self._store.local_root is not None
        # Left to itself MLflow would put artifacts below the current folder; a server knows better places.
        location = (_local_folder(self._store) / "artifacts").as_uri() if own else None
        return self.client.create_experiment(EXPERIMENT, artifact_location=location)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def git_commit() -> str:
    """The commit of this code: FAKESOUND_GIT_COMMIT (images set it), else the checkout's, else empty."""
    named = os.environ.get(COMMIT_VARIABLE)
    if named:
        return named
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _quieten() -> None:
    """No chatter of database migrations, and nothing sent anywhere: set before mlflow is imported."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
