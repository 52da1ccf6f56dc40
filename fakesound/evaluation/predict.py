"""Run a detector over clips: one row of scores for each view that a clip is in.

Shapes: B batch, F frames, M mels.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from fakesound.core.errors import UserError
from fakesound.core.progress import track
from fakesound.core.schemas import PREDICTIONS, check_schema
from fakesound.features.reader import FeatureSet
from fakesound.models.detector import Detector

_POOL_BATCHES = 8  # clips sorted by length at a time: enough for little padding, little memory


@dataclass(frozen=True)
class ClipFeatures:
    """One clip to score.

    Attributes:
        clip_id: unique.
        features: (F, M) as the front end makes them.
        frame_labels: (F,) 1 = forged.
        metadata: manifest columns of the clip: label, family, source_component; and hop_s.
    """

    clip_id: str
    features: NDArray[np.float16]
    frame_labels: NDArray[np.uint8]
    metadata: Mapping[str, Any]


def read_clips(
    features: FeatureSet, clip_ids: Collection[str], batch_clips: int = 64
) -> Iterator[ClipFeatures]:
    """These clips, in the order in which they are stored; a batch of them in memory.

    Raises:
        UserError: a clip is not among the features.
    """
    table = features.rows(clip_ids=clip_ids)
    missing = set(clip_ids) - set(table["clip_id"].to_pylist())
    if missing:
        raise UserError(
            f"{len(missing)} clips have no features, {min(missing)} among them: extract them again"
        )
    for start in range(0, table.num_rows, batch_clips):
        part = table.slice(start, batch_clips)
        rows = part["row"].to_pylist()
        loaded = zip(part.to_pylist(), features.load(rows), features.frame_labels(rows), strict=True)
        for metadata, values, labels in loaded:
            yield ClipFeatures(metadata["clip_id"], values, labels, metadata)


def predict_clips(
    detector: Detector,
    clips: Iterable[ClipFeatures],
    *,
    views: Mapping[str, Collection[str]],
    device: str = "cpu",
    batch_clips: int = 16,
) -> pa.Table:
    """Score each clip once, and write a row for every view that lists it.

    Args:
        detector: moved to `device`, put into eval mode.
        clips: read once, a pool of batches in memory at a time; batches hold clips of similar length.
        views: view -> clip ids; clips in no view are skipped.
        device: a torch device.
        batch_clips: B.

    Returns:
        a table of `schemas.PREDICTIONS`; scores are probabilities (sigmoid of the logits).

    Raises:
        UserError: a view lists a clip that did not come, or the detector returns what is not a number.
    """
    views_of_clip: dict[str, list[str]] = {}
    for view, clip_ids in views.items():
        for clip_id in clip_ids:
            views_of_clip.setdefault(clip_id, []).append(view)
    wanted = (clip for clip in clips if clip.clip_id in views_of_clip)
    detector.to(device).eval()
    columns: dict[str, list[Any]] = {name: [] for name in PREDICTIONS.names}
    seen: set[str] = set()
    for batch in track(
        _batches(wanted, batch_clips), "scoring", _num_batches(len(views_of_clip), batch_clips)
    ):
        for clip, score, frame_scores in _score(detector, batch, device):
            seen.add(clip.clip_id)
            for view in views_of_clip[clip.clip_id]:
                _append_row(columns, clip, view=view, score=score, frame_scores=frame_scores)
    if absent := views_of_clip.keys() - seen:
        raise UserError(f"{len(absent)} clips of the views have no features, {min(absent)} among them")
    return pa.table(columns, schema=PREDICTIONS)


def write_predictions(path: Path, table: pa.Table) -> None:
    """Write a predictions table as Parquet (zstd)."""
    pq.write_table(table, path, compression="zstd")


def read_predictions(path: Path) -> pa.Table:
    """Read a predictions table.

    Raises:
        IntegrityError: it is of another schema.
    """
    table = pq.read_table(path)
    check_schema(table.schema, PREDICTIONS, str(path))
    return table


def _batches(clips: Iterator[ClipFeatures], batch_clips: int) -> Iterator[list[ClipFeatures]]:
    while pool := list(islice(clips, batch_clips * _POOL_BATCHES)):
        pool.sort(key=lambda clip: (len(clip.features), clip.clip_id))
        for start in range(0, len(pool), batch_clips):
            yield pool[start : start + batch_clips]


def _num_batches(num_clips: int, batch_clips: int) -> int:
    return -(-num_clips // batch_clips)


@torch.inference_mode()
def _score(
    detector: Detector, batch: Sequence[ClipFeatures], device: str
) -> Iterator[tuple[ClipFeatures, float, NDArray[np.float32]]]:
    lengths = torch.tensor([len(clip.features) for clip in batch])
    features_BFM = torch.zeros(len(batch), int(lengths.max()), batch[0].features.shape[1])
    for row, clip in enumerate(batch):
        features_BFM[row, : len(clip.features)] = torch.from_numpy(clip.features.astype(np.float32))
    mask_BF = torch.arange(features_BFM.shape[1]) < lengths[:, None]
    clip_logits_B, frame_logits_BF = detector(features_BFM.to(device), mask_BF.to(device))
    clip_scores = torch.sigmoid(clip_logits_B.double()).cpu().numpy()
    frame_scores = torch.sigmoid(frame_logits_BF.float()).cpu().numpy()
    for row, clip in enumerate(batch):
        scores = frame_scores[row, : len(clip.features)]
        if not (np.isfinite(clip_scores[row]) and np.isfinite(scores).all()):
            raise UserError(
                f"the detector has no score for clip {clip.clip_id} (not a number): train it again"
            )
        yield clip, float(clip_scores[row]), scores


def _append_row(
    columns: dict[str, list[Any]],
    clip: ClipFeatures,
    *,
    view: str,
    score: float,
    frame_scores: NDArray[np.float32],
) -> None:
    row = {
        "clip_id": clip.clip_id,
        "label": clip.metadata["label"],
        "score": score,
        "hop_s": clip.metadata["hop_s"],
        "frame_labels": clip.frame_labels,
        "frame_scores": frame_scores,
        "split": view,
        "family": clip.metadata["family"],
        "source": clip.metadata["source_component"],
    }
    for name, value in row.items():
        columns[name].append(value)
