"""One self-contained HTML page of an evaluation: no script, no network, every plot inline.

Shapes: n clips, F frames, M mels.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray
from pydantic import JsonValue

from fakesound.evaluation import plots
from fakesound.evaluation.plots import GalleryClip
from fakesound.evaluation.result import EvaluationResult, Group, Metric
from fakesound.evaluation.table import HEADLINE, MODEL_NAMES, REFERENCE_NAMES, short
from fakesound.evaluation.views import View, read_view
from fakesound.metrics import segments

PART_METRICS = {
    "clip_auc": "clip AUC",
    "clip_eer": "clip EER",
    "frame_f1_20ms": "F1 20 ms",
    "frame_excess_f1_20ms": "F1 over floor",
}
_GALLERY_SPLITS = ("zeroshot", "hard", "easy", "validation_unseen", "validation")
_EACH_KIND = 2
LEAK_MARGIN = 0.1  # a trivial detector further than this from chance means that the corpus leaks

_HEADLINE_SPLIT = "zeroshot"


def render_report(
    result: EvaluationResult,
    predictions: Mapping[str, pa.Table],
    features: Callable[[str], NDArray[np.floating]],
) -> str:
    """The page as text.

    Args:
        result: the figures.
        predictions: model -> the table that they were computed from, the models of `result` in any order.
        features: clip id -> its features (F, M), asked for the few clips of the gallery.
    """
    views = {
        MODEL_NAMES.get(name, name): {split: read_view(predictions[name], split) for split in result.splits}
        for name in result.models
    }
    points = {MODEL_NAMES.get(name, name): model.operating_point for name, model in result.models.items()}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fakesound.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.tests["far"] = lambda auc: auc.value is not None and abs(auc.value - 0.5) > LEAK_MARGIN
    environment.filters |= {"cell": _cell, "share": _share, "short": short, "model": _model_name}
    return environment.get_template("report.html.j2").render(
        result=result,
        summary=_summary(result),
        headline=HEADLINE,
        part_metrics=PART_METRICS,
        references=REFERENCE_NAMES,
        roc=Markup(plots.roc_plot(views)),
        precision_recall=Markup(plots.precision_recall_plot(views)),
        lengths=Markup(plots.length_plot(views, points)),
        calibration=Markup(plots.calibration_plot(views)),
        gallery=_gallery(views, points, features),
        facts=_flat(result.facts),
        facts_json=json.dumps(result.facts, indent=1, sort_keys=True),
    )


def choose_gallery(view: View, threshold: float) -> list[tuple[str, int]]:
    """Which clips to show: forged ones localised best, middling and worst, and the worst false alarm.

    Args:
        view: of the model by which they are ranked.
        threshold: of a frame.

    Returns:
        (why, index into the view), no clip twice.
    """
    cells = view.frames.pooled(segments.frames_per_cell(0.02, view.hop_s))
    f1 = segments.f1_of_counts(segments.counts_by_clip(cells, cells.scores >= threshold))
    forged = np.flatnonzero(view.labels & np.isfinite(f1))
    ranked = forged[np.argsort(-f1[forged], kind="stable")]
    middle = max(0, len(ranked) // 2 - _EACH_KIND // 2)
    picks = [
        *(("localised best", k) for k in ranked[:_EACH_KIND]),
        *(("in the middle", k) for k in ranked[middle : middle + _EACH_KIND]),
        *(("localised worst", k) for k in ranked[-_EACH_KIND:]),
    ]
    genuine = np.flatnonzero(~view.labels)
    if len(genuine):
        picks.append(("genuine, and most suspected", genuine[np.argmax(view.scores[genuine])]))
    first: dict[int, str] = {}
    for why, index in picks:
        first.setdefault(int(index), why)
    return [(why, index) for index, why in first.items()]


def _gallery(
    views: plots.Views, points: Mapping[str, Any], features: Callable[[str], NDArray[np.floating]]
) -> list[dict[str, Any]]:
    lead, of_split = next(iter(views.items()))
    split = next((name for name in _GALLERY_SPLITS if name in of_split), next(iter(of_split)))
    view = of_split[split]
    entries = []
    for why, index in choose_gallery(view, points[lead].frame):
        in_clip = view.frames.clip_of_cell == index
        clip_id = str(view.clip_ids[index])
        scores = {model: of[split].frames.scores[in_clip] for model, of in views.items()}
        shown = GalleryClip(features(clip_id), view.frames.labels[in_clip], scores, view.hop_s)
        entries.append(
            {
                "why": why,
                "clip_id": clip_id,
                "family": str(view.families[index]),
                "split": split,
                "probabilities": {model: float(of[split].scores[index]) for model, of in views.items()},
                "svg": Markup(plots.gallery_plot(shown, points)),
                "forged_s": float(view.frames.labels[in_clip].sum() * view.hop_s),
            }
        )
    return entries


def _summary(result: EvaluationResult) -> list[str]:
    """What the view of unseen attacks says, in a sentence a model."""
    split = _HEADLINE_SPLIT if _HEADLINE_SPLIT in result.references else result.splits[-1]
    floor = result.references[split]["all_fake"].metrics.get("frame_f1_20ms", Metric())
    return [
        f"{_model_name(name)} on {split}: clip AUC {_cell(group.metrics['clip_auc'])}, "
        f"localisation F1 at 20 ms {_cell(group.metrics['frame_f1_20ms'])}, "
        f"where calling every frame forged scores {_cell(floor)}."
        for name, group in _groups(result, split).items()
    ]


def _groups(result: EvaluationResult, split: str) -> dict[str, Group]:
    return {name: model.splits[split] for name, model in result.models.items()}


def _model_name(name: str) -> str:
    return MODEL_NAMES.get(name, name)


def _cell(metric: Metric | None) -> str:
    """Value and interval: `.87 (.80-.93)`."""
    if metric is None or metric.value is None:
        return "–"
    if metric.low is None or metric.high is None:
        return short(metric.value)
    return f"{short(metric.value)} ({short(metric.low)}–{short(metric.high)})"


def _share(metric: Metric | None) -> str:
    """How strongly to shade a cell, 0 to 1."""
    value = 0.0 if metric is None or metric.value is None else metric.value
    return f"{min(max(value, 0.0), 1.0):.2f}"


def _flat(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, str]:
    """Nested facts as dotted names; long ones are left to the JSON."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            flat[prefix + key] = "–" if value is None else str(value)
    return flat
