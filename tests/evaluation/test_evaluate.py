import csv
import io
import random

import numpy as np
import pyarrow as pa
import pytest

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.schemas import PREDICTIONS
from fakesound.evaluation.config import EvaluationConfig
from fakesound.evaluation.evaluate import evaluate
from fakesound.evaluation.operating_point import choose_operating_point
from fakesound.evaluation.result import INSIDE, OUTSIDE, EvaluationResult, OperatingPoint
from fakesound.evaluation.table import render_table, short
from fakesound.evaluation.trivial import TrivialRow
from fakesound.evaluation.views import read_view
from fakesound.metrics import clip, segments

CONFIG = EvaluationConfig(bootstrap_draws=200)


def run(predictions, **extra):
    points = {name: choose_operating_point(table) for name, table in predictions.items()}
    return evaluate(predictions, points, CONFIG, step_frames=20, **extra)


@pytest.fixture(scope="module")
def result(predictions):
    rows = [
        TrivialRow(view="hard", part="all", level="clip", fit="train", auc=0.5, low=0.4, high=0.6),
        TrivialRow(
            view="hard",
            part="all",
            level="frame",
            fit="cross",
            auc=float("nan"),
            low=float("nan"),
            high=float("nan"),
        ),
    ]
    return run(predictions, trivial=rows, facts={"seed": 3})


def test_values_are_those_of_the_metrics(predictions, result):
    table, model = predictions["vim"], result.models["vim"]
    for split in ("easy", "zeroshot"):
        view, found = read_view(table, split), model.splits[split].metrics
        assert found["clip_auc"].value == pytest.approx(clip.roc_auc(view.labels, view.scores))
        assert found["clip_eer"].value == pytest.approx(clip.eer(view.labels, view.scores))
        assert found["clip_brier"].value == pytest.approx(clip.brier(view.labels, view.scores))
        assert found["clip_log_loss"].value == pytest.approx(clip.log_loss(view.labels, view.scores))
        assert found["clip_ece"].value == pytest.approx(clip.ece(view.labels, view.scores))
        accuracy = clip.accuracy(view.labels, view.scores, model.operating_point.clip)
        assert found["clip_accuracy"].value == pytest.approx(accuracy)
        frames = view.frames
        assert found["frame_auc"].value == pytest.approx(clip.roc_auc(frames.labels, frames.scores))
        assert found["frame_ap"].value == pytest.approx(clip.average_precision(frames.labels, frames.scores))
        for name, cell in (("10ms", 1), ("20ms", 2), ("1s", 100)):
            cells = frames.pooled(cell)
            value = segments.f1(cells, model.operating_point.frame)
            assert found[f"frame_f1_{name}"].value == pytest.approx(value)
            floor = segments.all_fake_f1(cells.labels.mean())
            assert found[f"frame_excess_f1_{name}"].value == pytest.approx(
                float(segments.excess_f1(value, floor))
            )
            references = result.references[split]
            assert references["all_fake"].metrics[f"frame_f1_{name}"].value == pytest.approx(float(floor))
            assert references["all_real"].metrics[f"frame_f1_{name}"].value == 0
            oracle = segments.oracle_at_step(frames, 20, cell)[0]
            assert references["oracle_step"].metrics[f"frame_f1_{name}"].value == pytest.approx(oracle)


def test_every_figure_lies_in_its_interval(result):
    for model in result.models.values():
        for group in model.splits.values():
            for name, metric in group.metrics.items():
                if name == "clip_ece":  # resampling adds noise to a sum of absolute values: biased upwards
                    continue
                assert metric.low <= metric.value <= metric.high, name


def test_families_are_their_forged_clips_with_the_genuine_ones(predictions, result):
    families = result.models["vim"].parts["zeroshot"]
    assert list(families) == ["lpc_vocoder", "noise_vocoder", INSIDE, OUTSIDE]
    rows = [r for r in predictions["vim"].to_pylist() if r["split"] == "zeroshot"]
    kept = [r for r in rows if r["family"] in ("lpc_vocoder", "genuine")]
    assert families["lpc_vocoder"].num_clips == len(kept) == 30
    expected = clip.roc_auc([r["label"] for r in kept], [r["score"] for r in kept])
    assert families["lpc_vocoder"].metrics["clip_auc"].value == pytest.approx(expected)


