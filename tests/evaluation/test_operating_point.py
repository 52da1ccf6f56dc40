import numpy as np
import pyarrow as pa
import pytest

from fakesound.core.errors import UserError
from fakesound.core.schemas import PREDICTIONS
from fakesound.evaluation.operating_point import choose_operating_point
from fakesound.evaluation.views import VALIDATION_SPLITS, read_view
from fakesound.metrics import clip, segments


def rows_of(table, is_wanted):
    return table.filter(pa.array([is_wanted(split) for split in table["split"].to_pylist()]))


def test_test_rows_do_not_influence_it(predictions):
    table = predictions["vim"]
    point = choose_operating_point(table)
    assert choose_operating_point(rows_of(table, lambda split: split in VALIDATION_SPLITS)) == point
    inverted = [
        row
        if row["split"] in VALIDATION_SPLITS
        else row | {"score": 1 - row["score"], "frame_scores": [1 - s for s in row["frame_scores"]]}
        for row in table.to_pylist()
    ]
    assert choose_operating_point(pa.Table.from_pylist(inverted, schema=PREDICTIONS)) == point


def test_it_is_the_best_on_validation(predictions):
    table = predictions["vim"]
    point = choose_operating_point(table)
    view = read_view(table, *VALIDATION_SPLITS)
    best = clip.balanced_accuracy(view.labels, view.scores, point.clip)
    assert best == max(clip.balanced_accuracy(view.labels, view.scores, t) for t in view.scores)
    cells = view.frames.pooled(2)
    tried = [segments.f1(cells, t) for t in np.linspace(0.01, 0.99, 50)]
    assert segments.f1(cells, point.frame) >= max(tried)


def test_without_usable_validation_it_says_so(predictions):
    table = predictions["vim"]
    with pytest.raises(UserError, match="no validation predictions"):
        choose_operating_point(rows_of(table, lambda split: split == "hard"))
    genuine = pa.Table.from_pylist([r for r in table.to_pylist() if not r["label"]], schema=PREDICTIONS)
    with pytest.raises(UserError, match="only one class"):
        choose_operating_point(genuine)
