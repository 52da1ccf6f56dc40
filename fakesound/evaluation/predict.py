"""Run a detector over clips: one row of scores for each view that a clip is in.

Shapes: B batch, F frames, M mels.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from fakesound.corpora.protocol import Roles
from fakesound.corpora.views import VIEWS, view_rows
from fakesound.features.reader import FeatureSet
from fakesound.models.detector import Detector

_POOL_BATCHES = 8  # clips sorted by length at a time: enough for little padding, little memory


@dataclass(frozen=True)
class ClipFeatures:
    """One clip to score: its id, features (F, M) as the front end makes them, and labels (F,), 1 = forged."""

    clip_id: str
    features: NDArray[np.float16]
    frame_labels: NDArray[np.uint8]


def predict_views(
    detector: Detector,
    features: FeatureSet,
    roles: Roles,
    *,
    views: Sequence[str] = VIEWS,
    device: str = "cpu",
    batch_clips: int = 16,
) -> pa.Table:
    """Score the clips of these views of a corpus, with these roles of the families.

    Returns:
        as `predict_clips`; a view without clips has no rows.

    Raises:
        UserError: no such view, or the detector returns what is not a number.
    """
    rows = {view: view_rows(features.table, view, roles) for view in views}
    wanted = sorted({row for table in rows.values() for row in table["row"].to_pylist()})
    clips = _stored_clips(features, wanted, batch_clips)
    return predict_clips(
        detector, clips, views=rows, hop_s=features.config.hop_s, device=device, batch_clips=batch_clips
    )


def predict_clips(
    detector: Detector,
    clips: Iterable[ClipFeatures],
    *,
    views: Mapping[str, pa.Table],
    hop_s: float,
    device: str = "cpu",
    batch_clips: int = 16,
) -> pa.Table:
    """Score each clip once, and write a row for every view that lists it.

    Args:
        detector: moved to `device`, put into eval mode.
        clips: read once, a pool of batches in memory at a time; batches hold clips of similar length.
        views: view -> its rows, with the manifest's columns (a source component may differ between views).
            Clips in no view are skipped.
        hop_s: s from frame to frame.
        device: a torch device.
        batch_clips: B.

    Returns:
        a table of `schemas.PREDICTIONS`; scores are probabilities (sigmoid of the logits).

    Raises:
        UserError: a view lists a clip that did not come, or the detector returns what is not a number.
    """
    rows_of_clip = _rows_by_clip(views)
    wanted = (clip for clip in clips if clip.clip_id in rows_of_clip)
    detector.to(device).eval()
    columns: dict[str, list[Any]] = {name: [] for name in PREDICTIONS.names}
    num_batches = -(-len(rows_of_clip) // batch_clips)
    for batch in track(_batches(wanted, batch_clips), "scoring", num_batches):
        for clip, score, frame_scores in _score(detector, batch, device):
            for view, row in rows_of_clip.pop(clip.clip_id):
                values = row | {"score": score, "hop_s": hop_s, "split": view}
                values |= {"frame_labels": clip.frame_labels, "frame_scores": frame_scores}
                for name, column in columns.items():
                    column.append(values[name])
    if rows_of_clip:
        raise UserError(
            f"{len(rows_of_clip)} clips of the views have no features, such as {min(rows_of_clip)}"
        )
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


def _rows_by_clip(views: Mapping[str, pa.Table]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Clip -> each view that lists it, with what predictions keep of its row there."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for view, rows in views.items():
        for row in rows.select(["clip_id", "label", "family", "source_component"]).to_pylist():
            kept = row | {"source": row["source_component"]}
            found.setdefault(row["clip_id"], []).append((view, kept))
    return found


def _stored_clips(features: FeatureSet, rows: Sequence[int], batch_clips: int) -> Iterator[ClipFeatures]:
    """These rows, ascending, a batch in memory at a time."""
    for start in range(0, len(rows), batch_clips):
        part = rows[start : start + batch_clips]
        clip_ids = features.table["clip_id"].take(pa.array(part)).to_pylist()
        loaded = zip(clip_ids, features.load(part), features.frame_labels(part), strict=True)
        yield from (ClipFeatures(*clip) for clip in loaded)


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
