"""Choose the default front end and patch: candidates trained alike, judged on the validation partitions.

    python benchmarks/front_end.py --store STORE --json FILE [--config builtin] [--epochs N] [--seeds 0 1]

Writes a list of {scale, num_mels, patch_mels, patch_frames, seed, parameters, seconds, best_score,
<partition>/<figure>}. The test partition is never read.
"""

import argparse
import json
import os
import time
from itertools import product
from pathlib import Path
from typing import Any

from fakesound.core.progress import say
from fakesound.core.store import Pointer, Store
from fakesound.corpora.build import build_corpus
from fakesound.features.extract import extract_features
from fakesound.models.build import build_detector
from fakesound.models.config import VisionMambaConfig
from fakesound.models.detector import count_parameters
from fakesound.orchestration.config import RunConfig
from fakesound.training.ranks import Ranks
from fakesound.training.reports import EpochRecord, Quiet
from fakesound.training.request import TrainingRequest
from fakesound.training.trainer import train

SCALES = ("log", "power")
PATCHES = ((128, 4), (128, 8), (64, 8), (16, 16), (20, 20))  # (mels, frames)
SHORTLIST = 1  # patches tried with the power scale too


def candidates() -> list[tuple[str, tuple[int, int]]]:
    """Every patch on the log scale, and the first few on the study's power scale."""
    return [("log", patch) for patch in PATCHES] + list(product(SCALES[1:], PATCHES[:SHORTLIST]))


class Kept(Quiet):
    """Keeps what is told of epochs."""

    def __init__(self) -> None:
        self.epochs: list[EpochRecord] = []

    def on_epoch(self, record: EpochRecord) -> None:
        """See `Reports.on_epoch`."""
        self.epochs.append(record)


def measure(config: RunConfig, corpus: Pointer, store: Store, seed: int) -> dict[str, Any]:
    """Train one candidate in this process and return its best epoch's validation figures."""
    features = extract_features(corpus, config.features, store, num_processes=os.cpu_count() or 1)
    training = config.training.model_copy(update={"seed": seed})
    request = TrainingRequest(
        features=features, store_url=store.url, model=config.detector, training=training
    )
    kept = Kept()
    started_s = time.perf_counter()
    train(request, Ranks(), kept)
    best = max(kept.epochs, key=lambda record: record.score)
    return {
        "seconds": round(time.perf_counter() - started_s, 1),
        "best_score": best.score,
        **best.validation,
        "parameters": count_parameters(build_detector(config.detector, config.features.num_mels)),
    }


def main() -> None:
    """Measure every candidate with every seed; the file is rewritten after each, so that nothing is lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--config", default="builtin")
    parser.add_argument("--recordings")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    store, base = Store(arguments.store), RunConfig.load(arguments.config)
    corpus = build_corpus(base.corpus, store, arguments.recordings)
    rows: list[dict[str, Any]] = []
    for (scale, (mels, frames)), seed in product(candidates(), arguments.seeds):
        overrides = [f"features.scale={scale}", f"training.epochs={arguments.epochs}"]
        overrides += [f"detector.patch_mels={mels}", f"detector.patch_frames={frames}"]
        config = base.with_overrides(overrides)
        assert isinstance(config.detector, VisionMambaConfig)
        figures = measure(config, corpus, store, seed)
        named = {
            "scale": scale,
            "num_mels": config.features.num_mels,
            "patch_mels": mels,
            "patch_frames": frames,
        }
        rows.append({**named, "seed": seed, **figures})
        say(json.dumps(rows[-1]))
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
