"""What becomes of each epoch's figures in MLflow."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from fakesound.core.store import Place
from fakesound.orchestration.tracking import Tracking
from fakesound.training.trainer import EPOCHS_NAME, EpochRecord

SCORE = "score"


def reporter(tracking: Tracking, run: str) -> Callable[[EpochRecord], None]:
    """Tracks each epoch as it ends."""
    return lambda record: tracking.log_metrics(run, asdict(record), step=record.epoch)


def read_records(training: Place) -> list[dict[str, Any]]:
    """Every epoch of a training, those before an interruption included."""
    return [json.loads(line) for line in training.read_bytes(EPOCHS_NAME).splitlines()]


def backfill(tracking: Tracking, run: str, records: Sequence[dict[str, Any]]) -> None:
    """Track epochs that the run lacks: those before a resumed training was killed, or all of a reused one."""
    known = {metric.step for metric in tracking.client.get_metric_history(run, SCORE)}
    for record in records:
        if record["epoch"] not in known:
            tracking.log_metrics(run, record, step=record["epoch"])
