"""Pictures of forgeries: before and after, or every family side by side, regions marked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fakesound.attacks.base import FloatArray, Samples
from fakesound.attacks.spectral import Stft
from fakesound.core.regions import SampleRegion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WINDOW_S = 0.032
_AROUND_S = 4.0  # shown either side of the regions
_RANGE_DB = 80.0  # below the loudest bin of the original
_SHEET_COLUMNS = 3
_WAVE = "#00798c"
_FORGED = "#d1495b"


def plot_preview(
    path: str | Path,
    before: FloatArray,
    after: FloatArray,
    *,
    regions: Sequence[SampleRegion],
    sample_rate_hz: int,
    family: str,
) -> None:
    """Write a PNG: waveform and spectrogram, the original on the left, the forgery on the right.

    Args:
        path: to write.
        before: the recording (n,).
        after: forged (n,).
        regions: at least one.
        sample_rate_hz: of both.
        family: for the title.

    Raises:
        OSError: the file cannot be written.
    """
    figure = _figure(12, 5.5)
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[1, 2])
    view = _view(regions, len(before), sample_rate_hz)
    ceiling_db = _loudest_db(before[view.onset : view.offset], sample_rate_hz)
    for column, (title, samples) in enumerate({"original": before, family: after}.items()):
        wave, image = axes[0, column], axes[1, column]
        shown = samples[view.onset : view.offset]
        times_s = np.arange(view.onset, view.offset) / sample_rate_hz
        wave.plot(times_s, shown, color=_WAVE, linewidth=0.4)
        wave.set_title(title)
        _draw_spectrogram(image, shown, view.onset, sample_rate_hz, ceiling_db)
        _mark(wave, regions, sample_rate_hz, _FORGED)
        _mark(image, regions, sample_rate_hz, "white")
        image.set_xlabel("time, s")
    axes[0, 0].set_ylabel("amplitude")
    axes[1, 0].set_ylabel("frequency, kHz")
    figure.savefig(str(path), dpi=120, format="png")


def plot_sheet(
    path: str | Path,
    before: FloatArray,
    forgeries: Mapping[str, FloatArray],
    *,
    regions: Sequence[SampleRegion],
    sample_rate_hz: int,
) -> None:
    """Write a PNG: the spectrograms of the original and of each forgery, one colour scale for all.

    Args:
        path: to write.
        before: the recording (n,).
        forgeries: by family, (n,) each.
        regions: at least one; those of every forgery.
        sample_rate_hz: of all.

    Raises:
        OSError: the file cannot be written.
    """
    shown = {"original": before} | dict(forgeries)
    rows = -(-len(shown) // _SHEET_COLUMNS)
    figure = _figure(4.5 * _SHEET_COLUMNS, 2.2 * rows)
    axes = figure.subplots(rows, _SHEET_COLUMNS, sharex=True, sharey=True, squeeze=False)
    view = _view(regions, len(before), sample_rate_hz)
    ceiling_db = _loudest_db(before[view.onset : view.offset], sample_rate_hz)
    for image, (title, samples) in zip(axes.flat, shown.items(), strict=False):
        _draw_spectrogram(image, samples[view.onset : view.offset], view.onset, sample_rate_hz, ceiling_db)
        _mark(image, regions, sample_rate_hz, "white")
        image.set_title(title)
    for image in axes.flat[len(shown) :]:
        image.set_axis_off()
    figure.supxlabel("time, s")
    figure.supylabel("frequency, kHz")
    figure.savefig(str(path), dpi=120, format="png")


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _view(regions: Sequence[SampleRegion], num_samples: int, sample_rate_hz: int) -> SampleRegion:
    """The regions and four seconds either side: an hour would not fit a picture."""
    around = round(_AROUND_S * sample_rate_hz)
    return SampleRegion(max(0, regions[0].onset - around), min(num_samples, regions[-1].offset + around))


def _levels_db(samples: Samples, sample_rate_hz: int) -> Samples:
    """Short-time levels (T, K), dB."""
    stft = Stft.lasting(_WINDOW_S, sample_rate_hz)
    return 20 * np.log10(np.abs(stft.analyse(samples.astype(np.float64))) + 1e-12)


def _loudest_db(samples: Samples, sample_rate_hz: int) -> float:
    return float(_levels_db(samples, sample_rate_hz).max())


def _draw_spectrogram(
    axes: "Axes", samples: Samples, onset: int, sample_rate_hz: int, ceiling_db: float
) -> None:
    levels = _levels_db(samples, sample_rate_hz)
    hop = Stft.lasting(_WINDOW_S, sample_rate_hz).hop
    first = onset - 1.5 * hop  # frame 0 is centred one hop before the first sample
    axes.imshow(
        levels.T,
        origin="lower",
        aspect="auto",
        extent=(
            first / sample_rate_hz,
            (first + len(levels) * hop) / sample_rate_hz,
            0,
            sample_rate_hz / 2000,
        ),
        cmap="magma",
        vmin=ceiling_db - _RANGE_DB,
        vmax=ceiling_db,
        interpolation="nearest",
    )
    axes.set_xlim(onset / sample_rate_hz, (onset + len(samples)) / sample_rate_hz)


def _mark(axes: "Axes", regions: Sequence[SampleRegion], sample_rate_hz: int, colour: str) -> None:
    for region in regions:
        for border in region:
            axes.axvline(border / sample_rate_hz, color=colour, linewidth=0.9, linestyle="--", alpha=0.8)
