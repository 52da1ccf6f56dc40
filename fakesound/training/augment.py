"""Changes to training clips: SpecAugment without time warping (Park et al., Interspeech 2019), gain, noise,
filters, and clips mixed with each other.

Each clip's draw depends on (seed, epoch, row, turn) alone: not on batches, processes or workers.
Shape legend: F frames, M mels.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fakesound.training.config import AugmentConfig

FloatArray = NDArray[np.float32]

FILTER_BANDS = (3, 6)  # FilterAugment's, and its narrowest band in mels
NARROWEST_BAND_MELS = 6
_FILTER_STREAM, _MIX_STREAM = 1, 2


class LabelledClip(NamedTuple):
    """A clip and what it should be judged as.

    Attributes:
        features_FM: float32.
        frame_labels_F: 1 = forged; in between where clips are mixed.
        label: 1 = forged; in between where clips are mixed.
    """

    features_FM: FloatArray
    frame_labels_F: FloatArray
    label: float


@dataclass(frozen=True)
class Augmentation:
    """How to change a clip.

    Attributes:
        config: strengths.
        scale: of the features: a gain adds to `log` features and multiplies `power` features.
        silence: the feature of a band without power.
        mean_M: of the training frames: what blanked cells are set to.
        std_M: of the training frames: the unit of noise.
        seed: of the run.
    """

    config: AugmentConfig
    scale: Literal["log", "power"]
    silence: float
    mean_M: FloatArray
    std_M: FloatArray
    seed: int

    def mix(
        self, clip: LabelledClip, other: LabelledClip, *, epoch: int, row: int, turn: int = 0
    ) -> LabelledClip:
        """The clip mixed with another in one of the two ways; as it is where a label is not shown by frames.

        (A clip can be forged in less than half a frame; then no mixture could be labelled.)
        """
        if any(given.label != given.frame_labels_F.max() for given in (clip, other)):
            return clip
        config = self.config
        rng = np.random.default_rng([self.seed, epoch, row, turn, _MIX_STREAM])
        if rng.uniform(0, config.mixed_probability) < config.cutmix_probability:
            return cutmix(clip, other, rng.beta(config.cutmix_alpha, config.cutmix_alpha), rng)
        return mixup(clip, other, rng.beta(config.mixup_alpha, config.mixup_alpha))

    def __call__(
        self,
        features_FM: FloatArray,
        frame_labels_F: NDArray[np.uint8] | FloatArray,
        *,
        epoch: int,
        row: int,
        turn: int = 0,
    ) -> FloatArray:
        """A changed copy of the clip (F, M); labels stay true.

        Args:
            features_FM: of the clip.
            frame_labels_F: what is not 0 is in part left visible.
            epoch: of the draw.
            row: of the clip in the feature table.
            turn: how many times the clip has come in this epoch already.
        """
        rng = np.random.default_rng([self.seed, epoch, row, turn])
        config = self.config
        changed_FM = self._with_gain(features_FM, rng.uniform(-config.gain_db, config.gain_db))
        if config.filter_db or config.band_limit_share:
            filter_rng = np.random.default_rng([self.seed, epoch, row, turn, _FILTER_STREAM])
            changed_FM = self._filtered(changed_FM, filter_rng)
        if config.noise:
            strength_M = self.std_M * np.float32(rng.uniform(0, config.noise))
            changed_FM += rng.standard_normal(features_FM.shape, np.float32) * strength_M
        for start, stop in frequency_masks(features_FM.shape[1], config, rng):
            changed_FM[:, start:stop] = self.mean_M[start:stop]
        for start, stop in time_masks(frame_labels_F, config, rng):
            changed_FM[start:stop] = self.mean_M
        return changed_FM

    def _filtered(self, features_FM: FloatArray, rng: np.random.Generator) -> FloatArray:
        num_mels = features_FM.shape[1]
        changed_FM = self._with_gain(features_FM, filter_gains_db(num_mels, self.config.filter_db, rng))
        silenced = int(rng.uniform(0, self.config.band_limit_share) * num_mels)
        changed_FM[:, num_mels - silenced :] = self.silence
        return changed_FM

    def _with_gain(self, features_FM: FloatArray, gain_db: float | NDArray[np.float64]) -> FloatArray:
        """A copy with a gain for all mels or one for each."""
        power_gain = 10 ** (np.asarray(gain_db) / 10)
        if self.scale == "log":
            return features_FM + np.log(power_gain).astype(np.float32)
        return features_FM * power_gain.astype(np.float32)


def filter_gains_db(num_mels: int, strength_db: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(M,) gains of a random filter: FilterAugment, linear type (Nam et al., ICASSP 2022).

    3 to 6 bands of at least 6 mels (fewer, where there are not so many) have borders at random places; each
    border, both ends included, has a gain drawn from +-strength_db; between borders gains lie on straight
    lines.
    """
    num_bands = int(rng.integers(FILTER_BANDS[0], FILTER_BANDS[1] + 1))
    narrowest = min(NARROWEST_BAND_MELS, num_mels // num_bands)
    free = np.sort(rng.integers(0, num_mels - num_bands * narrowest + 1, num_bands - 1))
    borders = np.concatenate([[0], free + narrowest * np.arange(1, num_bands), [num_mels]])
    gains_db = rng.uniform(-strength_db, strength_db, num_bands + 1)
    return np.interp(np.arange(num_mels), borders, gains_db)


def mixup(clip: LabelledClip, other: LabelledClip, own_share: float) -> LabelledClip:
    """own_share * clip + (1 - own_share) * other, features and labels alike (Zhang et al., ICLR 2018).

    The clip keeps its length: what it has beyond the other's end stays its own, and what the other has beyond
    its end is not heard, nor does it count in the label.
    """
    shared = min(len(clip.features_FM), len(other.features_FM))
    mixed = LabelledClip(clip.features_FM.copy(), clip.frame_labels_F.copy(), 0.0)
    for whole, part in zip(mixed[:2], other[:2], strict=True):
        whole[:shared] = np.float32(own_share) * whole[:shared] + np.float32(1 - own_share) * part[:shared]
    heard = float(other.frame_labels_F[:shared].max())
    return mixed._replace(label=own_share * clip.label + (1 - own_share) * heard)


def cutmix(
    clip: LabelledClip, other: LabelledClip, kept_share: float, rng: np.random.Generator
) -> LabelledClip:
    """A stretch of the clip replaced by the same stretch of another (Yun et al., ICCV 2019, over time).

    It spans 1 - kept_share of the frames that both have, uniformly placed. Frame labels come with it. Unlike
    in the paper the clip's label is not mixed but follows from the frames: forged when any is. Genuine sound
    put into a genuine clip stays genuine (docs/decisions/0011-learning-options.md).
    """
    shared = min(len(clip.features_FM), len(other.features_FM))
    width = round((1 - kept_share) * shared)
    start = int(rng.integers(0, shared - width + 1))
    mixed = LabelledClip(clip.features_FM.copy(), clip.frame_labels_F.copy(), 0.0)
    for whole, part in zip(mixed[:2], other[:2], strict=True):
        whole[start : start + width] = part[start : start + width]
    return mixed._replace(label=float(mixed.frame_labels_F.max()))


def frequency_masks(num_mels: int, config: AugmentConfig, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Bands [start, stop) to blank; together they leave at least one mel."""
    masks = _draw(num_mels, config.frequency_masks, config.frequency_mask_share, rng)
    visible = np.ones(num_mels, dtype=bool)
    return [mask for mask in masks if _blank(visible, mask, [(0, num_mels, 1)])]


def time_masks(
    frame_labels_F: NDArray[np.uint8] | FloatArray, config: AugmentConfig, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Stretches [start, stop) to blank.

    `keep_share` of the clip and of every forged region, and at least one frame of each, stays visible; a
    stretch that would break this is left out.
    """
    num_frames = len(frame_labels_F)
    masks = _draw(num_frames, config.time_masks, config.time_mask_share, rng)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], frame_labels_F != 0, [0]]).astype(np.int8)))
    spans = [(0, num_frames), *zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]
    kept = [(start, stop, max(1, math.ceil(config.keep_share * (stop - start)))) for start, stop in spans]
    visible = np.ones(num_frames, dtype=bool)
    return [mask for mask in masks if _blank(visible, mask, kept)]


def _draw(length: int, count: int, widest_share: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """`count` stretches of uniform width up to the widest, uniformly placed."""
    masks = []
    for _ in range(count):
        width = int(rng.integers(0, int(widest_share * length) + 1))
        start = int(rng.integers(0, length - width + 1))
        masks.append((start, start + width))
    return masks


def _blank(visible: NDArray[np.bool_], mask: tuple[int, int], kept: list[tuple[int, int, int]]) -> bool:
    """Blank `mask` in place unless that leaves fewer than `least` visible in some (start, stop, least)."""
    after = visible.copy()
    after[mask[0] : mask[1]] = False
    if any(after[start:stop].sum() < least for start, stop, least in kept):
        return False
    visible[:] = after
    return True
