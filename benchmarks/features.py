"""The front end against torchaudio and librosa, the road from files to features, and reading them back.

    python benchmarks/features.py --json features.json [--clips 2048] [--rows 50000] [--repeats 5]

One thread a process, ten-second clips of made-up sound at 32 kHz, the default front end. Contenders take
turns, so that whatever else the machine does falls on all of them; their error is against torchaudio in
double precision. What is printed are medians (and extremes); the JSON has every run.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import librosa
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
import torchaudio
from numpy.typing import NDArray
from scipy.signal import lfilter
from threadpoolctl import threadpool_limits

from fakesound.core.audio import write_flac
from fakesound.core.schemas import MANIFEST
from fakesound.core.store import Pointer, Store
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features
from fakesound.features.logmel import LogMel
from fakesound.features.reader import FeatureSet
from fakesound.training.data import ClipBank, collate, plan_epoch

CONFIG = FeatureConfig()
CLIP_S = 10
DISTINCT = 64  # recordings; a corpus lists them again and again
BATCH_CLIPS = 16
Row = dict[str, Any]
Key = TypeVar("Key")


def draw_clips(num_clips: int) -> NDArray[np.float32]:
    """(num_clips, samples): noise that falls with frequency and swells a few times a second."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (num_clips, CLIP_S * CONFIG.sample_rate_hz))
    seconds = np.arange(noise.shape[1]) / CONFIG.sample_rate_hz
    swell = 0.55 + 0.45 * np.sin(2 * np.pi * np.outer(rng.uniform(0.5, 4, num_clips), seconds))
    return np.asarray(lfilter([1.0], [1.0, -0.95], noise * swell), dtype=np.float32)


def write_corpus(store: Store, clips: NDArray[np.float32], num_clips: int) -> Pointer:
    place = store.place("corpora", f"made-up-{num_clips}")
    for k, clip in enumerate(clips):
        with place.writing(f"audio/{k:03d}.flac") as path:
            write_flac(path, clip, CONFIG.sample_rate_hz)
    rows = [
        {
            **dict.fromkeys(MANIFEST.names, ""),
            "clip_id": f"clip-{k:07d}",
            "path": f"audio/{k % len(clips):03d}.flac",
            "source_ids": [f"{k}"],
            "partition": "train",
            "family": ("genuine", "made_up")[k % 2],
            "label": k % 2,
            "regions": [{"onset_s": 2.0, "offset_s": 3.5}] * (k % 2),
            "control_regions": [],
            "duration_s": float(CLIP_S),
            "sample_rate_hz": CONFIG.sample_rate_hz,
            "native_sample_rate_hz": CONFIG.sample_rate_hz,
            "native_bandwidth_hz": CONFIG.sample_rate_hz / 2,
            "seed": k,
        }
        for k in range(num_clips)
    ]
    with place.writing("manifest.parquet") as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST), path)
    return place.complete({"protocol": {"seen": ["made_up"], "validation_unseen": []}})


class Runs(NamedTuple):
    """Seconds of every run of a call: of the clock, and of all cores that this and its processes used."""

    wall_s: list[float]
    core_s: list[float]

    def row(self, part: str, what: str, num_clips: int, **figures: float) -> Row:
        """What is told of these runs, each over `num_clips` clips."""
        return {
            "part": part,
            "what": what,
            "clips_per_s": [num_clips / run_s for run_s in self.wall_s],
            "hours_per_core_hour": [num_clips * CLIP_S / run_s for run_s in self.core_s],
            **figures,
        }


