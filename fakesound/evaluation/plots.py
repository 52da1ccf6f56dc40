"""The report's plots as inline SVG.

Shapes: n clips, F frames, M mels.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fakesound.core.regions import regions_from_frames
from fakesound.evaluation.page_plots import PAGE_COLOUR, page_style, to_svg
from fakesound.evaluation.result import OperatingPoint
from fakesound.evaluation.spectrogram import FORGED_COLOUR, draw_spectrogram
from fakesound.evaluation.views import View
from fakesound.metrics import clip, segments
from fakesound.metrics.errors import MetricError

Views = Mapping[str, Mapping[str, View]]
"""Model -> view name -> view."""

Draw = Callable[[Axes, View], tuple[NDArray, NDArray]]
"""Adds guides to the axes of a view, and returns x and y of its line."""

MODEL_COLOURS = ("#3f88c5", "#e07a34", "#5aa469", "#a267ac")
LENGTH_EDGES_S = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)

_CURVE_POINTS = 300
_PANEL_INCHES = 2.5


@dataclass(frozen=True)
class GalleryClip:
    """A clip to show: its features (F, M), true frames (F,) and each model's frame probabilities (F,)."""

    features_FM: NDArray[np.floating]
    frame_labels: NDArray[np.bool_]
    frame_scores: Mapping[str, NDArray[np.float64]]
    hop_s: float


def roc_plot(views: Views) -> str:
    """ROC of the clip decision: a panel a view, a line a model."""

    def draw(axes: Axes, view: View) -> tuple[NDArray, NDArray]:
        axes.plot([0, 1], [0, 1], color=PAGE_COLOUR, alpha=0.3, linestyle=":", linewidth=1)
        return clip.roc_curve(view.labels, view.scores)

    return _panels(views, draw, x_label="false alarms", y_label="forged clips found")


def precision_recall_plot(views: Views) -> str:
    """Precision against recall of 10 ms frames; dotted: all frames called forged."""

    def draw(axes: Axes, view: View) -> tuple[NDArray, NDArray]:
        prevalence = float(view.frames.labels.mean())
        axes.axhline(prevalence, color=PAGE_COLOUR, alpha=0.3, linestyle=":", linewidth=1)
        return clip.precision_recall_curve(view.frames.labels, view.frames.scores)

    return _panels(views, draw, x_label="recall", y_label="precision")


def calibration_plot(views: Views) -> str:
    """Share of forged clips against the probability given: a panel a view, a line a model."""

    def draw(axes: Axes, view: View) -> tuple[NDArray, NDArray]:
        axes.plot([0, 1], [0, 1], color=PAGE_COLOUR, alpha=0.3, linestyle=":", linewidth=1)
        bins = clip.calibration_bins(view.labels, view.scores)
        filled = bins.counts > 0
        counts = bins.counts[filled]
        return bins.score_sums[filled] / counts, bins.label_sums[filled] / counts

    return _panels(views, draw, x_label="probability given", y_label="share forged", marker="o")


def length_plot(views: Views, points: Mapping[str, OperatingPoint]) -> str:
    """Micro F1 at 20 ms of forged clips, by the length of their longest forged stretch."""
    middles = np.arange(len(LENGTH_EDGES_S) - 1)
    names = [f"{low:g}-{high:g}" for low, high in pairwise(LENGTH_EDGES_S)]
    with page_style():
        figure, axes_of = _panel_row(next(iter(views.values())))
        for (model, of_split), colour in zip(views.items(), MODEL_COLOURS, strict=False):
            for split, view in of_split.items():
                values = f1_by_length(view, points[model].frame)
                axes_of[split].plot(middles, values, color=colour, marker="o", markersize=3, label=model)
        for axes in axes_of.values():
            axes.set_xticks(middles, names, rotation=60)
            axes.set_xlabel("longest forged stretch, s")
        return _svg(figure, axes_of, "F1 at 20 ms")


