"""Which clips go into which step on which process, and how they become a batch.

Features of a large corpus do not fit in memory. An epoch is therefore cut into windows: some thousand clips,
whole row groups in an order shuffled anew for each epoch. Clips are shuffled and batched within a window; the
next window is read while this one is trained on. A corpus of one window stays in memory and is shuffled
whole.

Shape legend: B clips of one process's batch, F frames of its longest clip, G groups of clips, M mels, N clips
of a partition, T frames of all of them.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fakesound.attacks.splice import SPLICE
from fakesound.core.errors import UserError
from fakesound.corpora.protocol import Roles
from fakesound.corpora.views import partition_rows
from fakesound.features.reader import FeatureSet
from fakesound.training.augment import Augmentation, LabelledClip
from fakesound.training.config import SamplingConfig, TrainingConfig
from fakesound.training.loss import GroupCounts, Targets

BUCKET_BATCHES = 16  # batches are cut from runs of so many, sorted by length: little padding, much shuffling
WINDOW_CLIPS = 2048  # half a gigabyte of ten-second clips at 128 mels; a process holds two windows at most
CLIPS_PER_READ = 32
_ROW_GROUP_STREAM, _SAMPLING_STREAM, _PARTNER_STREAM = 1, 2, 3


class StepPlan(NamedTuple):
    """One step as one process sees it.

    Attributes:
        clips: indices of this process's clips.
        turns: how many times each has come in this epoch already.
        partners: what each is mixed with: another clip of the whole step, or itself where it is not mixed.
        is_padding: True where a clip only fills up the batch and must not count.
        num_clips: clips of the step over all processes.
        num_frames: their frames.
        window: the steps of a window stand together, and so do their clips in the files.
        group_clips: (G,) clips of each group over all processes, up to the last group that the epoch has;
            None where groups do not matter.
        group_frames: (G,) their frames.
    """

    clips: NDArray[np.int64]
    turns: NDArray[np.int64]
    partners: NDArray[np.int64]
    is_padding: NDArray[np.bool_]
    num_clips: int
    num_frames: int
    window: int
    group_clips: NDArray[np.int64] | None = None
    group_frames: NDArray[np.int64] | None = None

    def part(self, places: NDArray[np.int64]) -> "StepPlan":
        """The same step with these of this process's clips alone."""
        return self._replace(
            clips=self.clips[places],
            turns=self.turns[places],
            partners=self.partners[places],
            is_padding=self.is_padding[places],
        )


def plan_training(
    bank: "ClipBank", config: TrainingConfig, *, epoch: int, rank: int = 0, world_size: int = 1
) -> list[StepPlan]:
    """This process's part of every step of an epoch: the clips of `draw_clips` in the order of `plan_epoch`.

    Args:
        bank: the training clips.
        config: of the training.
        epoch: 0 for the first.
        rank: this process.
        world_size: how many there are.

    Raises:
        UserError: cutmix, and clips whose forgery is what cutmix does to genuine ones.
    """
    if config.augment.cutmix_probability and SPLICE.mechanism in bank.mechanisms:
        raise UserError(
            "some training clips are forged by splicing in genuine sound, as cutmix does to genuine ones: "
            "one sound would have both labels. Set training.augment.cutmix_probability=0, or leave "
            f"{SPLICE.mechanism} out of training (unseen)"
        )
    draws = draw_clips(bank.groups, bank.labels, config.sampling, seed=config.seed, epoch=epoch)
    turns = np.arange(len(draws)) - np.searchsorted(draws, draws)  # equal draws are neighbours
    steps = plan_epoch(
        bank.num_frames[draws],
        bank.row_groups[draws],
        batch_clips=config.batch_clips,
        seed=config.seed,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
        mixed_probability=config.augment.mixed_probability,
        groups=bank.groups[draws] if config.loss.group_dro_step else None,
    )
    return [
        step._replace(clips=draws[step.clips], turns=turns[step.clips], partners=draws[step.partners])
        for step in steps
    ]


def draw_clips(
    groups: NDArray[np.int64],
    labels: NDArray[np.uint8],
    sampling: SamplingConfig,
    *,
    seed: int,
    epoch: int,
) -> NDArray[np.int64]:
    """The clips of an epoch, ascending: N of them, some several times where they are balanced.

    Balanced, both labels (if there are both) get half of the N draws, and each group of a label the same part
    of its half, to the nearest whole number. Within a group no clip is drawn twice more than another. What
    division leaves over is drawn from (seed, epoch).

    Args:
        groups: (N,) a number for each family of forgery, and for the genuine clips.
        labels: (N,) 1 = forged; all clips of a group have the same.
        sampling: whether to balance.
        seed: of the training.
        epoch: 0 for the first.
    """
    num_clips = len(groups)
    if sampling.balance == "none" or not num_clips:
        return np.arange(num_clips)
    rng = np.random.default_rng([seed, epoch, 0, 0, _SAMPLING_STREAM])
    names, first = np.unique(groups, return_index=True)
    label_of_group = labels[first]
    _, label_place, groups_of_label = np.unique(label_of_group, return_inverse=True, return_counts=True)
    shares = 1 / (len(groups_of_label) * groups_of_label[label_place])
    drawn = []
    for name, quota in zip(names, _whole_quotas(num_clips, shares, rng), strict=True):
        members = np.flatnonzero(groups == name)
        rounds, rest = divmod(int(quota), len(members))
        drawn += [members] * rounds + [rng.permutation(members)[:rest]]
    return np.sort(np.concatenate(drawn))


