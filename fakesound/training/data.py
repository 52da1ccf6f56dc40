"""Which clips go into which step on which process, and how they become a batch.

Shape legend: B clips of one process's batch, F frames of its longest clip, M mels.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fakesound.core.errors import UserError
from fakesound.corpora.protocol import Roles
from fakesound.corpora.views import partition_rows
from fakesound.features.reader import FeatureSet
from fakesound.training.augment import Augmentation
from fakesound.training.loss import Targets

BUCKET_BATCHES = 16  # batches are cut from runs of so many, sorted by length: little padding, much shuffling
MEMORY_SHARE = 0.25  # of free memory that one process may fill with features; more goes to a mapped file
CLIPS_PER_READ = 32


class StepPlan(NamedTuple):
    """One step as one process sees it.

    Attributes:
        clips: indices of this process's clips.
        is_padding: True where a clip only fills up the batch and must not count.
        num_clips: clips of the step over all processes.
        num_frames: their frames.
    """

    clips: NDArray[np.int64]
    is_padding: NDArray[np.bool_]
    num_clips: int
    num_frames: int


def plan_epoch(
    num_frames: NDArray[np.int64],
    *,
    batch_clips: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> list[StepPlan]:
    """This process's part of every step of an epoch.

    The steps are drawn from (seed, epoch) alone: clips shuffled, sorted by length within runs of
    BUCKET_BATCHES batches, cut into ceil(N / batch_clips) batches of nearly equal size, batches shuffled.
    Process r takes every world_size-th clip from the r-th: over all processes each clip comes once. Only
    where a batch has fewer clips than there are processes do the others get its first clip as padding.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(num_frames))
    run = BUCKET_BATCHES * batch_clips
    order = np.concatenate([_by_length(order[k : k + run], num_frames) for k in range(0, len(order), run)])
    batches = np.array_split(order, steps_per_epoch(len(num_frames), batch_clips))
    steps = []
    for k in rng.permutation(len(batches)):
        batch = batches[k]
        mine = batch[rank::world_size]
        is_padding = np.zeros(max(1, len(mine)), dtype=bool)
        if not len(mine):
            mine, is_padding[:] = batch[:1], True
        steps.append(StepPlan(mine, is_padding, len(batch), int(num_frames[batch].sum())))
    return steps


