"""Figures with intervals, from predictions: per model, per view, per attack family and length, beside floors
and ceiling.

Shapes: n clips.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import JsonValue

from fakesound.core.errors import UserError
from fakesound.core.progress import track
from fakesound.corpora.masks import TRAIN_SHARE
from fakesound.evaluation.config import EvaluationConfig
from fakesound.evaluation.operating_point import RULE
from fakesound.evaluation.result import (
    ALL_FAKE,
    ALL_REAL,
    INSIDE,
    ORACLE,
    OUTSIDE,
    RESOLUTIONS_S,
    EvaluationResult,
    Group,
    Method,
    Metric,
    ModelResult,
    OperatingPoint,
    TrivialFigure,
)
from fakesound.evaluation.trivial import TrivialRow
from fakesound.evaluation.views import View, read_view, splits_of
from fakesound.metrics import clip, ranking, segments
from fakesound.metrics.bootstrap import Estimate, Resampler, ranked
from fakesound.metrics.errors import MetricError

POOLING = "a cell is forged when any 10 ms frame in it is; F1 is micro-averaged over all cells of all clips"
INTERVAL = (
    "percentile bootstrap over sources (connected components of recordings); "
    "frame AUC and AP intervals use scores binned by rank"
)


def evaluate(
    predictions: Mapping[str, pa.Table],
    operating_points: Mapping[str, OperatingPoint],
    config: EvaluationConfig,
    *,
    step_frames: int,
    trained_shares: tuple[float, float] | None = TRAIN_SHARE,
    trivial: Iterable[TrivialRow] = (),
    facts: Mapping[str, JsonValue] | None = None,
) -> EvaluationResult:
    """Every figure of every model.

    Args:
        predictions: model -> table of `schemas.PREDICTIONS`; all models on the same clips.
        operating_points: model -> thresholds, chosen on validation.
        config: of the bootstrap.
        step_frames: frames from one decision of the first model to its next, for the oracle's ceiling.
        trained_shares: least and greatest share of a clip that was forged in training; None: not known.
        trivial: rows of the trivial detectors.
        facts: kept with the result: digests, versions, configuration.

    Raises:
        UserError: models were scored on different clips, or on none.
    """
    if not predictions:
        raise UserError("no predictions to evaluate")
    names = list(predictions)
    splits = splits_of(predictions[names[0]])
    models: dict[str, ModelResult] = {
        name: ModelResult(operating_point=operating_points[name], splits={}, parts={}) for name in names
    }
    references: dict[str, dict[str, Group]] = {}
    hop_s = 0.0
    for split in track(splits, "evaluating"):
        views = {name: read_view(table, split) for name, table in predictions.items()}
        _require_same_clips(views, split)
        first = views[names[0]]
        hop_s = first.hop_s
        resampler = _resampler(first, config)
        references[split] = _references(first, resampler, step_frames)
        for name, view in views.items():
            models[name].splits[split] = _group(view, models[name].operating_point, resampler)
            models[name].parts[split] = _parts(view, models[name].operating_point, config, trained_shares)
    return EvaluationResult(
        models=models,
        references=references,
        trivial=tuple(TrivialFigure.of(row) for row in trivial),
        method=Method(
            interval=INTERVAL,
            draws=config.bootstrap_draws,
            level=config.interval_level,
            seed=config.seed,
            step_frames=step_frames,
            hop_s=hop_s,
            operating_point=RULE,
            pooling=POOLING,
        ),
        facts=dict(facts or {}),
    )


def _resampler(view: View, config: EvaluationConfig) -> Resampler:
    return Resampler(
        view.sources, num_draws=config.bootstrap_draws, seed=config.seed, level=config.interval_level
    )


def _require_same_clips(views: Mapping[str, View], split: str) -> None:
    (first_name, first), *others = views.items()
    for name, view in others:
        same_clips = np.array_equal(first.clip_ids, view.clip_ids) and np.array_equal(
            first.labels, view.labels
        )
        if not (same_clips and np.array_equal(first.frames.labels, view.frames.labels)):
            raise UserError(
                f"{first_name} and {name} were scored on different clips of {split}: score them again"
            )


def _parts(
    view: View, point: OperatingPoint, config: EvaluationConfig, trained_shares: tuple[float, float] | None
) -> dict[str, Group]:
    """Each attack family, and, where a view has both, lengths that training has seen and those it has not."""
    members = {family: view.families == family for family in view.forged_families}
    if trained_shares is not None:
        lengths = _by_length(view, *trained_shares)
        members |= lengths if all(forged.any() for forged in lengths.values()) else {}
    views = {name: view.with_forged(forged) for name, forged in members.items()}
    return {name: _group(part, point, _resampler(part, config)) for name, part in views.items()}


def _by_length(view: View, least: float, most: float) -> dict[str, NDArray[np.bool_]]:
    shares = view.forged_shares
    tolerance = 1 / np.bincount(view.frames.clip_of_cell)  # a frame: labels round the borders
    is_inside = (shares >= least - tolerance) & (shares <= most + tolerance)
    return {INSIDE: is_inside & view.labels, OUTSIDE: ~is_inside & view.labels}


def _group(view: View, point: OperatingPoint, resampler: Resampler) -> Group:
    figures = _clip_figures(view, point, resampler) | _frame_ranking_figures(view, resampler)
    for name, frames_in_cell in _cell_lengths(view.hop_s).items():
        cells = view.frames.pooled(frames_in_cell)
        figures |= _f1_figures(name, cells, cells.scores >= point.frame, resampler)
    return _group_of(view, resampler, figures)


def _group_of(view: View, resampler: Resampler, figures: Mapping[str, Callable[[], Estimate]]) -> Group:
    return Group(
        num_clips=len(view.labels),
        num_forged=int(view.labels.sum()),
        num_sources=resampler.num_sources,
        metrics={name: _metric(figure) for name, figure in figures.items()},
    )


def _metric(figure: Callable[[], Estimate]) -> Metric:
    """The figure; one without a value where it is not defined on these clips."""
    try:
        return Metric.of(figure())
    except MetricError:
        return Metric()


def _cell_lengths(hop_s: float) -> dict[str, int]:
    return {name: segments.frames_per_cell(length_s, hop_s) for name, length_s in RESOLUTIONS_S.items()}


def _clip_figures(
    view: View, point: OperatingPoint, resampler: Resampler
) -> dict[str, Callable[[], Estimate]]:
    labels, scores = view.labels, view.scores
    histograms = resampler.score_histograms(labels, scores)

    def calibration_error() -> Estimate:
        # Only the sums of labels and of scores in each bin matter, besides the number of clips.
        which = clip.calibration_bin_index(scores)[:, None] == np.arange(clip.CALIBRATION_BINS)
        by_clip = np.concatenate([which, which * scores[:, None], which * labels[:, None]], axis=1)
        return resampler.estimate(
            resampler.sums_by_source(by_clip), lambda sums: clip.ece_of_bins(*np.split(sums, 3, axis=-1))
        )

    return {
        "clip_accuracy": lambda: resampler.mean((scores >= point.clip) == labels),
        "clip_auc": lambda: resampler.estimate(histograms, ranked(ranking.auc)),
        "clip_eer": lambda: resampler.estimate(histograms, ranked(ranking.eer)),
        "clip_brier": lambda: resampler.mean(clip.brier_terms(labels, scores)),
        "clip_log_loss": lambda: resampler.mean(clip.log_loss_terms(labels, scores)),
        "clip_ece": calibration_error,
    }


def _frame_ranking_figures(view: View, resampler: Resampler) -> dict[str, Callable[[], Estimate]]:
    frames = view.frames
    histograms = resampler.score_histograms(frames.labels, frames.scores, frames.clip_of_cell)
    exact = ranking.count_by_score(frames.labels, frames.scores)

    def figure(metric: Callable[[ranking.Floats, ranking.Floats], ranking.Floats]) -> Estimate:
        value = float(metric(exact.positives, exact.negatives))
        return resampler.estimate(histograms, ranked(metric), value=value)

    return {
        "frame_auc": lambda: figure(ranking.auc),
        "frame_ap": lambda: figure(ranking.average_precision),
    }


def _f1_figures(
    name: str, cells: segments.Cells, is_called: NDArray[np.bool_], resampler: Resampler
) -> dict[str, Callable[[], Estimate]]:
    sums = resampler.sums_by_source(segments.counts_by_clip(cells, is_called))
    return {
        f"frame_f1_{name}": lambda: resampler.estimate(sums, segments.f1_of_counts),
        f"frame_excess_f1_{name}": lambda: resampler.estimate(sums, segments.excess_f1_of_counts),
    }


def _references(view: View, resampler: Resampler, step_frames: int) -> dict[str, Group]:
    """Calling nothing forged, calling everything forged, and the best that whole steps allow."""
    figures: dict[str, dict[str, Callable[[], Estimate]]] = {
        ALL_REAL: {"clip_accuracy": lambda: resampler.mean(~view.labels)},
        ALL_FAKE: {"clip_accuracy": lambda: resampler.mean(view.labels)},
        ORACLE: {},
    }
    for name, frames_in_cell in _cell_lengths(view.hop_s).items():
        cells = view.frames.pooled(frames_in_cell)
        nothing = np.zeros(len(cells.labels), dtype=bool)
        figures[ALL_REAL] |= _f1_figures(name, cells, nothing, resampler)
        figures[ALL_FAKE] |= _f1_figures(name, cells, ~nothing, resampler)
        if cells.labels.any():
            _, called = segments.oracle_at_step(view.frames, step_frames, frames_in_cell)
            figures[ORACLE] |= _f1_figures(name, cells, called, resampler)
    return {name: _group_of(view, resampler, members) for name, members in figures.items()}
