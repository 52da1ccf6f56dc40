"""A corpus with a million manifest rows: opened, checked for leakage, filtered into views, split.

    python benchmarks/manifest.py --json manifest.json [--rows 1000000] [--repeats 3]

Made-up rows: four clips a source, every fortieth a splice with a donor from the same partition.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from fakesound.core.schemas import MANIFEST, PARTITIONS
from fakesound.core.store import Place, Store
from fakesound.corpora.config import Protocol, Shares
from fakesound.corpora.leakage import check_manifest
from fakesound.corpora.manifest import MANIFEST_NAME, read_manifest, write_table
from fakesound.corpora.partition import partition_components
from fakesound.corpora.views import VIEWS, partition_rows, view_rows

CLIPS_PER_SOURCE = 4
SPLICE_EVERY = 40


def made_up_manifest(num_rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    row = np.arange(num_rows)
    source = row // CLIPS_PER_SOURCE
    partition_of = np.sort(rng.integers(0, len(PARTITIONS), source[-1] + 1))
    first, after = (np.searchsorted(partition_of, partition_of[source], side) for side in ("left", "right"))
    donor = rng.integers(first, after)
    is_splice = row % SPLICE_EVERY == SPLICE_EVERY - 1
    heard = np.column_stack([source, donor])[np.column_stack([np.full(num_rows, True), is_splice])]
    offsets = np.concatenate([[0], np.cumsum(1 + is_splice)]).astype(np.int32)
    families = np.array(["genuine", "griffin_lim", "genuine", "noise_vocoder"])[row % CLIPS_PER_SOURCE]
    families[is_splice] = "splice"
    no_regions = pa.ListArray.from_arrays(
        np.zeros(num_rows + 1, np.int32), pa.array([], MANIFEST.field("regions").type.value_type)
    )
    names = numbered("recording", source)
    special = {
        "clip_id": numbered("clip", row),
        "source_ids": pa.ListArray.from_arrays(offsets, numbered("recording", heard)),
        "source_component": names,
        "group": names,
        "mask_id": numbered("mask", row // 2),
        "partition": pa.array(np.array(PARTITIONS)[partition_of[source]].tolist()),
        "family": pa.array(families.tolist()),
        "length_regime": pa.array(np.array(["train", "train", "wide", "wide"])[row % 4].tolist()),
        "regions": no_regions,
        "control_regions": no_regions,
    }
    columns = [special[f.name] if f.name in special else filled(f.type, num_rows) for f in MANIFEST]
    return pa.table(columns, schema=MANIFEST)


def numbered(word: str, numbers: np.ndarray) -> pa.Array:
    return pa.array([f"{word}-{number:08d}" for number in numbers.tolist()])


def filled(kind: pa.DataType, num_rows: int) -> pa.Array:
    return pa.array(["0" * 64] * num_rows) if kind == pa.string() else pa.array(np.ones(num_rows)).cast(kind)


def steps(corpus: Place) -> dict[str, Callable[[], object]]:
    table = read_manifest(corpus)
    protocol = Protocol().model_dump()

    def into_views() -> list[pa.Table]:
        return [
            partition_rows(table, "train", protocol),
            *(view_rows(table, view, protocol) for view in VIEWS),
        ]

    seconds_of = dict.fromkeys(table["source_component"].unique().to_pylist(), 10.0)
    return {
        "open": lambda: read_manifest(corpus),
        "check for leakage": lambda: check_manifest(table),
        "filter into views": into_views,
        "split sources": lambda: partition_components(seconds_of, Shares(), seed=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where to write the seconds")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Store(folder).place("corpora", "made-up")
        write_table(corpus, MANIFEST_NAME, made_up_manifest(arguments.rows))
        corpus.complete({})
        for name, step in steps(corpus).items():
            for _ in range(arguments.repeats):
                started_s = time.perf_counter()
                step()
                seconds.setdefault(name, []).append(time.perf_counter() - started_s)
            print(f"{name:20} {statistics.median(seconds[name]):6.2f} s", flush=True)
    result = {"rows": arguments.rows, "machine": platform.machine(), "seconds": seconds}
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
