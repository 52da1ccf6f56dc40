"""The whole road on a tiny generated corpus, through kfp's local runner, twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fakesound.core.store import Store
from fakesound.orchestration.registry import find_champion
from fakesound.orchestration.tracking import Tracking

CONFIG = Path(__file__).with_name("tiny.yaml")


def run(store, cwd, *, config=CONFIG):
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.local", "--store", str(store), "--config", str(config)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=1200,
        check=False,
    )


def detect(store, cwd):
    """Exit code of `fakesound detect` with the champion, in a process that knows the store alone."""
    clip = next((store / "corpora").rglob("audio/*.flac"))
    command = [sys.executable, "-m", "fakesound.cli.main", "detect", str(clip), "--store", str(store)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert "models:/fakesound@champion (version 1)" in found.stderr, found.stderr
    return found.returncode


def places(root):
    """Every file of the store's places with its time of writing."""
    kinds = ("corpora", "features", "sweeps", "training", "evaluations")
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns
        for kind in kinds
        for path in (root / kind).rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_the_whole_road_twice(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "store"
    first = run(root, tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    for words in ("zeroshot", "ViM", "FCN-ResNet", "all fake", "report:", "mlflow ui"):
        assert words in first.stdout, words
    assert "Executing task" not in first.stdout

    (evaluation,) = (root / "evaluations").iterdir()
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert set(metrics["models"]) == {"vim", "fcn_resnet"}
    assert {"easy", "hard", "zeroshot"} <= set(metrics["references"])
    assert "<html" in (evaluation / "report.html").read_text()[:500].lower()

    tracking = Tracking(Store(str(root)))
    champion = find_champion(tracking)
    assert champion is not None
    assert str(champion.version) == "1"
    runs = tracking.client.search_runs([tracking.client.get_run(champion.run_id).info.experiment_id])
    assert {found.info.status for found in runs} == {"FINISHED"}
    kinds = [found.data.tags["fakesound.kind"] for found in runs]
    assert sorted(kinds) == ["evaluation", "pipeline", "training", "training", "trial", "trial"]
    parents = {found.data.tags.get("mlflow.parentRunId") for found in runs}
    assert parents == {None, champion.run_id}

    assert detect(root, tmp_path) in (0, 3)

    before = places(root)
    second = run(root, tmp_path)
    assert second.returncode == 0, second.stderr[-3000:]
    assert places(root) == before
    assert "the same detector is version 1 already" in second.stdout
    table = first.stdout[first.stdout.index("clip acc") : first.stdout.index("report:")]
    assert table in second.stdout
