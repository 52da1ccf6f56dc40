"""How fast each model trains here, what its ranks wait for, and what a second process brings.

    python benchmarks/train_step.py --json train_step.json [--models vim lcnn] [--clips 256] [--epochs 3]

Trains as `fakesound train` does, through the launcher, on ten-second clips of made-up sound in Parquet
shards, with batches of 16 clips over all processes: one process with one thread, then two with one thread
each. All but the first epoch count, and the best of these. Validation is left out. The loader alone makes an
epoch's batches, augmented, in one process with one thread.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from features import CONFIG, DISTINCT, draw_clips, write_corpus
from pydantic import TypeAdapter

from fakesound.core.store import Pointer, Store
from fakesound.features.extract import extract_features
from fakesound.features.reader import FeatureSet
from fakesound.models.config import ModelConfig
from fakesound.orchestration.epochs import read_records
from fakesound.orchestration.launch_config import LaunchConfig
from fakesound.orchestration.local_launcher import LocalLauncher
from fakesound.orchestration.tracking import Tracking
from fakesound.orchestration.training_app import TrainingJob
from fakesound.orchestration.worker import REQUEST_NAME
from fakesound.training.augment import Augmentation
from fakesound.training.config import TrainingConfig
from fakesound.training.data import ClipBank, collate, plan_epoch
from fakesound.training.request import TrainingRequest, training_place

KINDS = ("vim", "transformer", "mamba2", "fcn_resnet", "deeplab_mobilenet", "lcnn")
BATCH_CLIPS = 16
Row = dict[str, Any]


def measure_training(features: Pointer, kind: str, processes: int, epochs: int) -> Row:
    """In a process of its own: the largest memory of its children is then that of these ranks."""
    model = TypeAdapter[ModelConfig](ModelConfig).validate_python({"kind": kind})
    with tempfile.TemporaryDirectory() as folder:
        request = TrainingRequest(
            features=features,
            store_url=folder,
            model=model,
            training=TrainingConfig(epochs=epochs, batch_clips=BATCH_CLIPS),
            world_size=processes,
        )
        place = training_place(Store(folder), request)
        with place.writing(REQUEST_NAME) as path:
            request.write(path)
        run = Tracking(Store(folder)).start("benchmark", "training")
        LocalLauncher().run(
            TrainingJob(
                name=f"train-{kind.replace('_', '-')}",
                arguments=(place.uri, run),
                launch=LaunchConfig(processes=processes, threads_per_process=1),
                image="",
            )
        )
        best = min(read_records(place)[1:], key=lambda record: record["seconds"])
    num_clips = len(FeatureSet.open(features))
    return {
        "model": kind,
        "processes": processes,
        "clips_per_s": num_clips / best["seconds"],
        "waiting_share": best["loader_seconds"] / best["seconds"],
        "peak_mib_per_process": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def loader_clips_per_s(pointer: Pointer) -> float:
    """Of the better of two epochs."""
    torch.set_num_threads(1)
    features = FeatureSet.open(pointer)
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    config = TrainingConfig()
    mean_M, std_M = bank.statistics()
    augmentation = Augmentation(
        config=config.augment,
        scale=features.config.scale,
        silence=features.config.silence,
        mean_M=mean_M,
        std_M=std_M,
        seed=0,
    )
    taken_s = []
    for epoch in range(2):
        started_s = time.perf_counter()
        plan = plan_epoch(bank.num_frames, bank.row_groups, batch_clips=BATCH_CLIPS, seed=0, epoch=epoch)
        for step in bank.at_hand(plan):
            collate(bank, step, augmentation, epoch)
        taken_s.append(time.perf_counter() - started_s)
    return len(bank) / min(taken_s)


def apart(function: Any, *arguments: Any) -> Any:
    """The result of a call in a fresh process, which ends by itself: torchx raises on SIGTERM."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def measure_model(features: Pointer, kind: str, epochs: int, loader: float) -> list[Row]:
    one, two = (apart(measure_training, features, kind, processes, epochs) for processes in (1, 2))
    for row in (one, two):
        row["loader_times_as_fast"] = loader / row["clips_per_s"]
        row["times_one_process"] = row["clips_per_s"] / one["clips_per_s"]
    return [one, two]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where to write the rows")
    parser.add_argument("--models", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        features = extract_features(
            write_corpus(store, draw_clips(DISTINCT), arguments.clips), CONFIG, store, 2
        )
        loader = apart(loader_clips_per_s, features)
        print(f"the loader alone makes {loader:.0f} clips/s", flush=True)
        for kind in arguments.models:
            found = measure_model(features, kind, arguments.epochs, loader)
            rows += found
            for row in found:
                text = {key: round(value, 3) for key, value in row.items() if isinstance(value, float)}
                print(row["model"], row["processes"], text, flush=True)
    facts = {"cores": os.cpu_count(), "torch": torch.__version__, "loader_clips_per_s": loader, "rows": rows}
    arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
