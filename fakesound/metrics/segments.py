"""Localisation metrics over cells of time: 10 ms frames, or coarser cells pooled from them.

Shapes: T frames of all clips laid end to end, C cells of all clips, n clips.

The pooling rule, the same for truth and prediction: a cell is forged when any frame in it is. Cells start at
the clip's start; a clip's last cell may be shorter and counts as one. Counts are summed over all cells of all
clips before precision, recall and F1 are taken (micro average), as in Mesaros, Heittola, Virtanen, "Metrics
for polyphonic sound event detection", Applied Sciences 6 (2016), and its implementation, sed_eval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fakesound.metrics.clip import threshold_after
from fakesound.metrics.errors import MetricError
from fakesound.metrics.ranking import Floats, checked, count_by_score

_RESOLUTION_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Cells:
    """Cells of several clips, laid end to end.

    Attributes:
        labels: (C,) whether the cell is forged.
        scores: (C,) probability that it is.
        clip_of_cell: (C,) index of the clip, ascending.
        num_clips: n.
    """

    labels: NDArray[np.bool_]
    scores: Floats
    clip_of_cell: NDArray[np.int64]
    num_clips: int

    @classmethod
    def of_clips(cls, labels: Sequence[ArrayLike], scores: Sequence[ArrayLike]) -> "Cells":
        """Join the frames of clips: one (frames,) array of labels and one of scores each.

        Raises:
            MetricError: no clips, no frames, lengths that differ, labels not 0/1, scores not finite.
        """
        lengths = [np.size(label) for label in labels]
        if lengths != [np.size(score) for score in scores]:
            raise MetricError("each clip needs as many frame scores as frame labels")
        if not sum(lengths):
            raise MetricError("nothing to score: no frames")
        joined = (np.concatenate([np.asarray(part) for part in parts]) for parts in (labels, scores))
        is_forged, values = checked(*joined)
        return cls(is_forged, values, np.repeat(np.arange(len(lengths)), lengths), len(lengths))

    def pooled(self, frames_per_cell: int) -> "Cells":
        """Longer cells: labels by "any", scores by maximum, which is "any" at every threshold.

        Raises:
            MetricError: `frames_per_cell` < 1.
        """
        if frames_per_cell < 1:
            raise MetricError(f"a cell needs at least one frame, not {frames_per_cell}")
        if frames_per_cell == 1:
            return self
        starts = _run_starts(self.clip_of_cell, frames_per_cell)
        return Cells(
            np.logical_or.reduceat(self.labels, starts),
            np.maximum.reduceat(self.scores, starts),
            self.clip_of_cell[starts],
            self.num_clips,
        )

    def select(self, is_kept: NDArray[np.bool_]) -> "Cells":
        """The clips where `is_kept` (n,) holds.

        Raises:
            MetricError: none are kept.
        """
        kept = is_kept[self.clip_of_cell]
        if not kept.any():
            raise MetricError("nothing to score: no frames")
        renumbered = np.cumsum(is_kept) - 1
        return Cells(
            self.labels[kept], self.scores[kept], renumbered[self.clip_of_cell[kept]], int(is_kept.sum())
        )


class Counts(NamedTuple):
    """Cells by truth and call; each a number or an array of equal shape."""

    true_positive: Floats
    false_positive: Floats
    false_negative: Floats
    true_negative: Floats


def frames_per_cell(resolution_s: float, hop_s: float) -> int:
    """How many frames make a cell of `resolution_s`.

    Raises:
        MetricError: the cell is not a whole number of frames.
    """
    frames = round(resolution_s / hop_s)
    if frames < 1 or abs(frames * hop_s - resolution_s) > _RESOLUTION_TOLERANCE:
        raise MetricError(f"a cell of {resolution_s} s is not a whole number of {hop_s} s frames")
    return frames


def counts_by_clip(cells: Cells, is_called: NDArray[np.bool_]) -> Floats:
    """True positives, false positives, false negatives, true negatives of each clip.

    Args:
        cells: C cells of n clips.
        is_called: (C,) which cells are called forged.

    Returns:
        (n, 4): the sufficient statistics of precision, recall and F1, whatever clips are summed.
    """
    outcome = np.where(cells.labels, np.where(is_called, 0, 2), np.where(is_called, 1, 3))
    flat = np.bincount(cells.clip_of_cell * 4 + outcome, minlength=cells.num_clips * 4)
    return flat.reshape(cells.num_clips, 4).astype(np.float64)


def total_counts(cells: Cells, threshold: float) -> Counts:
    """Counts over all cells at `threshold`."""
    return Counts(*counts_by_clip(cells, cells.scores >= threshold).sum(0))


def f1_of_counts(counts: Floats) -> Floats:
    """F1 = 2 TP / (2 TP + FP + FN) of (..., 4) counts; NaN where nothing is forged."""
    hits, false_alarms, misses = counts[..., 0], counts[..., 1], counts[..., 2]
    below = 2 * hits + false_alarms + misses
    return np.divide(2 * hits, below, out=np.full(np.shape(hits), np.nan), where=hits + misses > 0)


def precision_recall_f1(cells: Cells, threshold: float) -> tuple[float, float, float]:
    """Precision, recall and micro F1 of the cells at `threshold`.

    Precision is 0 when nothing is called forged although something is.

    Raises:
        MetricError: nothing is forged, so that recall has no value.
    """
    hits, false_alarms, misses, _ = total_counts(cells, threshold)
    if hits + misses == 0:
        raise MetricError("no forged cell: recall and F1 have no value")
    precision = hits / (hits + false_alarms) if hits + false_alarms else 0.0
    return (
        float(precision),
        float(hits / (hits + misses)),
        float(2 * hits / (2 * hits + false_alarms + misses)),
    )


def f1(cells: Cells, threshold: float) -> float:
    """Micro F1 of the cells at `threshold`.

    Raises:
        MetricError: nothing is forged.
    """
    return precision_recall_f1(cells, threshold)[2]


def all_fake_f1(prevalence: ArrayLike) -> Floats:
    """F1 of calling every cell forged: precision p, recall 1, so 2p / (1 + p)."""
    shares = np.asarray(prevalence, dtype=np.float64)
    return 2 * shares / (1 + shares)


def excess_f1(value: ArrayLike, floor: ArrayLike) -> Floats:
    """(F1 - floor) / (1 - floor): 0 at the all-fake floor, 1 for a perfect localiser; NaN at a floor of 1."""
    values, floors = np.asarray(value, dtype=np.float64), np.asarray(floor, dtype=np.float64)
    return np.divide(values - floors, 1 - floors, out=np.full(np.shape(values), np.nan), where=floors < 1)


def excess_f1_of_counts(counts: Floats) -> Floats:
    """`excess_f1` of (..., 4) counts, the floor taken from the same cells."""
    forged = counts[..., 0] + counts[..., 2]
    total = counts.sum(-1)
    prevalence = np.divide(forged, total, out=np.full(np.shape(total), np.nan), where=total > 0)
    return excess_f1(f1_of_counts(counts), all_fake_f1(prevalence))


def best_f1_threshold(cells: Cells) -> float:
    """The threshold of highest micro F1 over all cells; of equals, the highest. Exact: every cut is tried.

    Raises:
        MetricError: nothing is forged.
    """
    counts = count_by_score(cells.labels, cells.scores)
    num_forged = counts.positives.sum()
    if not num_forged:
        raise MetricError("no forged cell: F1 has no value")
    hits = np.cumsum(counts.positives)
    called = hits + np.cumsum(counts.negatives)
    return threshold_after(counts.scores, int(np.argmax(2 * hits / (called + num_forged))) + 1)


def oracle_at_step(frames: Cells, step_frames: int, frames_in_cell: int) -> tuple[float, NDArray[np.bool_]]:
    """The best micro F1 of a prediction that is constant within each run of `step_frames` frames.

    Runs start at the clip's start. The prediction calls a run forged when at least a share q of the cells
    that it touches are; every q is tried and the best kept. Calling the runs of highest share first is
    optimal for F1 (a ratio of sums: Dinkelbach, Management Science 13, 1967) where cells and runs nest, that
    is, where one length divides the other: the result is then the exact ceiling. Elsewhere it is what this
    rule attains.

    Args:
        frames: cells of one frame each; their scores are ignored.
        step_frames: frames from one decision of a model to its next.
        frames_in_cell: frames in a cell of the resolution at which F1 is taken.

    Returns:
        the F1, and the prediction over cells (C,).

    Raises:
        MetricError: nothing is forged, or a length is < 1.
    """
    if step_frames < 1:
        raise MetricError(f"a step needs at least one frame, not {step_frames}")
    truth = frames.pooled(frames_in_cell)
    if not truth.labels.any():
        raise MetricError("no forged cell: F1 has no value")
    run_of_frame = _runs(frames.clip_of_cell, step_frames)
    cell_of_frame = _runs(frames.clip_of_cell, frames_in_cell)
    # Each pair of a run and a cell that it touches, once.
    _, first = np.unique(run_of_frame * (cell_of_frame[-1] + 1) + cell_of_frame, return_index=True)
    run, cell = run_of_frame[first], cell_of_frame[first]
    share = np.bincount(run, weights=truth.labels[cell]) / np.bincount(run)
    # A cell is called when any run in it is: it carries the largest share among them.
    largest = np.zeros(len(truth.labels))
    np.maximum.at(largest, cell, share[run])
    ideal = Cells(truth.labels, largest, truth.clip_of_cell, truth.num_clips)
    threshold = best_f1_threshold(ideal)
    return f1(ideal, threshold), largest >= threshold


def _position_in_clip(clip_of_cell: NDArray[np.int64]) -> NDArray[np.int64]:
    """(C,) how many cells of the same clip come before."""
    index = np.arange(len(clip_of_cell))
    is_first = np.append(True, np.diff(clip_of_cell) != 0)
    return index - np.maximum.accumulate(np.where(is_first, index, 0))


def _run_starts(clip_of_cell: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Where each run of up to `length` cells of one clip starts."""
    return np.flatnonzero(_position_in_clip(clip_of_cell) % length == 0)


def _runs(clip_of_cell: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """(C,) the index of the run, of up to `length` cells of one clip, that each cell lies in."""
    is_start = _position_in_clip(clip_of_cell) % length == 0
    return np.cumsum(is_start) - 1
