"""A rank as torchrun starts it, told to stop by a real signal."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fakesound.core.store import Store
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features
from fakesound.models.config import VisionMambaConfig
from fakesound.orchestration.epochs import TrackingReports
from fakesound.orchestration.tracking import Tracking
from fakesound.orchestration.worker import REQUEST_NAME
from fakesound.training.config import TrainingConfig
from fakesound.training.reports import EpochRecord, StepRecord
from fakesound.training.request import TrainingRequest, training_place
from fakesound.training.samples import Sample

FIGURES = {"loss": 0.5, "clip_loss": 0.4, "frame_loss": 0.6, "gradient_norm": 2.0, "learning_rate": 1e-3}


def step_record(step):
    counts = {"total_steps": 8, "step_in_epoch": step, "steps_in_epoch": 4}
    return StepRecord(epoch=1, step=step, clips_per_s=10.0, loader_share=0.1, **counts, **FIGURES)


def test_steps_and_epochs_are_tracked_by_their_own_numbers(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking = Tracking(Store(str(tmp_path)))
    run = tracking.start("train", "training")
    reports = TrackingReports(tracking, run)
    for step in (2, 4):
        reports.on_step(step_record(step))
    assert tracking.client.get_metric_history(run, "step/loss") == []
    reports.on_epoch(
        EpochRecord(epoch=1, step=4, score=0.7, is_best=True, seconds=1.0, loader_seconds=0.1, **FIGURES)
    )
    found = {
        name: [(metric.step, metric.value) for metric in tracking.client.get_metric_history(run, name)]
        for name in ("step/loss", "step/clips_per_s", "loss", "score")
    }
    assert found["step/loss"] == [(2, 0.5), (4, 0.5)]
    assert found["step/clips_per_s"] == [(2, 10.0), (4, 10.0)]
    assert (found["loss"], found["score"]) == ([(1, 0.5)], [(1, 0.7)])


def test_samples_are_a_picture_of_the_run(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking = Tracking(Store(str(tmp_path)))
    run = tracking.start("train", "training")
    sample = Sample(
        clip_id="a",
        family="noise_vocoder",
        clip_probability=0.4,
        features_FM=np.zeros((50, 20), np.float16),
        frame_labels_F=np.arange(50) > 30,
        frame_probabilities_F=np.linspace(0, 1, 50),
        hop_s=0.01,
    )
    TrackingReports(tracking, run).on_samples(5, [sample, sample])
    (found,) = tracking.client.list_artifacts(run, "samples")
    assert found.path == "samples/epoch-0005.png"
    assert found.file_size > 1000


def test_the_machine_is_tracked_while_a_training_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    tracking = Tracking(Store(str(tmp_path)))
    run = tracking.start("train", "training")
    with tracking.system_metrics(run):
        time.sleep(0.5)
    metrics = tracking.client.get_run(run).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert "system/cpu_utilization_percentage" in metrics


@pytest.mark.slow
def test_sigterm_ends_a_rank_with_143_and_a_checkpoint(tmp_path, make_corpus, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Store(str(tmp_path))
    front_end = FeatureConfig(sample_rate_hz=8000, n_fft=256, hop_samples=80, num_mels=20)
    request = TrainingRequest(
        features=extract_features(make_corpus(store, num_clips=40), front_end, store),
        store_url=store.url,
        model=VisionMambaConfig(embed_dim=16, depth=2),
        training=TrainingConfig.parse({"epochs": 1000, "batch_clips": 6}),
    )
    place, run = training_place(store, request), Tracking(store).start("train", "training")
    with place.writing(REQUEST_NAME) as path:
        request.write(path)
    command = [sys.executable, "-m", "fakesound.orchestration.worker", place.uri, run]
    for _ in range(2):
        rank = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        assert rank.stdout is not None
        lines = iter(rank.stdout.readline, "")
        assert any("epoch " in line for line in lines)
        rank.send_signal(signal.SIGTERM)
        said = "".join(lines)
        assert rank.wait(60) == 143
        assert "asked to stop: did so after step" in said
    assert any(name.startswith("checkpoints/") for name in place.names())
