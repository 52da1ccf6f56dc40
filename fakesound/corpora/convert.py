"""An imported manifest as a corpus in the store: decoded, mixed down, 32 kHz, clips of at most ten seconds.

A longer recording is cut into equal parts and its regions are cut along; a part without a forged stretch is
a genuine clip, and a silent part is refused. Audio is read a part at a time, so memory does not follow a
file's length.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fakesound.core.audio import (
    AudioError,
    FloatArray,
    is_silent_flac,
    iter_mono,
    probe,
    resample,
    write_flac,
)
from fakesound.core.config import digest_of
from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.parallel import map_parallel
from fakesound.core.schemas import GENUINE
from fakesound.core.store import Place, Pointer, Store, sha256_of
from fakesound.corpora.imported import is_unaltered, protocol_of, read_imported
from fakesound.corpora.ingest import Rejection, native_bandwidth_hz
from fakesound.corpora.leakage import check_manifest
from fakesound.corpora.manifest import counts_of, manifest_table, write_tables
from fakesound.corpora.polarity import check_polarity
from fakesound.corpora.sound import TARGET_RATE_HZ

CONVERT_VERSION = 2  # raise it when code changes what a converted corpus holds
CLIP_S = 10.0
LEAST_REGION_S = 0.01  # what a cut leaves of a region must fill a frame to be labelled

_Row = dict[str, Any]


def convert_manifest(manifest: str | Path, store: Store, *, jobs: int | None = None) -> Pointer:
    """Make a corpus of an imported manifest, or find it made.

    Raises:
        UserError: a source is in two partitions, labels contradict themselves, no view has both classes, or
            no file can be decoded. IntegrityError: the manifest is damaged, or audio was altered since.
    """
    table, facts = read_imported(manifest)
    check_manifest(table)
    check_polarity(table)
    if not facts["protocol"]["views"]:
        raise UserError(
            f"{manifest}: neither validation nor test holds both genuine and forged clips; give the "
            "recordings that the dataset builds on with --genuine when importing it"
        )
    rows = table.to_pylist()
    place = store.place("corpora", _key(rows, facts))
    if place.is_complete():
        return place.pointer()
    made: list[_Row] = []
    refused: list[Rejection] = []
    for parts, rejections in map_parallel(
        partial(_convert, place.uri), rows, description="converting", jobs=jobs
    ):
        made += parts
        refused += rejections
    if not made:
        raise UserError(f"none of {len(rows)} clips can be used: {refused[0].source_id}: {refused[0].reason}")
    converted = manifest_table(made)
    write_tables(place, converted, refused)
    return place.complete(
        {
            "description": f"imported from {facts['format']}",
            "import": {name: facts[name] for name in ("format", "seed")},
            "protocol": protocol_of(converted, facts["trained_families"]),
            "counts": counts_of(converted) | {"rejects": len(refused)},
            "sample_rate_hz": TARGET_RATE_HZ,
        }
    )


def _key(rows: Sequence[_Row], facts: Mapping[str, Any]) -> str:
    """Determined by what was imported, not by where it lies."""
    kept = [{name: value for name, value in row.items() if name != "path"} for row in rows]
    origin = {name: facts[name] for name in ("format", "trained_families")}
    return digest_of({"convert": CONVERT_VERSION, "origin": origin, "rows": kept})


def _convert(place_uri: str, row: _Row) -> tuple[list[_Row], list[Rejection]]:
    """Write every part of one recording that is not silent; in a process of its own.

    Raises:
        IntegrityError: it is no longer what was imported, and the corpus would not be what its key says.
    """
    place = Place(place_uri)
    if not is_unaltered(row["path"], row["content_sha256"]):
        raise IntegrityError(f"{row['path']} is missing or altered since it was imported; import it again")
    made: list[_Row] = []
    refused: list[Rejection] = []
    try:
        for number, part in enumerate(_parts(Path(row["path"]))):
            written = _write_part(place, row, number, part)
            if isinstance(written, Rejection):
                refused.append(written)
            else:
                made.append(written)
    except AudioError as error:  # at the end, perhaps: no corpus may hold half a recording
        for clip in made:
            place.remove(clip["path"])
        return [], [Rejection(row["clip_id"], str(error))]
    return made, refused


@dataclass(frozen=True)
class _Part:
    """A stretch of a recording: where it starts, and its samples at the recording's rate."""

    onset_s: float
    samples: FloatArray
    rate_hz: int


def _parts(path: Path) -> Iterator[_Part]:
    """The equal parts of a recording, each of at most ten seconds."""
    info = probe(path)
    part_frames = math.ceil(info.num_frames / math.ceil(info.duration_s / CLIP_S))
    done = 0
    for samples, rate_hz in iter_mono(path, (part_frames + 0.5) / info.sample_rate_hz):
        yield _Part(done / rate_hz, samples, rate_hz)
        done += len(samples)


def _write_part(place: Place, row: _Row, number: int, part: _Part) -> _Row | Rejection:
    within_scale = part.samples / max(1.0, float(np.abs(part.samples).max()))
    resampled = resample(within_scale, part.rate_hz, TARGET_RATE_HZ)
    if is_silent_flac(resampled):
        offset_s = part.onset_s + len(part.samples) / part.rate_hz
        return Rejection(row["clip_id"], f"silence from {part.onset_s:.2f} to {offset_s:.2f} s")
    name = f"audio/{digest_of([row['clip_id'], number])}.flac"
    with place.writing(name) as path:
        write_flac(path, resampled, TARGET_RATE_HZ)
    duration_s = len(resampled) / TARGET_RATE_HZ
    regions = _cut(row["regions"], part.onset_s, duration_s)
    is_forged = bool(regions)
    return row | {
        "clip_id": f"{row['clip_id']}#{number}",
        "path": name,
        "family": row["family"] if is_forged else GENUINE,
        "mechanism": row["mechanism"] if is_forged else GENUINE,
        "label": int(is_forged),
        "mask_id": digest_of([row["mask_id"], number]),
        "regions": regions,
        "duration_s": duration_s,
        "sample_rate_hz": TARGET_RATE_HZ,
        "native_bandwidth_hz": native_bandwidth_hz(part.samples, part.rate_hz),
        "content_sha256": sha256_of(place.local_path(name)),
    }


def _cut(regions: Sequence[dict[str, float]], onset_s: float, duration_s: float) -> list[dict[str, float]]:
    """What of the regions lies in the part, in seconds from its start."""
    within = [
        (max(0.0, region["onset_s"] - onset_s), min(duration_s, region["offset_s"] - onset_s))
        for region in regions
    ]
    whole = [region["offset_s"] - region["onset_s"] for region in regions]
    return [
        {"onset_s": first, "offset_s": last}
        for (first, last), length_s in zip(within, whole, strict=True)
        if last > first and last - first >= min(LEAST_REGION_S, length_s)
    ]
