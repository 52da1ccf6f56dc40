"""What becomes of a training's figures in MLflow: of epochs by epoch, of steps (`step/…`) by step; and of the
clips that it shows."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fakesound.core.store import Place
from fakesound.evaluation.sample_sheet import SampleClip, plot_samples
from fakesound.orchestration.tracking import Tracking
from fakesound.training.reports import EPOCHS_NAME, EpochRecord, StepRecord
from fakesound.training.samples import Sample

SCORE = "score"
STEPS_TOLD_EVERY_S = 5.0
WITHOUT_CURVE = {"epoch", "total_steps", "steps_in_epoch"}


class TrackingReports:
    """Tracks a training in a run. Steps are told together every few seconds: each call waits for a server."""

    def __init__(self, tracking: Tracking, run: str) -> None:
        self._tracking, self._run = tracking, run
        self._steps: list[tuple[int, dict[str, float]]] = []
        self._told_s = time.monotonic()

    def on_step(self, record: StepRecord) -> None:
        """See `Reports.on_step`."""
        figures = {f"step/{k}": v for k, v in asdict(record).items() if k not in WITHOUT_CURVE}
        self._steps.append((record.step, figures))
        if time.monotonic() - self._told_s >= STEPS_TOLD_EVERY_S:
            self._tell_steps()

    def on_epoch(self, record: EpochRecord) -> None:
        """See `Reports.on_epoch`."""
        self._tell_steps()
        self._tracking.log_metrics(self._run, asdict(record), step=record.epoch)

    def on_samples(self, epoch: int, samples: Sequence[Sample]) -> None:
        """See `Reports.on_samples`: a picture of them."""
        shown = [
            SampleClip(
                title=f"{sample.clip_id}, {sample.family}: P(forged) = {sample.clip_probability:.2f}",
                features_FM=sample.features_FM,
                frame_labels_F=sample.frame_labels_F,
                frame_probabilities_F=sample.frame_probabilities_F,
                hop_s=sample.hop_s,
            )
            for sample in samples
        ]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"epoch-{epoch:04d}.png"
            plot_samples(shown, path)
            self._tracking.log_file(self._run, path, "samples")

    def _tell_steps(self) -> None:
        self._tracking.log_series(self._run, self._steps)
        self._steps, self._told_s = [], time.monotonic()


def read_records(training: Place) -> list[dict[str, Any]]:
    """Every epoch of a training, those before an interruption included."""
    return [json.loads(line) for line in training.read_bytes(EPOCHS_NAME).splitlines()]


def backfill(tracking: Tracking, run: str, records: Sequence[dict[str, Any]]) -> None:
    """Track epochs that the run lacks: those before a resumed training was killed, or all of a reused one."""
    known = {metric.step for metric in tracking.client.get_metric_history(run, SCORE)}
    for record in records:
        if record["epoch"] not in known:
            tracking.log_metrics(run, record, step=record["epoch"])
