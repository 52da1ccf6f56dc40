"""A detection as text, JSON, Audacity labels or a picture."""

import json
from pathlib import Path

import numpy as np

from fakesound.evaluation.detect import Detection

_PLOT_POINTS = 2000
_SCORE = "#00798c"


def render_text(detection: Detection, model: str) -> str:
    """The verdict in one line, then a line a region.

    Args:
        detection: what was found.
        model: which detector judged, as the user knows it.
    """
    lines = [f"{printable(detection.path)}: {_verdict(detection)}, judged by {printable(model)}"]
    for region in detection.regions:
        lines.append(
            f"  {region.onset_s:9.2f} - {region.offset_s:9.2f} s  probability {region.probability:.2f}"
        )
    if detection.forged and not detection.regions:
        lines.append("  no single stretch stands out")
    return "\n".join(lines)


def render_json(detection: Detection, model: str) -> str:
    """One JSON object; times in seconds. Frame scores are left out: an hour has 360,000 of them."""
    value = {
        "schema": 1,
        "path": detection.path,
        "model": model,
        "forged": detection.forged,
        "probability": round(detection.probability, 6),
        "operating_point": detection.operating_point.model_dump(),
        "duration_s": round(detection.duration_s, 3),
        "regions": [_rounded(region._asdict()) for region in detection.regions],
        "windows": [_rounded(window._asdict()) for window in detection.windows],
    }
    return json.dumps(value, indent=1)


def render_audacity(detection: Detection) -> str:
    """A label track: onset, offset in seconds and label, tab separated, a line a region."""
    return "".join(
        f"{region.onset_s:.6f}\t{region.offset_s:.6f}\tforged {region.probability:.2f}\n"
        for region in detection.regions
    )


def plot_detection(detection: Detection, path: str | Path, form: str = "png") -> None:
    """Write a picture: spectrogram with the regions, and the frame probability against its threshold.

    Args:
        detection: what was found.
        path: file to write, whatever its name.
        form: format, as matplotlib names it.

    Raises:
        OSError: the file cannot be written.
        ValueError: matplotlib does not know the format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from fakesound.evaluation.spectrogram import FORGED_COLOUR, draw_spectrogram

    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    image, curve = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    span_s = len(detection.overview_CM) * detection.overview_hop_s
    draw_spectrogram(image, detection.overview_CM, span_s, interpolation="nearest")
    image.set_title(_verdict(detection))
    times_s, scores = _thinned(detection)
    curve.plot(times_s, scores, color=_SCORE, linewidth=1)
    curve.axhline(
        detection.operating_point.frame, color="grey", linestyle="--", linewidth=1, label="threshold"
    )
    for region in detection.regions:
        image.axvspan(region.onset_s, region.offset_s, edgecolor="white", facecolor="none", linewidth=1.2)
        curve.axvspan(region.onset_s, region.offset_s, color=FORGED_COLOUR, alpha=0.3, linewidth=0)
    curve.set(ylim=(0, 1.02), xlim=(0, detection.duration_s), xlabel="time, s", ylabel="P(forged)")
    curve.legend(loc="upper right", frameon=False)
    figure.savefig(str(path), dpi=120, format=form)


def printable(text: str) -> str:
    """`text` with control characters replaced: a file's name must not steer the terminal."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _verdict(detection: Detection) -> str:
    verdict = "forged" if detection.forged else "nothing found"
    threshold = detection.operating_point.clip
    return (
        f"{verdict} (probability {detection.probability:.2f}, threshold {threshold:.2f}, "
        f"{detection.duration_s:.2f} s)"
    )


def _thinned(detection: Detection) -> tuple[np.ndarray, np.ndarray]:
    """Times and frame scores, the largest of each run of frames that would share a pixel."""
    stride = -(-len(detection.frame_scores) // _PLOT_POINTS)
    starts = np.arange(0, len(detection.frame_scores), stride)
    return (starts + stride / 2) * detection.hop_s, np.maximum.reduceat(detection.frame_scores, starts)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 6) for key, value in values.items()}
