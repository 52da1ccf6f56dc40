"""Judge one audio file of any length: was it forged, and where.

A file no longer than one window is seen at once, as training clips were. A longer one is read in windows that
overlap; frame probabilities are cross-faded where windows meet. The clip probability is the highest of any
window: a forged stretch must not be diluted by hours of genuine sound around it. (The longer the file, the
more windows may raise a false alarm; each one's probability is reported, so that a caller can be stricter.)

Regions are reported only inside windows that were judged forged, so that the two never contradict each other.

Shapes: F frames, M mels, C columns of the overview.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from fakesound.core.audio import AudioError, iter_mono, probe, resample
from fakesound.core.errors import UserError
from fakesound.core.regions import Region, regions_from_frames
from fakesound.evaluation.config import DetectionConfig
from fakesound.evaluation.result import OperatingPoint
from fakesound.features.config import FeatureConfig
from fakesound.features.logmel import LogMel
from fakesound.models.bundle import Bundle
from fakesound.models.config import TokenNetworkConfig

OVERVIEW_COLUMNS = 1500

Floats = NDArray[np.float32]


class FoundRegion(NamedTuple):
    """A stretch judged forged; `probability` is the mean over its frames."""

    onset_s: float
    offset_s: float
    probability: float


class WindowScore(NamedTuple):
    """A stretch that the model saw at once, and the probability that it holds a forgery."""

    onset_s: float
    offset_s: float
    probability: float


@dataclass(frozen=True)
class Detection:
    """What was found in a file.

    Attributes:
        path: of the file.
        duration_s: s.
        probability: that the file was forged: the highest of any window.
        forged: the verdict, `probability` against the clip threshold.
        regions: forged stretches, in order; none unless `forged`.
        windows: every window.
        operating_point: the thresholds used.
        hop_s: s from frame to frame.
        frame_scores: (F,) probability of each frame.
        overview_CM: (C, M) the features, the largest of the frames that share a column.
        overview_hop_s: s from column to column.
    """

    path: str
    duration_s: float
    probability: float
    forged: bool
    regions: tuple[FoundRegion, ...]
    windows: tuple[WindowScore, ...]
    operating_point: OperatingPoint
    hop_s: float
    frame_scores: Floats
    overview_CM: Floats
    overview_hop_s: float


@dataclass(frozen=True)
class _Scored:
    """A window after the model: first frame in the file, clip probability, frame probabilities (F,)."""

    start_frame: int
    probability: float
    frame_scores: Floats


def detect_file(
    path: str | Path,
    bundle: Bundle,
    *,
    operating_point: OperatingPoint | None = None,
    config: DetectionConfig | None = None,
    device: str = "cpu",
) -> Detection:
    """Judge a file. Memory does not grow with it beyond some bytes a frame (an hour: a few MB).

    Args:
        path: an audio file.
        bundle: the detector; its front end is rebuilt from what was saved with it.
        operating_point: thresholds; None takes those that the bundle was registered with.
        config: windows and regions; None takes the defaults.
        device: a torch device.

    Raises:
        UserError: the file cannot be judged (unreadable, damaged, silent, too short), or the bundle lacks
            thresholds.
    """
    config = config or DetectionConfig()
    point = operating_point or bundle_operating_point(bundle)
    front_end = FeatureConfig.parse(bundle.front_end)
    window_frames = _window_frames(bundle, front_end, config)
    overlap_frames = min(round(config.overlap_s / front_end.hop_s), window_frames // 2)
    scored: list[_Scored] = []
    try:
        overview = _Overview(probe(path).duration_s, front_end)
        for start_frame, samples in _windows(path, front_end, window_frames, window_frames - overlap_frames):
            features_FM = _features(samples, front_end)
            overview.add(start_frame, features_FM)
            scored.append(_score(start_frame, features_FM, bundle, device))
    except AudioError as error:
        raise UserError(f"{path} could not be judged: {error}") from None
    return _conclude(path, scored, overview, point=point, config=config, overlap_frames=overlap_frames)


def bundle_operating_point(bundle: Bundle) -> OperatingPoint:
    """The thresholds that were saved with the detector.

    Raises:
        UserError: there are none.
    """
    try:
        return OperatingPoint.model_validate(bundle.facts.get("operating_point"))
    except ValidationError:
        raise UserError("the detector was saved without thresholds: register it again") from None


def find_regions(
    frame_scores: Floats,
    is_judged: NDArray[np.bool_],
    *,
    threshold: float,
    hop_s: float,
    config: DetectionConfig,
) -> list[FoundRegion]:
    """Runs of frames at or above `threshold`: close ones merged, then short ones dropped.

    Args:
        frame_scores: (F,).
        is_judged: (F,) frames inside a window that was judged forged; others are never reported.
        threshold: of a frame.
        hop_s: s from frame to frame.
        config: `merge_gap_s` and `min_region_s`.
    """
    merged: list[Region] = []
    for region in regions_from_frames(((frame_scores >= threshold) & is_judged).astype(np.uint8), hop_s):
        if merged and region.onset_s - merged[-1].offset_s <= config.merge_gap_s + 1e-9:
            merged[-1] = Region(merged[-1].onset_s, region.offset_s)
        else:
            merged.append(region)
    found = []
    for region in merged:
        if region.duration_s >= config.min_region_s - 1e-9:
            scores = frame_scores[round(region.onset_s / hop_s) : round(region.offset_s / hop_s)]
            found.append(FoundRegion(*region, probability=float(scores.mean())))
    return found


def cross_fade(windows: Sequence[tuple[int, Floats]], overlap_frames: int) -> Floats:
    """Join frame scores of windows: linear ramps over `overlap_frames`, which add up to one where two meet.

    Args:
        windows: first frame and scores of each, in order; each starts before the one before ends.
        overlap_frames: length of the ramps.
    """
    num_frames = max(start + len(scores) for start, scores in windows)
    total, weight = np.zeros(num_frames), np.zeros(num_frames)
    for index, (start, scores) in enumerate(windows):
        position = np.arange(len(scores)) + 0.5
        share = np.ones(len(scores))
        if index > 0:
            share = np.minimum(share, position / overlap_frames)
        if index < len(windows) - 1:
            share = np.minimum(share, position[::-1] / overlap_frames)
        total[start : start + len(scores)] += share * scores
        weight[start : start + len(scores)] += share
    return (total / weight).astype(np.float32)


def _conclude(
    path: str | Path,
    scored: Sequence[_Scored],
    overview: "_Overview",
    *,
    point: OperatingPoint,
    config: DetectionConfig,
    overlap_frames: int,
) -> Detection:
    hop_s = overview.front_end.hop_s
    frame_scores = cross_fade([(part.start_frame, part.frame_scores) for part in scored], overlap_frames)
    is_judged = np.zeros(len(frame_scores), dtype=bool)
    for part in scored:
        if part.probability >= point.clip:
            is_judged[part.start_frame : part.start_frame + len(part.frame_scores)] = True
    regions = find_regions(frame_scores, is_judged, threshold=point.frame, hop_s=hop_s, config=config)
    probability = max(part.probability for part in scored)
    return Detection(
        path=str(path),
        duration_s=len(frame_scores) * hop_s,
        probability=probability,
        forged=probability >= point.clip,
        regions=tuple(regions),
        windows=tuple(
            WindowScore(
                part.start_frame * hop_s,
                (part.start_frame + len(part.frame_scores)) * hop_s,
                part.probability,
            )
            for part in scored
        ),
        operating_point=point,
        hop_s=hop_s,
        frame_scores=frame_scores,
        overview_CM=overview.columns(),
        overview_hop_s=overview.stride * hop_s,
    )


def _window_frames(bundle: Bundle, front_end: FeatureConfig, config: DetectionConfig) -> int:
    """Frames of a window: what was asked for, within what the model was trained on and can take."""
    limits = [config.window_s, float(bundle.facts.get("clip_s", config.window_s))]
    frames = round(min(limits) / front_end.hop_s)
    if isinstance(bundle.config, TokenNetworkConfig):
        frames = min(frames, bundle.config.max_frames)
    return max(2, frames)


def _windows(
    path: str | Path, front_end: FeatureConfig, window_frames: int, step_frames: int
) -> Iterator[tuple[int, Floats]]:
    """First frame and samples, at the front end's rate, of each window.

    Each is resampled on its own; what that does at a window's ends lies where its cross-fade weight is least.
    The last window is longer than the overlap, since it exists only where sound goes on past the one before.
    """
    pending, dropped, index = np.zeros(0, np.float32), 0, 0
    rate_hz = front_end.sample_rate_hz

    def native(frame: int) -> int:
        return round(frame * front_end.hop_samples * rate_hz / front_end.sample_rate_hz)

    for block, rate_hz in iter_mono(path, step_frames * front_end.hop_s):
        pending = np.concatenate([pending, block])
        while dropped + len(pending) > native(index * step_frames + window_frames):
            end = native(index * step_frames + window_frames) - dropped
            yield index * step_frames, resample(pending[:end], rate_hz, front_end.sample_rate_hz)
            index += 1
            advance = native(index * step_frames) - dropped
            pending, dropped = pending[advance:], dropped + advance
    yield index * step_frames, resample(pending, rate_hz, front_end.sample_rate_hz)


def _features(samples: Floats, front_end: FeatureConfig) -> Floats:
    """(F, M), rounded to the half precision in which training saw them."""
    with torch.inference_mode():
        features_FM = LogMel(front_end)(torch.from_numpy(np.ascontiguousarray(samples))[None])[0]
        return features_FM.half().float().numpy()


@torch.inference_mode()
def _score(start_frame: int, features_FM: Floats, bundle: Bundle, device: str) -> _Scored:
    detector = bundle.detector.to(device)
    features_BFM = torch.from_numpy(features_FM)[None].to(device)
    mask_BF = torch.ones(features_BFM.shape[:2], dtype=torch.bool, device=device)
    clip_logits_B, frame_logits_BF = detector(features_BFM, mask_BF)
    probability = float(torch.sigmoid(clip_logits_B.double())[0])
    frame_scores = torch.sigmoid(frame_logits_BF.float())[0].cpu().numpy()
    if not (np.isfinite(probability) and np.isfinite(frame_scores).all()):
        raise UserError("the detector returns what is not a number: train it again")
    return _Scored(start_frame, probability, frame_scores)


class _Overview:
    """A spectrogram of at most OVERVIEW_COLUMNS columns, whatever the file's length."""

    def __init__(self, claimed_duration_s: float, front_end: FeatureConfig) -> None:
        self.front_end = front_end
        claimed_frames = max(1, int(claimed_duration_s / front_end.hop_s))
        self.stride = -(-claimed_frames // OVERVIEW_COLUMNS)
        num_columns = -(-claimed_frames // self.stride)
        self._columns_CM = np.full((num_columns, front_end.num_mels), -np.inf, dtype=np.float32)

    def add(self, start_frame: int, features_FM: Floats) -> None:
        column = (start_frame + np.arange(len(features_FM))) // self.stride
        fits = column < len(self._columns_CM)  # the header may have claimed less than there was
        np.maximum.at(self._columns_CM, column[fits], features_FM[fits])

    def columns(self) -> Floats:
        return self._columns_CM[np.isfinite(self._columns_CM).all(1)]