def f1_by_length(view: View, threshold: float) -> NDArray[np.float64]:
    """Micro F1 at 20 ms of the forged clips in each bin of LENGTH_EDGES_S; NaN where there are none."""
    lengths_s = longest_regions_s(view)
    cells = view.frames.pooled(segments.frames_per_cell(0.02, view.hop_s))
    counts = segments.counts_by_clip(cells, cells.scores >= threshold)
    index = np.digitize(lengths_s, LENGTH_EDGES_S) - 1
    sums = [counts[(index == k) & (lengths_s > 0)].sum(0) for k in range(len(LENGTH_EDGES_S) - 1)]
    return segments.f1_of_counts(np.array(sums))


def longest_regions_s(view: View) -> NDArray[np.float64]:
    """(n,) the longest forged stretch of each clip, s; 0 where there is none."""
    borders = np.searchsorted(view.frames.clip_of_cell, np.arange(len(view.labels) + 1))
    longest = np.zeros(len(view.labels))
    for k, (start, end) in enumerate(pairwise(borders)):
        regions = regions_from_frames(view.frames.labels[start:end].astype(np.uint8), view.hop_s)
        longest[k] = max((region.duration_s for region in regions), default=0.0)
    return longest


def gallery_plot(shown: GalleryClip, points: Mapping[str, OperatingPoint]) -> str:
    """Spectrogram, true and predicted regions, and each model's frame probability."""
    duration_s = len(shown.frame_labels) * shown.hop_s
    tracks = {"truth": (shown.frame_labels, FORGED_COLOUR)}
    for (model, scores), colour in zip(shown.frame_scores.items(), MODEL_COLOURS, strict=False):
        tracks[model] = (scores >= points[model].frame, colour)
    with page_style():
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        image, strip, curve = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1.2, 1.6])
        draw_spectrogram(image, shown.features_FM, duration_s)
        for row, (frames, colour) in enumerate(tracks.values()):
            regions = regions_from_frames(frames.astype(np.uint8), shown.hop_s)
            spans = [(region.onset_s, region.duration_s) for region in regions]
            strip.broken_barh(spans, (row - 0.35, 0.7), color=colour)
        strip.set_yticks(range(len(tracks)), list(tracks))
        strip.set_ylim(len(tracks) - 0.5, -0.5)
        times_s = (np.arange(len(shown.frame_labels)) + 0.5) * shown.hop_s
        for (model, scores), colour in zip(shown.frame_scores.items(), MODEL_COLOURS, strict=False):
            curve.plot(times_s, scores, color=colour, linewidth=0.9)
            curve.axhline(points[model].frame, color=colour, linestyle=":", linewidth=0.9)
        curve.set(ylim=(-0.03, 1.03), xlim=(0, duration_s), xlabel="time, s", ylabel="P(forged)")
        return to_svg(figure)


def _panels(views: Views, draw: Draw, *, x_label: str, y_label: str, marker: str | None = None) -> str:
    with page_style():
        figure, axes_of = _panel_row(next(iter(views.values())))
        for (model, of_split), colour in zip(views.items(), MODEL_COLOURS, strict=False):
            for split, view in of_split.items():
                axes = axes_of[split]
                try:
                    x, y = draw(axes, view)
                except MetricError:  # a class is missing: the panel stays empty
                    continue
                thin = _thinned(len(x))
                axes.plot(x[thin], y[thin], color=colour, marker=marker, markersize=3, label=model)
        for axes in axes_of.values():
            axes.set(xlim=(-0.02, 1.02), xlabel=x_label)
        return _svg(figure, axes_of, y_label)


def _panel_row(splits: Iterable[str]) -> tuple[Figure, dict[str, Axes]]:
    names = list(splits)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(_PANEL_INCHES * columns, _PANEL_INCHES * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.remove()
    for name, axes in zip(names, grid, strict=False):
        axes.set_title(name)
    return figure, dict(zip(names, grid, strict=False))


def _svg(figure: Figure, axes_of: Mapping[str, Axes], y_label: str) -> str:
    for k, axes in enumerate(axes_of.values()):
        axes.set_ylim(-0.02, 1.02)
        if k % 3 == 0:
            axes.set_ylabel(y_label)
    found = (axes.get_legend_handles_labels() for axes in axes_of.values())
    handles, labels = max(found, key=lambda pair: len(pair[0]))  # a panel may be empty
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return to_svg(figure)


def _thinned(num_points: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, num_points - 1, min(num_points, _CURVE_POINTS)).astype(np.int64))
