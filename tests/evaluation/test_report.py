import numpy as np
import pyarrow as pa
import pytest
from html_page import Page
from made_up import made_up_predictions

from fakesound.core.schemas import PREDICTIONS
from fakesound.evaluation import plots
from fakesound.evaluation.config import EvaluationConfig
from fakesound.evaluation.evaluate import evaluate
from fakesound.evaluation.operating_point import choose_operating_point
from fakesound.evaluation.report import choose_gallery, render_report
from fakesound.evaluation.trivial import TrivialRow
from fakesound.evaluation.views import read_view

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "br", "path", "use", "image", "rect", "line"}


@pytest.fixture(scope="module")
def predictions():
    tables = {}
    for name, skill in (("vim", 1.5), ("fcn_resnet", 0.5)):
        rows = made_up_predictions(skill, sources_per_split=8, splits=("validation", "zeroshot")).to_pylist()
        renamed = [row | {"clip_id": f"{HOSTILE}{row['clip_id']}"} for row in rows]
        tables[name] = pa.Table.from_pylist(renamed, schema=PREDICTIONS)
    return tables


@pytest.fixture(scope="module")
def page(predictions):
    frames = {row["clip_id"]: len(row["frame_labels"]) for row in predictions["vim"].to_pylist()}
    points = {name: choose_operating_point(table) for name, table in predictions.items()}
    result = evaluate(
        predictions,
        points,
        EvaluationConfig(bootstrap_draws=100),
        step_frames=16,
        trivial=[
            TrivialRow(view="zeroshot", part="all", level="clip", fit="train", auc=0.71, low=0.6, high=0.8)
        ],
        facts={"commit": "abc123", "corpus": {"digest": "d" * 16, "none": None, "list": [1]}},
    )
    return render_report(result, predictions, lambda clip_id: np.ones((frames[clip_id], 8), np.float16))


def test_page_is_whole_and_self_contained(page):
    parsed = Page(page, VOID)
    assert parsed.open == []
    assert len(page) < 5_000_000
    names = {tag for tag, _ in parsed.tags}
    assert "script" not in names and "link" not in names
    for _, attributes in parsed.tags:
        for key in ("href", "src", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,"))
    assert "url(http" not in page and "@import" not in page and "currentColor" in page
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    figures = [attributes for _, attributes in parsed.tags if attributes.get("role") == "img"]
    assert len(figures) >= 8 and all(attributes["aria-label"] for attributes in figures)


def test_page_says_what_was_found_and_how(page):
    for text in (
        "ViM",
        "FCN-ResNet",
        "all fake",
        "oracle",
        "lpc_vocoder",
        "abc123",
        "corpus.digest",
        "never on test",
    ):
        assert text in page
    assert '<td class="far">.71 (.60–.80)</td>' in page
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_gallery_shows_best_worst_and_the_worst_false_alarm(predictions):
    view = read_view(predictions["vim"], "zeroshot")
    picks = choose_gallery(view, 0.5)
    assert len({index for _, index in picks}) == len(picks) == 7
    genuine = [index for why, index in picks if why.startswith("genuine")]
    assert view.scores[genuine[0]] == view.scores[~view.labels].max()
    assert all(view.labels[index] for why, index in picks if not why.startswith("genuine"))


def test_f1_by_region_length(predictions):
    view = read_view(predictions["vim"], "zeroshot")
    lengths_s = plots.longest_regions_s(view)
    slow = [
        max((len(run) for run in "".join(map(str, row)).split("0")), default=0) / 100
        for row in _rows(predictions)
    ]
    np.testing.assert_allclose(lengths_s, slow)
    by_length = plots.f1_by_length(view, 0.5)
    assert by_length.shape == (len(plots.LENGTH_EDGES_S) - 1,)
    empty = [
        not ((lengths_s > 0) & (lengths_s >= low) & (lengths_s < high)).any()
        for low, high in zip(plots.LENGTH_EDGES_S, plots.LENGTH_EDGES_S[1:], strict=False)
    ]
    np.testing.assert_array_equal(np.isnan(by_length), empty)


def _rows(predictions):
    rows = [row for row in predictions["vim"].to_pylist() if row["split"] == "zeroshot"]
    return [row["frame_labels"] for row in sorted(rows, key=lambda row: row["clip_id"])]
