"""SpecAugment-style changes to training clips (Park et al., Interspeech 2019), without time warping.

Each clip's draw depends on (seed, epoch, row) alone: not on batches, processes or workers.
Shape legend: F frames, M mels.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fakesound.training.config import AugmentConfig

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """How to change a clip.

    Attributes:
        config: strengths.
        scale: of the features: a gain adds to `log` features and multiplies `power` features.
        mean_M: of the training frames: what blanked cells are set to.
        std_M: of the training frames: the unit of noise.
        seed: of the run.
    """

    config: AugmentConfig
    scale: Literal["log", "power"]
    mean_M: FloatArray
    std_M: FloatArray
    seed: int

    def __call__(
        self, features_FM: FloatArray, frame_labels_F: NDArray[np.uint8], *, epoch: int, row: int
    ) -> FloatArray:
        """A changed copy of the clip (F, M); labels stay true."""
        rng = np.random.default_rng([self.seed, epoch, row])
        config = self.config
        changed_FM = self._with_gain(features_FM, rng)
        if config.noise:
            strength_M = self.std_M * np.float32(rng.uniform(0, config.noise))
            changed_FM += rng.standard_normal(features_FM.shape, np.float32) * strength_M
        for start, stop in frequency_masks(features_FM.shape[1], config, rng):
            changed_FM[:, start:stop] = self.mean_M[start:stop]
        for start, stop in time_masks(frame_labels_F, config, rng):
            changed_FM[start:stop] = self.mean_M
        return changed_FM

    def _with_gain(self, features_FM: FloatArray, rng: np.random.Generator) -> FloatArray:
        power_gain = 10 ** (rng.uniform(-self.config.gain_db, self.config.gain_db) / 10)
        if self.scale == "log":
            return features_FM + np.float32(math.log(power_gain))
        return features_FM * np.float32(power_gain)


def frequency_masks(num_mels: int, config: AugmentConfig, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Bands [start, stop) to blank; together they leave at least one mel."""
    masks = _draw(num_mels, config.frequency_masks, config.frequency_mask_share, rng)
    visible = np.ones(num_mels, dtype=bool)
    return [mask for mask in masks if _blank(visible, mask, [(0, num_mels, 1)])]


def time_masks(
    frame_labels_F: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator
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
