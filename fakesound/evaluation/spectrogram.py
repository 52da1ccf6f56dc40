"""Mel features as every picture of this project shows them.

Shapes: F frames, M mels.
"""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

FORGED_COLOUR = "#d1495b"


def draw_spectrogram(
    axes: Axes,
    features_FM: NDArray[np.floating],
    span_s: float,
    *,
    interpolation: Literal["nearest"] | None = None,
) -> None:
    """Time to the right, mel bands upwards; colours from the 5th to the 99.8th percentile.

    Args:
        axes: to draw on.
        features_FM: (F, M).
        span_s: time that the frames span.
        interpolation: None leaves it to matplotlib.
    """
    low, high = np.percentile(features_FM, [5, 99.8])
    axes.imshow(
        features_FM.astype(np.float32).T,
        origin="lower",
        aspect="auto",
        extent=(0, span_s, 0, features_FM.shape[1]),
        cmap="magma",
        vmin=low,
        vmax=max(high, low + 1e-6),
        interpolation=interpolation,
    )
    axes.set_ylabel("mel band")
