"""Features of a whole corpus as sharded Parquet: each shard is written by itself, whole or not at all."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from numpy.typing import NDArray

from fakesound.core.config import digest_of
from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.parallel import map_parallel
from fakesound.core.regions import Region, frame_labels
from fakesound.core.schemas import MANIFEST, check_schema, features_schema
from fakesound.core.store import Place, Pointer, Store
from fakesound.features.column import COLUMN_ENCODING, column_of
from fakesound.features.config import CONFIG_KEY, DIGEST_KEY, FEATURES_VERSION, FeatureConfig
from fakesound.features.logmel import LogMel

CLIPS_PER_SHARD = 512
MIN_SHARDS = 4  # so that a small corpus still keeps a few processes busy
CLIPS_WORTH_A_PROCESS = 256  # a process takes as long to start, importing torch, as to extract so many
CLIPS_PER_ROW_GROUP = 32  # the unit of random access: about 8 MB of ten-second clips at 128 mels


def features_place(corpus: Pointer, config: FeatureConfig, store: Store) -> Place:
    """Where the features of this corpus, under this config, belong."""
    return store.place("features", digest_of([corpus.digest, config.digest(), FEATURES_VERSION]))


def plan_shards(corpus: Pointer, config: FeatureConfig, store: Store) -> int:
    """How many shards there are to write: fixed by the number of clips, not by this machine.

    Raises:
        UserError: the corpus is unfinished, changed or empty.
    """
    place = features_place(corpus, config, store)
    if place.is_complete():
        return int(place.metadata["num_shards"])
    num_clips = _manifest(corpus.open()).num_rows
    if not num_clips:
        raise UserError(f"the corpus {corpus.uri} has no clips: nothing to extract features from")
    return min(num_clips, max(MIN_SHARDS, -(-num_clips // CLIPS_PER_SHARD)))


def write_shard(corpus: Pointer, config: FeatureConfig, store: Store, shard: int) -> None:
    """Write one shard, unless a whole one is there. Any number of these may run at once.

    Raises:
        UserError: `shard` is not among the planned, or a clip is not what the manifest says.
    """
    num_shards = plan_shards(corpus, config, store)
    if not 0 <= shard < num_shards:
        raise UserError(f"shard {shard} of {num_shards}: there is no such shard")
    place = features_place(corpus, config, store)
    name = shard_name(shard, num_shards)
    if _is_written(place, name, config):
        return
    audio = corpus.open()
    manifest = _manifest(audio)
    first, last = (manifest.num_rows * k // num_shards for k in (shard, shard + 1))
    schema = features_schema(config.num_mels, _schema_metadata(corpus, config))
    with (
        _one_thread(),
        place.writing(name) as path,
        pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            use_dictionary=False,
            column_encoding=COLUMN_ENCODING,
        ) as writer,
    ):
        extractor = LogMel(config)
        for start in range(first, last, CLIPS_PER_ROW_GROUP):
            rows = manifest.slice(start, min(CLIPS_PER_ROW_GROUP, last - start))
            writer.write_table(_with_features(rows, audio, extractor, schema))


def finish_features(corpus: Pointer, config: FeatureConfig, store: Store) -> Pointer:
    """Declare the features whole, once every shard is there.

    Raises:
        IntegrityError: a shard is missing or was written under another config.
    """
    place = features_place(corpus, config, store)
    if place.is_complete():
        return place.pointer()
    num_shards = plan_shards(corpus, config, store)
    names = [shard_name(shard, num_shards) for shard in range(num_shards)]
    missing = [name for name in names if not _is_written(place, name, config)]
    if missing:
        raise IntegrityError(f"{place.uri} lacks {', '.join(missing)}: run `fakesound features` again")
    return place.complete(
        {
            "features_config": config.model_dump(mode="json"),
            "features_digest": config.digest(),
            "corpus": asdict(corpus),
            "protocol": corpus.open().metadata.get("protocol"),
            "num_clips": sum(pq.read_metadata(place.local_path(name)).num_rows for name in names),
            "num_shards": num_shards,
        }
    )


def extract_features(corpus: Pointer, config: FeatureConfig, store: Store, num_processes: int = 1) -> Pointer:
    """Every shard that is missing, `num_processes` at a time, then the pointer to the whole.

    Raises:
        UserError: as `write_shard`; or a process was killed.
    """
    place = features_place(corpus, config, store)
    if place.is_complete():
        return place.pointer()
    num_shards = plan_shards(corpus, config, store)
    missing = [k for k in range(num_shards) if not _is_written(place, shard_name(k, num_shards), config)]
    clips_per_shard = _manifest(corpus.open()).num_rows / num_shards
    for _ in map_parallel(
        partial(write_shard, corpus, config, store),
        missing,
        description="features, shards",
        jobs=num_processes,
        min_items_per_process=math.ceil(CLIPS_WORTH_A_PROCESS / clips_per_shard),
    ):
        pass
    return finish_features(corpus, config, store)


def shard_name(shard: int, num_shards: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:05d}-of-{num_shards:05d}.parquet"


def _manifest(corpus: Place) -> pa.Table:
    path = corpus.checked_path("manifest.parquet")
    table = pq.read_table(path)
    check_schema(table.schema, MANIFEST, str(path))
    return table


def _schema_metadata(corpus: Pointer, config: FeatureConfig) -> dict[str, str]:
    return {
        CONFIG_KEY.decode(): json.dumps(config.model_dump(mode="json"), sort_keys=True),
        DIGEST_KEY.decode(): config.digest(),
        "features_version": str(FEATURES_VERSION),
        "corpus_digest": corpus.digest,
        "units": "ln(mel power + log_floor)" if config.scale == "log" else "mel power",
    }


def _is_written(place: Place, name: str, config: FeatureConfig) -> bool:
    if not place.exists(name):
        return False
    try:
        metadata = pq.read_schema(place.local_path(name)).metadata or {}
    except (pa.ArrowInvalid, OSError):  # damaged after it was written: write it again
        return False
    return metadata.get(DIGEST_KEY) == config.digest().encode()


def _with_features(rows: pa.Table, corpus: Place, extractor: LogMel, schema: pa.Schema) -> pa.Table:
    config = extractor.config
    clips, labels = [], []
    for row in rows.select(["path", "regions"]).to_pylist():
        clips.append(_clip_features(corpus, row["path"], extractor))
        regions = [Region(**region) for region in row["regions"]]
        labels.append(frame_labels(regions, len(clips[-1]), config.hop_samples, config.sample_rate_hz))
    columns: dict[str, Any] = {name: rows.column(name) for name in rows.column_names}
    columns["hop_s"] = pa.array([config.hop_s] * len(clips), pa.float64())
    columns["features"] = column_of(clips, schema.field("features").type)
    columns["frame_labels"] = pa.array(labels, schema.field("frame_labels").type)
    return pa.table(columns, schema=schema)


def _clip_features(corpus: Place, path: str, extractor: LogMel) -> NDArray[np.float16]:
    samples, sample_rate_hz = soundfile.read(str(corpus.checked_path(path)), dtype="float32")
    wanted_hz = extractor.config.sample_rate_hz
    if sample_rate_hz != wanted_hz or samples.ndim != 1 or not len(samples):
        raise UserError(
            f"{path}: {sample_rate_hz} Hz, shape {samples.shape}; the front end takes mono at {wanted_hz} Hz"
        )
    with torch.inference_mode():
        return extractor(torch.from_numpy(samples)[None])[0].numpy().astype(np.float16)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: sums in one order whatever the machine, and processes that do not fight."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