def _whole_quotas(total: int, shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Whole numbers that sum to `total`, each less than 1 from its share; equal remainders take turns."""
    exact = total * shares
    quotas = np.floor(exact + 1e-9).astype(np.int64)
    order = np.lexsort((rng.random(len(shares)), np.round(quotas - exact, 9)))
    quotas[order[: total - quotas.sum()]] += 1
    return quotas


def plan_epoch(
    num_frames: NDArray[np.int64],
    row_groups: NDArray[np.int64],
    *,
    batch_clips: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    mixed_probability: float = 0.0,
    groups: NDArray[np.int64] | None = None,
) -> list[StepPlan]:
    """This process's part of every step of an epoch in which each of N clips comes once.

    The steps are drawn from (seed, epoch) alone: row groups shuffled and cut into windows; in each window
    clips shuffled, sorted by length within runs of BUCKET_BATCHES batches, cut into batches of nearly equal
    size, batches shuffled. There are ceil(N / batch_clips) steps.

    A batch is dealt to processes in the order of its clips' row groups, so that each reads its own part of a
    window and little else. Over all processes each clip comes once. Only where a batch has fewer clips than
    there are processes do the others get its first clip as padding.

    Partners are drawn from the whole step, and so do not depend on the number of processes either; a process
    reads those of its clips besides the clips themselves.

    Args:
        num_frames: (N,) of each clip.
        row_groups: (N,) what is read together with each clip.
        batch_clips: of a step, over all processes.
        seed: of the training.
        epoch: 0 for the first.
        rank: this process.
        world_size: how many there are.
        mixed_probability: of a clip having another clip as its partner.
        groups: (N,) to be counted in each step; None counts nothing.
    """
    rng = np.random.default_rng([seed, epoch])
    partner_rng = np.random.default_rng([seed, epoch, 0, 0, _PARTNER_STREAM])
    num_groups = 0 if groups is None else int(groups.max(initial=-1)) + 1
    place = _shuffled_places(row_groups, seed, epoch)
    steps = []
    for window, (clips, num_steps) in enumerate(_windows(np.argsort(place), batch_clips)):
        order = clips[rng.permutation(len(clips))]
        run = BUCKET_BATCHES * batch_clips
        order = np.concatenate(
            [_by_length(order[k : k + run], num_frames) for k in range(0, len(order), run)]
        )
        batches = np.array_split(order, num_steps)
        for k in rng.permutation(num_steps):
            batch = batches[k]
            whole = StepPlan(
                batch,
                np.zeros_like(batch),
                _partners(batch, mixed_probability, partner_rng),
                np.zeros(len(batch), dtype=bool),
                len(batch),
                int(num_frames[batch].sum()),
                window,
            )
            if groups is not None:
                whole = whole._replace(
                    group_clips=np.bincount(groups[batch], minlength=num_groups),
                    group_frames=np.bincount(groups[batch], num_frames[batch], num_groups).astype(np.int64),
                )
            mine = np.sort(np.array_split(np.argsort(place[batch]), world_size)[rank])
            steps.append(
                whole.part(mine)
                if len(mine)
                else whole.part(np.array([0]))._replace(is_padding=np.ones(1, dtype=bool))
            )
    return steps


def _partners(
    batch: NDArray[np.int64], mixed_probability: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    if not mixed_probability or len(batch) < 2:
        return batch
    own = np.arange(len(batch))
    others = (own + rng.integers(1, len(batch), len(batch))) % len(batch)
    return batch[np.where(rng.random(len(batch)) < mixed_probability, others, own)]


def steps_per_epoch(num_clips: int, batch_clips: int) -> int:
    """Steps that it takes to see every clip once."""
    return -(-num_clips // batch_clips)


def _shuffled_places(row_groups: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """(N,) where each clip comes when row groups are shuffled and clips stay in order within them."""
    names, group = np.unique(row_groups, return_inverse=True)
    turn = np.random.default_rng([seed, epoch, _ROW_GROUP_STREAM]).permutation(len(names))
    place = np.empty(len(group), np.int64)
    place[np.argsort(turn[group], kind="stable")] = np.arange(len(group))
    return place


def _windows(clips: NDArray[np.int64], batch_clips: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Consecutive stretches of `clips`, each sorted, and the number of its steps; only the last is short."""
    steps = np.arange(steps_per_epoch(len(clips), batch_clips))
    num_windows = -(-len(steps) // max(1, WINDOW_CLIPS // batch_clips))
    for part in np.array_split(steps, num_windows) if num_windows else ():
        yield np.sort(clips[part[0] * batch_clips : (part[-1] + 1) * batch_clips]), len(part)


def _by_length(clips: NDArray[np.int64], num_frames: NDArray[np.int64]) -> NDArray[np.int64]:
    return clips[np.argsort(num_frames[clips], kind="stable")]


@dataclass
class ClipBank:
    """The clips of a partition: labels of all in memory, features of those that are at hand.

    Attributes:
        features: where the clips are.
        rows: (N,) of the feature table.
        starts: (N + 1,) where the frames of each clip start among all T.
        labels: (N,) 1 = forged.
        frame_labels: (T,) 1 = forged, clip after clip.
        groups: (N,) a number for each family of forgery, and for the genuine clips.
        mechanisms: that forged any of the clips.
    """

    features: FeatureSet
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    labels: NDArray[np.uint8]
    frame_labels: NDArray[np.uint8]
    groups: NDArray[np.int64]
    mechanisms: frozenset[str]
    _at_hand: dict[int, NDArray[np.float16]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, features: FeatureSet, partition: str, roles: Roles) -> "ClipBank":
        """The clips of a partition that these roles allow; their features too, where they fill no more than
        one window."""
        table = partition_rows(features.table, partition, roles)
        rows = table["row"].to_numpy()
        starts = np.concatenate([[0], np.cumsum(features.num_frames[rows])]).astype(np.int64)
        labels = table["label"].to_numpy().astype(np.uint8)
        frame_labels = np.concatenate([np.empty(0, np.uint8), *features.frame_labels(rows)])
        bank = cls(
            features,
            rows,
            starts,
            labels,
            frame_labels,
            groups=_groups(table["family"].to_pylist(), labels),
            mechanisms=frozenset(table["mechanism"].to_pylist()),
        )
        if len(bank) <= WINDOW_CLIPS:
            bank._at_hand = bank._load(np.arange(len(bank)))
        return bank

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """(N,) frames of each clip."""
        return np.diff(self.starts)

    @property
    def num_groups(self) -> int:
        """G."""
        return int(self.groups.max(initial=-1)) + 1

    @property
    def row_groups(self) -> NDArray[np.int64]:
        """(N,) what is read together with each clip."""
        return self.features.row_groups(self.rows)

    def clip(self, index: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Features (F, M) and frame labels (F,) of a clip; read now, with its row group, if not at hand."""
        clip_FM = self._at_hand[index] if index in self._at_hand else self._load([index])[index]
        return clip_FM, self.frame_labels[self.starts[index] : self.starts[index + 1]]

    def labelled(self, index: int) -> LabelledClip:
        """The same in single precision, with the clip's label."""
        clip_FM, labels_F = self.clip(index)
        return LabelledClip(
            clip_FM.astype(np.float32), labels_F.astype(np.float32), float(self.labels[index])
        )

    def at_hand(self, steps: Sequence[StepPlan]) -> Iterator[StepPlan]:
        """Yield the steps, each with its clips at hand: a window in memory, the next being read meanwhile."""
        if len(self._at_hand) == len(self):
            yield from steps
            return
        windows = [list(group) for _, group in groupby(steps, key=lambda step: step.window)]
        with ThreadPoolExecutor(1, "next-window") as reader:
            try:
                coming = [reader.submit(self._load, _clips_of(window)) for window in windows[:1]]
                for k, window in enumerate(windows):
                    self._at_hand = {}  # before the next is read, or there would be three
                    self._at_hand = coming.pop().result()
                    coming += [
                        reader.submit(self._load, _clips_of(after)) for after in windows[k + 1 : k + 2]
                    ]
                    yield from window
            finally:
                self._at_hand = {}

    def statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of each mel over all frames, summed in double precision.

        Raises:
            UserError: there are no clips, or a feature is not a finite number.
        """
        if not len(self):
            raise UserError("the corpus has no training clips: add recordings")
        offset = self.clip(0)[0][0].astype(np.float64)  # squares of small deviations do not cancel
        total, squares = np.zeros_like(offset), np.zeros_like(offset)
        for first in range(0, len(self), CLIPS_PER_READ):
            clips = [self.clip(index)[0] for index in range(first, min(first + CLIPS_PER_READ, len(self)))]
            block = np.concatenate(clips).astype(np.float64) - offset
            total += block.sum(axis=0)
            squares += np.square(block).sum(axis=0)
        mean = total / self.starts[-1]
        if not np.isfinite(squares).all():
            raise UserError("training features contain NaN or Inf: rebuild with `fakesound features`")
        std = np.sqrt(np.maximum(squares / self.starts[-1] - mean**2, 0))
        return (mean + offset).astype(np.float32), std.astype(np.float32)

    def _load(self, clips: Sequence[int] | NDArray[np.int64]) -> dict[int, NDArray[np.float16]]:
        """Features of these clips, ascending, copied out of the row groups that they were decoded with."""
        loaded = {}
        for first in range(0, len(clips), CLIPS_PER_READ):
            part = clips[first : first + CLIPS_PER_READ]
            for index, clip_FM in zip(part, self.features.load(self.rows[part]), strict=True):
                loaded[int(index)] = clip_FM.copy()
        return loaded


def _clips_of(steps: Sequence[StepPlan]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([clips for step in steps for clips in (step.clips, step.partners)]))


def _groups(families: Sequence[str], labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N,) the place of each clip's (family, label) among all of them."""
    pairs = list(zip(families, labels.tolist(), strict=True))
    places = {pair: place for place, pair in enumerate(sorted(set(pairs)))}
    return np.array([places[pair] for pair in pairs], np.int64)


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
        targets, groups = self.targets, self.targets.groups
        return Batch(
            self.features_BFM.to(device),
            targets._replace(
                labels_B=targets.labels_B.to(device),
                frame_labels_BF=targets.frame_labels_BF.to(device),
                mask_BF=targets.mask_BF.to(device),
                weights_B=targets.weights_B.to(device),
                groups=groups and GroupCounts(*(counts.to(device) for counts in groups)),
            ),
        )


def collate(
    bank: ClipBank, step: StepPlan, augmentation: Augmentation | None = None, epoch: int = 0
) -> Batch:
    """The batch of one process's part of a step; mixed and augmented only where an augmentation is given."""
    lengths = bank.starts[step.clips + 1] - bank.starts[step.clips]
    shape = (len(step.clips), int(lengths.max()))
    features_BFM = np.zeros((*shape, bank.features.config.num_mels), np.float32)
    frame_labels_BF = np.zeros(shape, np.float32)
    labels_B = np.zeros(len(step.clips), np.float32)
    for place, index in enumerate(step.clips):
        clip = bank.labelled(int(index))
        if augmentation is not None:
            row, turn, partner = int(bank.rows[index]), int(step.turns[place]), int(step.partners[place])
            if partner != index:
                clip = augmentation.mix(clip, bank.labelled(partner), epoch=epoch, row=row, turn=turn)
            changed_FM = augmentation(*clip[:2], epoch=epoch, row=row, turn=turn)
            clip = clip._replace(features_FM=changed_FM)
        features_BFM[place, : lengths[place]] = clip.features_FM
        frame_labels_BF[place, : lengths[place]] = clip.frame_labels_F
        labels_B[place] = clip.label
    targets = Targets(
        labels_B=torch.from_numpy(labels_B),
        frame_labels_BF=torch.from_numpy(frame_labels_BF),
        mask_BF=torch.from_numpy(np.arange(shape[1]) < lengths[:, None]),
        weights_B=torch.from_numpy((~step.is_padding).astype(np.float32)),
        num_clips=step.num_clips,
        num_frames=step.num_frames,
        groups=_group_counts(bank, step),
    )
    return Batch(torch.from_numpy(features_BFM), targets)


def _group_counts(bank: ClipBank, step: StepPlan) -> GroupCounts | None:
    if step.group_clips is None or step.group_frames is None:
        return None
    numbers = (bank.groups[step.clips], step.group_clips, step.group_frames)
    return GroupCounts(*(torch.from_numpy(np.asarray(number, np.int64)) for number in numbers))


def plan_validation(
    num_frames: NDArray[np.int64], batch_clips: int, *, rank: int, world_size: int
) -> list[StepPlan]:
    """Batches of this process's share of the clips: a window after the other, shortest first within it.

    A share is consecutive clips. Over all processes each clip comes once.
    """
    mine = np.array_split(np.arange(len(num_frames)), world_size)[rank]
    steps = []
    for window, start in enumerate(range(0, len(mine), WINDOW_CLIPS)):
        order = _by_length(mine[start : start + WINDOW_CLIPS], num_frames)
        for k in range(0, len(order), batch_clips):
            clips = order[k : k + batch_clips]
            is_padding = np.zeros(len(clips), dtype=bool)
            first_turns = np.zeros_like(clips)
            num_valid = int(num_frames[clips].sum())
            steps.append(StepPlan(clips, first_turns, clips, is_padding, len(clips), num_valid, window))
    return steps
