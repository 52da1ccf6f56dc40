"""One view of a predictions table, as arrays.

Shapes: n clips, C cells of all clips.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fakesound.core.errors import UserError
from fakesound.core.schemas import GENUINE, PREDICTIONS, check_schema
from fakesound.corpora.views import VIEW_ORDER
from fakesound.metrics.segments import Cells

VALIDATION_SPLITS = ("validation", "validation_unseen")


@dataclass(frozen=True)
class View:
    """Clips of one or more splits, sorted by clip, so that the order of rows changes nothing.

    Attributes:
        clip_ids: (n,).
        labels: (n,) whether the clip is forged.
        scores: (n,) probability that it is.
        families: (n,) attack family or 'genuine'.
        sources: (n,) source component.
        frames: their frames.
        hop_s: s from frame to frame.
    """

    clip_ids: NDArray[np.str_]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    families: NDArray[np.str_]
    sources: NDArray[np.str_]
    frames: Cells
    hop_s: float

    @property
    def forged_families(self) -> list[str]:
        """Attack families present, sorted."""
        return sorted(set(self.families.tolist()) - {GENUINE})

    @property
    def forged_shares(self) -> NDArray[np.float64]:
        """(n,) share of each clip's frames that is forged."""
        num_clips = len(self.labels)
        forged = np.bincount(self.frames.clip_of_cell, self.frames.labels, num_clips)
        return forged / np.bincount(self.frames.clip_of_cell, minlength=num_clips)

    def with_forged(self, is_kept: NDArray[np.bool_]) -> "View":
        """All genuine clips, and the forged ones where `is_kept` (n,) holds."""
        return self.select(is_kept | ~self.labels)

    def select(self, is_kept: NDArray[np.bool_]) -> "View":
        """The clips where `is_kept` (n,) holds."""
        return View(
            clip_ids=self.clip_ids[is_kept],
            labels=self.labels[is_kept],
            scores=self.scores[is_kept],
            families=self.families[is_kept],
            sources=self.sources[is_kept],
            frames=self.frames.select(is_kept),
            hop_s=self.hop_s,
        )


def splits_of(table: pa.Table) -> list[str]:
    """The splits in a predictions table: the known ones in their usual order, then others by name."""
    found = set(table["split"].unique().to_pylist())
    return [split for split in VIEW_ORDER if split in found] + sorted(found - set(VIEW_ORDER))


def read_view(table: pa.Table, *splits: str) -> View:
    """The rows of `splits`.

    Raises:
        IntegrityError: the table is not one of predictions. UserError: no such rows, or several hops.
        MetricError: labels and scores of frames do not match.
    """
    check_schema(table.schema, PREDICTIONS, "predictions")
    is_wanted = np.isin(table["split"].to_pylist(), splits)
    rows = table.filter(pa.array(is_wanted)).sort_by([("split", "ascending"), ("clip_id", "ascending")])
    if not rows.num_rows:
        raise UserError(f"predictions hold no clip of {' or '.join(splits)}")
    hops_s = rows["hop_s"].unique().to_pylist()
    if len(hops_s) != 1:
        raise UserError(f"predictions mix frames of different hops: {hops_s} s")
    columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in ("label", "score")}
    return View(
        clip_ids=np.array(rows["clip_id"].to_pylist()),
        labels=columns["label"] == 1,
        scores=columns["score"].astype(np.float64),
        families=np.array(rows["family"].to_pylist()),
        sources=np.array(rows["source"].to_pylist()),
        frames=Cells.of_clips(_lists(rows["frame_labels"]), _lists(rows["frame_scores"])),
        hop_s=float(hops_s[0]),
    )


def _lists(column: pa.ChunkedArray) -> list[NDArray]:
    """Each list of the column as an array, without a Python object a value."""
    return [item.values.to_numpy() for item in column]
