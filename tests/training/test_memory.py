"""Memory of an epoch does not grow with the corpus; measured in a process of its own."""

import os
from multiprocessing import get_context
from pathlib import Path

import pytest

from fakesound.core.store import Pointer, Store
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features
from fakesound.features.reader import FeatureSet
from fakesound.training import data
from fakesound.training.data import ClipBank, collate, plan_epoch

CONFIG = FeatureConfig(sample_rate_hz=8000, n_fft=1024, hop_samples=16, num_mels=128)
WINDOW_CLIPS = 256


def peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def growth_mib(pointer: Pointer) -> tuple[float, float]:
    """How far an epoch raises the peak, and what all training features would take."""
    data.WINDOW_CLIPS = WINDOW_CLIPS
    features = FeatureSet.open(pointer)
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    before_mib, seen = peak_mib(), 0
    for step in bank.at_hand(plan_epoch(bank.num_frames, bank.row_groups, batch_clips=16, seed=0, epoch=0)):
        seen += len(collate(bank, step).mask_BF)
    assert seen == len(bank)
    return peak_mib() - before_mib, bank.starts[-1] * CONFIG.num_mels * 2 / 2**20


def repeated(features: Pointer, store: Store, num_shards: int) -> Pointer:
    """Features whose shards are links to the first shard of these."""
    origin, place = features.open(), store.place("features", f"repeated-{num_shards}")
    folder = place.local_path("x").parent
    folder.mkdir()
    for k in range(num_shards):
        os.link(origin.local_path("shard-00000-of-00004.parquet"), folder / f"shard-{k:05d}.parquet")
    return place.complete(origin.metadata)


@pytest.mark.slow
def test_an_epoch_of_four_times_the_clips_takes_the_same_memory(tmp_path, make_corpus):
    store = Store(str(tmp_path))
    features = extract_features(make_corpus(store, num_clips=256), CONFIG, store)
    found = []
    for num_shards in (32, 128):
        with get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(growth_mib, (repeated(features, store, num_shards),)))
    (growth, whole), (larger_growth, larger_whole) = found
    assert larger_whole - whole > 300
    assert larger_growth - growth < 0.2 * (larger_whole - whole), found
