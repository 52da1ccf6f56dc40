"""Detectors that know nothing of forgery: if they find the forged clips or frames, the corpus leaks.

Clip level: loudness, spectral centroid, bandwidth, DC offset, length, the original's sample rate. Frame
level (10 ms): level, share of high frequencies, spectral flux, position. Each level is one logistic
regression over its features and their squares (a cue may be "neither high nor low"). It is fitted on the
train partition, and also cross-fitted within each view, on other sources of that very view, where it may
learn the view's own families.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fakesound.core.audio import FloatArray, read_mono
from fakesound.core.parallel import map_parallel
from fakesound.core.regions import Region, frame_labels
from fakesound.core.schemas import GENUINE
from fakesound.core.store import Place
from fakesound.corpora.manifest import read_manifest
from fakesound.corpora.protocol import Roles
from fakesound.corpora.views import forged_by, partition_rows, view_rows, views_of
from fakesound.metrics import ranking
from fakesound.metrics.bootstrap import Estimate, Resampler, ranked
from fakesound.metrics.clip import roc_auc

Level = Literal["clip", "frame"]
Fit = Literal["train", "cross"]

CLIP_FEATURES = ("rms", "centroid", "bandwidth", "dc_offset", "length", "original_rate")
FRAME_FEATURES = ("level", "high_band_share", "flux", "position", "position_from_centre")
HOP_SAMPLES = 320
NUM_DRAWS = 1000

_WINDOW_SAMPLES = 640
_HIGH_BAND_HZ = 4_000
_FOLDS = 5
_MAX_FITTED_FRAMES = 60_000
_FLOOR = 1e-10

WHOLE = "all"  # the part that is every clip of the view


@dataclass(frozen=True)
class TrivialRow:
    """What a trivial detector reaches on a view, or on one family's clips of it and their genuine twins: AUC
    with its 95% interval over sources."""

    view: str
    part: str
    level: Level
    fit: Fit
    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class ClipCues:
    """What the detectors see of one clip.

    Attributes:
        clip: (features,).
        frames: (frames, features); spectral ones relative to the clip's mean.
        frame_labels: (frames,), 1 = forged.
    """

    clip: NDArray[np.float64]
    frames: NDArray[np.float64]
    frame_labels: NDArray[np.uint8]


@dataclass(frozen=True)
class _Items:
    """Clips or frames of a set of clips: features (n, K), labels (n,), the clip that each lies in (n,)."""

    features: NDArray[np.float64]
    labels: NDArray[np.int64]
    clip: NDArray[np.int64]


def trivial_detectors(corpus: Place, roles: Roles, jobs: int | None = None) -> list[TrivialRow]:
    """AUC of the trivial detectors on each view that has both classes, and on each of its families.

    Args:
        corpus: a finished one; its audio is read.
        roles: of the attack families.
        jobs: processes; default: one a core.

    Raises:
        IntegrityError: the corpus is unfinished or was altered.
    """
    table = read_manifest(corpus)
    cues = read_cues(corpus, table, jobs)
    train = partition_rows(table, "train", roles)
    rows = []
    for level in ("clip", "frame"):
        fitted = _fit(_items(_cues_of(train, cues), train, level)) if _has_both(train) else None
        for view in views_of(roles):
            clips = view_rows(table, view, roles)
            for part, members in _parts(clips).items():
                items = _items(_cues_of(members, cues), members, level)
                sources = np.asarray(members["source_component"].to_pylist())
                scores: dict[Fit, NDArray[np.float64]] = {"cross": _cross_fitted(items, sources)}
                if fitted is not None:
                    scores = {"train": fitted.decision_function(items.features), **scores}
                rows += [
                    TrivialRow(view, part, level, fit, *_estimate(items, found, sources))
                    for fit, found in scores.items()
                ]
    return rows


def _parts(clips: pa.Table) -> dict[str, pa.Table]:
    """The view, and each of its families with its genuine twins where there is more than one family."""
    if not _has_both(clips):
        return {}
    families = sorted(set(clips["family"].to_pylist()) - {GENUINE})
    by_family = {family: forged_by(clips, [family]) for family in families if len(families) > 1}
    return {WHOLE: clips} | by_family


def _has_both(clips: pa.Table) -> bool:
    """Whether there are genuine and forged clips: with one class alone there is nothing to tell apart."""
    return len(clips["label"].unique()) == 2


def read_cues(corpus: Place, table: pa.Table, jobs: int | None = None) -> dict[str, ClipCues]:
    """The cues of every clip, by clip id."""
    columns = ["clip_id", "path", "regions", "native_sample_rate_hz"]
    clips = table.select(columns).to_pylist()
    found = map_parallel(partial(_read_cues, corpus.uri), clips, description="trivial detectors", jobs=jobs)
    return {clip["clip_id"]: cues for clip, cues in zip(clips, found, strict=True)}


def clip_cues(
    samples: FloatArray, sample_rate_hz: int, native_rate_hz: int, regions: Iterable[Region]
) -> ClipCues:
    """Cues of samples (n,)."""
    magnitudes = _magnitudes(samples)
    power = magnitudes.astype(np.float64) ** 2
    frequencies_hz = np.fft.rfftfreq(_WINDOW_SAMPLES, 1 / sample_rate_hz).astype(np.float64)
    spectrum = power.mean(axis=0) + _FLOOR
    centroid_hz = float(frequencies_hz @ spectrum / spectrum.sum())
    spread_hz = float(np.sqrt((frequencies_hz - centroid_hz) ** 2 @ spectrum / spectrum.sum()))
    rms = float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
    seconds = len(samples) / sample_rate_hz
    dc_offset = abs(float(samples.mean(dtype=np.float64)))
    clip = [np.log(rms + _FLOOR), np.log(centroid_hz), np.log(spread_hz), dc_offset, seconds, native_rate_hz]
    labels = frame_labels(regions, len(power), HOP_SAMPLES, sample_rate_hz)
    return ClipCues(np.asarray(clip, dtype=np.float64), _frame_cues(power, frequencies_hz), labels)


def _read_cues(corpus_uri: str, clip: dict[str, Any]) -> ClipCues:
    samples, rate_hz = read_mono(Place(corpus_uri).local_path(clip["path"]))
    regions = [Region(**region) for region in clip["regions"]]
    return clip_cues(samples, rate_hz, clip["native_sample_rate_hz"], regions)


def _magnitudes(samples: FloatArray) -> FloatArray:
    """Spectra (frames, bins) of windows centred on the 10 ms frames."""
    num_frames = max(1, len(samples) // HOP_SAMPLES)
    margin = (_WINDOW_SAMPLES - HOP_SAMPLES) // 2
    padded = np.pad(samples, (margin, margin + max(0, HOP_SAMPLES - len(samples))), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW_SAMPLES)[::HOP_SAMPLES][:num_frames]
    return np.abs(np.fft.rfft(windows * np.hanning(_WINDOW_SAMPLES).astype(np.float32), axis=1))


def _frame_cues(power: NDArray[np.float64], frequencies_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    total = power.sum(axis=1) + _FLOOR
    high = power[:, frequencies_hz >= _HIGH_BAND_HZ].sum(axis=1) + _FLOOR
    shape = power / total[:, None]
    change = np.abs(np.diff(shape, axis=0, prepend=shape[:1])).sum(axis=1)
    spectral = np.column_stack([np.log(total), np.log(high / total), np.log(change + 1e-3)])
    position = (np.arange(len(power)) + 0.5) / len(power)
    return np.column_stack([spectral - spectral.mean(axis=0), position, np.abs(position - 0.5)])


def _cues_of(clips: pa.Table, cues: dict[str, ClipCues]) -> list[ClipCues]:
    return [cues[clip_id] for clip_id in clips["clip_id"].to_pylist()]


def _items(cues: Sequence[ClipCues], clips: pa.Table, level: Level) -> _Items:
    if level == "clip":
        labels = np.asarray(clips["label"].to_pylist(), dtype=np.int64)
        return _Items(np.stack([one.clip for one in cues]), labels, np.arange(len(cues)))
    lengths = [len(one.frame_labels) for one in cues]
    return _Items(
        np.concatenate([one.frames for one in cues]),
        np.concatenate([one.frame_labels for one in cues]).astype(np.int64),
        np.repeat(np.arange(len(cues)), lengths),
    )


def _fit(items: _Items) -> Any:
    """A logistic regression with balanced classes, on no more frames than it needs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    step = max(1, -(-len(items.labels) // _MAX_FITTED_FRAMES))
    model = make_pipeline(
        StandardScaler(), FunctionTransformer(_with_squares), LogisticRegression(class_weight="balanced")
    )
    return model.fit(items.features[::step], items.labels[::step])


def _with_squares(features: NDArray[np.float64]) -> NDArray[np.float64]:
    limited = np.clip(features, -4, 4)  # one outlier should not steer a fit
    return np.hstack([limited, limited**2])


def _cross_fitted(items: _Items, sources: NDArray[np.str_]) -> NDArray[np.float64]:
    """Scores of each source's items by a detector fitted on the other folds of sources."""
    names, numbers = np.unique(sources, return_inverse=True)
    fold_of_source = np.random.default_rng(0).permutation(len(names)) % min(_FOLDS, len(names))
    fold = fold_of_source[numbers][items.clip]
    scores = np.zeros(len(items.labels))
    for held_out in np.unique(fold):
        here, others = fold == held_out, fold != held_out
        if len(np.unique(items.labels[others])) == 2:
            fitted = _fit(_Items(items.features[others], items.labels[others], items.clip[others]))
            scores[here] = fitted.decision_function(items.features[here])
    return scores


def _estimate(items: _Items, scores: NDArray[np.float64], sources: NDArray[np.str_]) -> Estimate:
    """AUC with its interval."""
    resampler = Resampler(sources, num_draws=NUM_DRAWS, seed=0)
    histograms = resampler.score_histograms(items.labels, scores, items.clip)
    value = roc_auc(items.labels, scores)
    return resampler.estimate(histograms, ranked(ranking.auc), value=value)
