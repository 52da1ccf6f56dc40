"""Thresholds, chosen on validation clips alone."""

import pyarrow as pa

from fakesound.core.errors import UserError
from fakesound.evaluation.result import OperatingPoint
from fakesound.evaluation.views import VALIDATION_SPLITS, read_view, splits_of
from fakesound.metrics.clip import best_balanced_accuracy_threshold
from fakesound.metrics.errors import MetricError
from fakesound.metrics.segments import best_f1_threshold, frames_per_cell

FRAME_RESOLUTION_S = 0.02
RULE = (
    "chosen on the validation and validation_unseen views together, never on test: "
    "clip threshold = highest balanced accuracy, frame threshold = highest micro F1 at 20 ms"
)


def choose_operating_point(predictions: pa.Table) -> OperatingPoint:
    """The clip threshold of highest balanced accuracy and the frame threshold of highest micro F1 at 20 ms.

    Only rows whose split is `validation` or `validation_unseen` are read. Both count, since the detector is
    to face attacks that it has not seen as well as those it has.

    Raises:
        UserError: validation is missing or holds one class only.
    """
    present = [split for split in splits_of(predictions) if split in VALIDATION_SPLITS]
    if not present:
        raise UserError("no validation predictions: a threshold cannot be chosen without looking at the test")
    view = read_view(predictions, *present)
    try:
        cells = view.frames.pooled(frames_per_cell(FRAME_RESOLUTION_S, view.hop_s))
        return OperatingPoint(
            clip=best_balanced_accuracy_threshold(view.labels, view.scores), frame=best_f1_threshold(cells)
        )
    except MetricError as error:
        raise UserError(f"no operating point from {len(view.labels)} validation clips: {error}") from None
