"""A few validation clips, always the same, with what the detector says of them: to be looked at.

Shapes: F frames, M mels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fakesound.training.data import ClipBank
from fakesound.training.validate import Scores

FORGED, GENUINE = 2, 1  # of each partition


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip.

    Attributes:
        clip_id: of the corpus.
        family: that forged it; `genuine` where none did.
        clip_probability: of having been forged, as the detector says.
        features_FM: (F, M).
        frame_labels_F: (F,) true where forged.
        frame_probabilities_F: (F,) of being forged, as the detector says.
        hop_s: from one frame to the next.
    """

    clip_id: str
    family: str
    clip_probability: float
    features_FM: NDArray[np.float16]
    frame_labels_F: NDArray[np.bool_]
    frame_probabilities_F: NDArray[np.float64]
    hop_s: float


def samples_of(bank: ClipBank, scores: Scores) -> Iterator[Sample]:
    """As many forged and genuine clips as FORGED and GENUINE say, if there are so many, from all over the
    partition.
    """
    for label, count in ((1, FORGED), (0, GENUINE)):
        found = np.flatnonzero(bank.labels == label)
        places = np.linspace(0, len(found) - 1, min(count, len(found))).astype(np.int64)
        for index in found[places]:
            yield _sample(bank, scores, int(index))


def _sample(bank: ClipBank, scores: Scores, index: int) -> Sample:
    features_FM, labels_F = bank.clip(index)
    row = bank.features.table.slice(int(bank.rows[index]), 1).select(["clip_id", "family"]).to_pylist()[0]
    start, stop = bank.starts[index], bank.starts[index + 1]
    return Sample(
        clip_id=row["clip_id"],
        family=row["family"],
        clip_probability=float(torch.sigmoid(scores.clips_N[index].double())),
        features_FM=features_FM,
        frame_labels_F=labels_F.astype(bool),
        frame_probabilities_F=torch.sigmoid(scores.frames_T[start:stop].double()).cpu().numpy(),
        hop_s=bank.features.config.hop_s,
    )