def test_lengths_of_training_are_told_from_others(predictions, result):
    parts = result.models["vim"].parts["hard"]
    rows = [r for r in predictions["vim"].to_pylist() if r["split"] == "hard" and r["label"]]
    shares = np.array([np.mean(r["frame_labels"]) for r in rows])
    frames = np.array([len(r["frame_labels"]) for r in rows])
    inside = int(((shares >= 0.1 - 1 / frames) & (shares <= 0.4 + 1 / frames)).sum())
    assert 0 < inside < len(rows)
    assert parts[INSIDE].num_forged == inside and parts[OUTSIDE].num_forged == len(rows) - inside
    assert parts[INSIDE].num_clips == inside + len(rows)  # every genuine clip is in both


def test_order_of_rows_changes_nothing(predictions, result):
    shuffled = {}
    for name, table in predictions.items():
        order = list(range(table.num_rows))
        random.Random(name).shuffle(order)
        shuffled[name] = table.take(order)
    assert run(shuffled).models == result.models


def test_json_returns_the_same_result_and_csv_is_tidy(result):
    assert EvaluationResult.model_validate_json(result.to_json()) == result
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert {row["model"] for row in rows} == {"vim", "fcn_resnet", "all_real", "all_fake", "oracle_step"}
    keys = [(row["model"], row["split"], row["part"], row["metric"]) for row in rows]
    assert len(keys) == len(set(keys))
    found = next(
        r
        for r in rows
        if (r["model"], r["split"], r["part"], r["metric"]) == ("vim", "hard", "all", "clip_auc")
    )
    assert float(found["value"]) == pytest.approx(
        result.models["vim"].splits["hard"].metrics["clip_auc"].value, rel=1e-5
    )
    assert result.trivial[0].auc.value == 0.5 and result.facts == {"seed": 3}


def test_models_must_be_scored_on_the_same_clips(predictions):
    table = predictions["fcn_resnet"]
    with pytest.raises(UserError, match="different clips of validation"):
        evaluate(
            {"vim": predictions["vim"], "fcn_resnet": table.slice(1)},
            dict.fromkeys(("vim", "fcn_resnet"), OperatingPoint(clip=0.5, frame=0.5)),
            CONFIG,
            step_frames=20,
        )
    with pytest.raises(UserError, match="no predictions"):
        evaluate({}, {}, CONFIG, step_frames=20)
    with pytest.raises(IntegrityError):
        read_view(pa.table({"clip_id": ["a"]}), "hard")
    with pytest.raises(UserError, match="no clip of"):
        read_view(table, "nowhere")


def test_a_view_of_genuine_clips_alone_has_no_value_where_none_exists(predictions):
    rows = [r for r in predictions["vim"].to_pylist() if r["split"] == "hard" and not r["label"]]
    table = pa.Table.from_pylist(rows, schema=PREDICTIONS)
    group = evaluate({"vim": table}, {"vim": OperatingPoint(clip=0.5, frame=0.5)}, CONFIG, step_frames=20)
    metrics = group.models["vim"].splits["hard"].metrics
    assert metrics["clip_auc"].value is None and metrics["frame_f1_20ms"].value is None
    assert metrics["clip_accuracy"].value == np.mean([r["score"] < 0.5 for r in rows])
    assert "-" in render_table(group)


def test_table_fits_and_names_everything(result):
    text = render_table(result)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    for word in ("ViM", "FCN-ResNet", "all real", "all fake", "oracle", "zeroshot", "F1 20 ms", "95%"):
        assert word in text
    row = next(
        line
        for line in lines[lines.index(next(x for x in lines if x.startswith("hard"))) :]
        if line.startswith("ViM")
    )
    assert short(result.models["vim"].splits["hard"].metrics["clip_auc"].value) in row


def test_short_numbers():
    assert [short(v) for v in (0.0, 0.456, 0.999, 1.0, -0.25)] == [".00", ".46", "1.0", "1.0", "-0.25"]