def in_turn(calls: Mapping[Key, Callable[[], object]], repeats: int) -> dict[Key, Runs]:
    """Every call `repeats` times, after once that is not counted."""
    found = {name: Runs([], []) for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            wall_s, core_s = time.perf_counter(), used_core_s()
            call()
            if turn:
                found[name].wall_s.append(time.perf_counter() - wall_s)
                found[name].core_s.append(used_core_s() - core_s)
    return found


def used_core_s() -> float:
    """Of this process and those that it started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def mel_contenders(clips: NDArray[np.float32]) -> dict[str, Callable[[int], Any]]:
    """Mel power (M, F) of a clip by number, with the windows where fakesound has them."""
    lead = (CONFIG.n_fft - CONFIG.hop_samples) // 2
    padded = np.pad(clips, ((0, 0), (lead, lead)))
    ours = LogMel(CONFIG.model_copy(update={"scale": "power"}))
    theirs = torchaudio_mel()
    return {
        "fakesound": lambda k: ours(torch.from_numpy(clips[k : k + 1]))[0].T,
        "torchaudio": lambda k: theirs(torch.from_numpy(padded[k : k + 1]))[0],
        "librosa": lambda k: librosa.feature.melspectrogram(
            y=padded[k],
            sr=CONFIG.sample_rate_hz,
            n_fft=CONFIG.n_fft,
            hop_length=CONFIG.hop_samples,
            n_mels=CONFIG.num_mels,
            fmax=CONFIG.top_hz,
            center=False,
            htk=True,
            norm="slaney",
        ),
        "double": lambda k: torchaudio_mel().double()(torch.from_numpy(padded[k : k + 1]).double())[0],
    }


def torchaudio_mel() -> torchaudio.transforms.MelSpectrogram:
    return torchaudio.transforms.MelSpectrogram(
        CONFIG.sample_rate_hz,
        n_fft=CONFIG.n_fft,
        hop_length=CONFIG.hop_samples,
        n_mels=CONFIG.num_mels,
        norm="slaney",
        mel_scale="htk",
        center=False,
    )


def measure_mels(clips: NDArray[np.float32], repeats: int) -> list[Row]:
    contenders = mel_contenders(clips)
    exact = np.asarray(contenders.pop("double")(0))
    errors = {
        name: float(np.max(np.abs(np.asarray(mel(0)) - exact) / exact)) for name, mel in contenders.items()
    }
    calls = {name: lambda mel=mel: [mel(k) for k in range(len(clips))] for name, mel in contenders.items()}
    return [
        runs.row("mel power", name, len(clips), largest_relative_error=errors[name])
        for name, runs in in_turn(calls, repeats).items()
    ]


def measure_road(corpus: Pointer, folder: Path, num_clips: int, repeats: int) -> tuple[list[Row], Pointer]:
    """Decode, mel, Parquet, marker; in one process and in two, their start included."""
    turn = iter(range(1000))

    def extract(num_processes: int) -> Pointer:
        store = Store(str(folder / f"features-{num_processes}-{next(turn)}"))
        return extract_features(corpus, CONFIG, store, num_processes)

    pointer = extract(1)
    num_bytes = sum(listed["bytes"] for listed in pointer.open().marker["files"].values())
    found = in_turn({n: lambda n=n: extract(n) for n in (1, 2)}, repeats)
    bytes_per_clip = num_bytes / num_clips
    return [
        runs.row("files to features", f"in {n} processes", num_clips, bytes_per_clip=bytes_per_clip)
        for n, runs in found.items()
    ], pointer


def measure_reading(corpus: Pointer, features: FeatureSet, repeats: int) -> list[Row]:
    rng = np.random.default_rng(0)
    some = np.arange(min(len(features), 512))
    scattered = rng.permutation(len(features))[:64]
    place, extractor = corpus.open(), LogMel(CONFIG)

    def compute_again() -> None:
        for path in features.table["path"].take(pa.array(some[:64])).to_pylist():
            samples, _ = soundfile.read(place.local_path(path), dtype="float32")
            extractor(torch.from_numpy(samples)[None])[0].numpy().astype(np.float16)

    calls = {
        "stored, in order": (lambda: features.load(some), len(some)),
        "stored, one clip here, one there": (lambda: [features.load([k]) for k in scattered], len(scattered)),
        "computed again from files": (compute_again, 64),
    }
    found = in_turn({name: call for name, (call, _) in calls.items()}, repeats)
    return [runs.row("reading", name, calls[name][1]) for name, runs in found.items()]


def repeated(features: Pointer, num_rows: int, store: Store) -> Pointer:
    """Features of `num_rows` clips whose shards are links to the first shard of these."""
    origin = features.open()
    place = store.place("features", f"repeated-{num_rows}")
    first = origin.local_path(sorted(origin.marker["files"])[0])
    num_shards = num_rows // pq.read_metadata(first).num_rows
    target = place.local_path("shard-00000.parquet").parent
    target.mkdir(parents=True)
    for k in range(num_shards):
        os.link(first, target / f"shard-{k:05d}.parquet")
    return place.complete(origin.metadata)


def read_an_epoch(pointer: Pointer) -> Row:
    """All batches of one epoch, as the only process of a training makes them; in a process of its own."""
    torch.set_num_threads(1)
    started_s = time.perf_counter()
    features = FeatureSet.open(pointer)
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    open_s, opened_mib = time.perf_counter() - started_s, peak_mib()

    def all_batches() -> None:
        plan = plan_epoch(bank.num_frames, bank.row_groups, batch_clips=BATCH_CLIPS, seed=0, epoch=0)
        if sum(len(collate(bank, step).mask_BF) for step in bank.at_hand(plan)) != len(bank):
            raise SystemExit("an epoch must have every clip once")

    return in_turn({"epoch": all_batches}, 1)["epoch"].row(
        "an epoch's batches",
        f"{len(bank)} clips",
        len(bank),
        open_s=open_s,
        opened_mib=opened_mib,
        peak_mib=peak_mib(),
        all_in_memory_mib=bank.starts[-1] * CONFIG.num_mels * 2 / 2**20,
    )


def peak_mib() -> float:
    """Largest resident memory so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def described(row: Row) -> str:
    runs = row["clips_per_s"]
    text = f"{row['part']:18} {row['what']:32} {statistics.median(runs):7.1f} clips/s"
    text += (
        f" ({min(runs):.1f}-{max(runs):.1f}), {statistics.median(row['hours_per_core_hour']):.0f} h/core-hour"
    )
    rest = list(row)[4:]
    return text + "".join(f", {key} {row[key]:.4g}" for key in rest)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where to write the rows")
    parser.add_argument("--clips", type=int, default=2048, help="of the corpus")
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 50_000], help="of the epochs")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []

    def tell(found: list[Row]) -> None:
        for row in found:
            print(described(row), flush=True)
        rows.extend(found)

    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with threadpool_limits(1), torch.inference_mode(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(name)
        clips = draw_clips(DISTINCT)
        tell(measure_mels(clips[:16], arguments.repeats))
        corpus = write_corpus(store, clips, arguments.clips)
        found, pointer = measure_road(corpus, folder, arguments.clips, arguments.repeats)
        tell(found)
        tell(measure_reading(corpus, FeatureSet.open(pointer), arguments.repeats))
        for num_rows in arguments.rows:
            with get_context("spawn").Pool(1) as pool:
                tell([pool.apply(read_an_epoch, (repeated(pointer, num_rows, store),))])
    facts = {"cores": os.cpu_count(), "load": os.getloadavg(), "torch": torch.__version__, "rows": rows}
    arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
