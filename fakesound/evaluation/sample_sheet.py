"""A few clips on one picture: where they were forged, and where a model in training thinks so.

Shapes: F frames, M mels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fakesound.core.regions import regions_from_frames
from fakesound.evaluation.spectrogram import FORGED_COLOUR, draw_spectrogram

SCORE_COLOUR = "#00798c"
_COLUMNS = 2
_CELL_INCHES = (6.0, 2.6)


@dataclass(frozen=True, kw_only=True)
class SampleClip:
    """A clip to show.

    Attributes:
        title: above it; control characters are the caller's to remove.
        features_FM: (F, M) as the model is given them.
        frame_labels_F: (F,) true where forged.
        frame_probabilities_F: (F,) of being forged, as the model says.
        hop_s: from one frame to the next.
    """

    title: str
    features_FM: NDArray[np.floating]
    frame_labels_F: NDArray[np.bool_]
    frame_probabilities_F: NDArray[np.floating]
    hop_s: float


def plot_samples(clips: Sequence[SampleClip], path: str | Path) -> None:
    """Write a PNG: each clip's spectrogram, forged stretches framed, above the probability of its frames.

    Raises:
        OSError: the file cannot be written.
    """
    columns = min(_COLUMNS, len(clips))
    rows = -(-len(clips) // columns)
    figure = Figure(figsize=(_CELL_INCHES[0] * columns, _CELL_INCHES[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    cells = figure.subfigures(rows, columns, squeeze=False).ravel()
    for cell, clip in zip(cells, clips, strict=False):
        image, curve = cell.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        _draw_clip(image, curve, clip)
    figure.savefig(str(path), dpi=100, format="png")


def _draw_clip(image: Axes, curve: Axes, clip: SampleClip) -> None:
    num_frames = len(clip.features_FM)
    duration_s = num_frames * clip.hop_s
    draw_spectrogram(image, clip.features_FM, duration_s)
    image.set_title(clip.title, fontsize=9, parse_math=False)
    for region in regions_from_frames(clip.frame_labels_F.astype(np.uint8), clip.hop_s):
        image.axvspan(region.onset_s, region.offset_s, edgecolor="white", facecolor="none", linewidth=1.2)
        curve.axvspan(region.onset_s, region.offset_s, color=FORGED_COLOUR, alpha=0.3, linewidth=0)
    times_s = (np.arange(num_frames) + 0.5) * clip.hop_s
    curve.plot(times_s, clip.frame_probabilities_F, color=SCORE_COLOUR, linewidth=1)
    curve.set(ylim=(-0.03, 1.03), xlim=(0, duration_s), xlabel="time, s", ylabel="P(forged)")