def steps_per_epoch(num_clips: int, batch_clips: int) -> int:
    """Steps that it takes to see every clip once."""
    return -(-num_clips // batch_clips)


def _by_length(clips: NDArray[np.int64], num_frames: NDArray[np.int64]) -> NDArray[np.int64]:
    return clips[np.argsort(num_frames[clips], kind="stable")]


@dataclass(frozen=True)
class ClipBank:
    """Features of the clips of some rows, at hand for random access.

    Attributes:
        frames: (all frames, M) half precision: clip after clip.
        starts: (N + 1,) where each clip starts in `frames`.
        labels: (N,) 1 = forged.
        frame_labels: (all frames,) 1 = forged.
        rows: (N,) of the feature table.
    """

    frames: NDArray[np.float16]
    starts: NDArray[np.int64]
    labels: NDArray[np.uint8]
    frame_labels: NDArray[np.uint8]
    rows: NDArray[np.int64]

    @classmethod
    def read(cls, features: FeatureSet, partition: str, roles: Roles) -> "ClipBank":
        """The clips of a partition that these roles allow: in memory when they fit, else in a mapped file."""
        table = partition_rows(features.table, partition, roles)
        rows = table["row"].to_numpy()
        starts = np.concatenate([[0], np.cumsum(features.num_frames[rows])]).astype(np.int64)
        frames = _room((int(starts[-1]), features.config.num_mels))
        for first in range(0, len(rows), CLIPS_PER_READ):
            loaded = features.load(rows[first : first + CLIPS_PER_READ])
            for k, clip in enumerate(loaded, start=first):
                frames[starts[k] : starts[k + 1]] = clip
        frame_labels = np.concatenate([np.empty(0, np.uint8), *features.frame_labels(rows)])
        return cls(frames, starts, table["label"].to_numpy().astype(np.uint8), frame_labels, rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """(N,) frames of each clip."""
        return np.diff(self.starts)

    def clip(self, index: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Features (F, M) and frame labels (F,) of a clip."""
        span = slice(self.starts[index], self.starts[index + 1])
        return self.frames[span], self.frame_labels[span]

    def statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of each mel over all frames, summed in double precision.

        Raises:
            UserError: there are no clips, or a feature is not a finite number.
        """
        if not len(self):
            raise UserError("the corpus has no training clips: add recordings")
        count, num_mels = self.frames.shape
        total, squares = np.zeros(num_mels), np.zeros(num_mels)
        offset = self.frames[0].astype(np.float64)  # squares of small deviations do not cancel
        for first in range(0, count, 65_536):
            block = self.frames[first : first + 65_536].astype(np.float64) - offset
            total += block.sum(axis=0)
            squares += np.square(block).sum(axis=0)
        mean = total / count
        if not np.isfinite(squares).all():
            raise UserError("training features contain NaN or Inf: rebuild with `fakesound features`")
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return (mean + offset).astype(np.float32), std.astype(np.float32)


def _room(shape: tuple[int, int]) -> NDArray[np.float16]:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    num_bytes = 2 * shape[0] * shape[1]
    if num_bytes <= MEMORY_SHARE * free:
        return np.empty(shape, np.float16)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float16, mode="w+", shape=shape)


@dataclass(frozen=True)
class Batch:
    """Clips of unequal length, padded to the longest.

    Attributes:
        features_BFM: float32, zero where padded.
        targets: labels, masks and weights.
    """

    features_BFM: Tensor
    targets: Targets

    @property
    def mask_BF(self) -> Tensor:
        """True for frames of the clip."""
        return self.targets.mask_BF

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        targets = self.targets
        return Batch(
            self.features_BFM.to(device),
            targets._replace(
                labels_B=targets.labels_B.to(device),
                frame_labels_BF=targets.frame_labels_BF.to(device),
                mask_BF=targets.mask_BF.to(device),
                weights_B=targets.weights_B.to(device),
            ),
        )


def collate(
    bank: ClipBank, step: StepPlan, augmentation: Augmentation | None = None, epoch: int = 0
) -> Batch:
    """The batch of one process's part of a step; augmented only where an augmentation is given."""
    lengths = bank.num_frames[step.clips]
    shape = (len(step.clips), int(lengths.max()))
    features_BFM = np.zeros((*shape, bank.frames.shape[1]), np.float32)
    frame_labels_BF = np.zeros(shape, np.float32)
    for place, index in enumerate(step.clips):
        features_FM, labels_F = bank.clip(int(index))
        clip_FM = features_FM.astype(np.float32)
        if augmentation is not None:
            clip_FM = augmentation(clip_FM, labels_F, epoch=epoch, row=int(bank.rows[index]))
        features_BFM[place, : len(clip_FM)] = clip_FM
        frame_labels_BF[place, : len(clip_FM)] = labels_F
    targets = Targets(
        labels_B=torch.from_numpy(bank.labels[step.clips].astype(np.float32)),
        frame_labels_BF=torch.from_numpy(frame_labels_BF),
        mask_BF=torch.from_numpy(np.arange(shape[1]) < lengths[:, None]),
        weights_B=torch.from_numpy((~step.is_padding).astype(np.float32)),
        num_clips=step.num_clips,
        num_frames=step.num_frames,
    )
    return Batch(torch.from_numpy(features_BFM), targets)


def plan_validation(bank: ClipBank, batch_clips: int, *, rank: int, world_size: int) -> Sequence[StepPlan]:
    """Batches of this process's share of the clips, shortest first, each clip once over all processes."""
    order = _by_length(np.arange(len(bank)), bank.num_frames)[rank::world_size]
    return [
        StepPlan(clips, np.zeros(len(clips), dtype=bool), len(clips), int(bank.num_frames[clips].sum()))
        for clips in (order[k : k + batch_clips] for k in range(0, len(order), batch_clips))
    ]
