from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.core.store import Store
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features
from fakesound.features.reader import FeatureSet
from fakesound.training import data
from fakesound.training.augment import Augmentation
from fakesound.training.config import AugmentConfig, SamplingConfig, TrainingConfig
from fakesound.training.data import (
    ClipBank,
    collate,
    draw_clips,
    plan_epoch,
    plan_training,
    plan_validation,
    steps_per_epoch,
)

lengths = st.lists(st.integers(1, 1000), min_size=1, max_size=90).map(np.array)
window_clips = st.sampled_from([1, 7, 16, 40, 2048])


def groups_of(num_frames, clips_per_group=6):
    return np.arange(len(num_frames)) // clips_per_group


def plan(num_frames, **arguments):
    return plan_epoch(num_frames, groups_of(num_frames), **arguments)


@given(lengths, st.integers(1, 20), st.integers(1, 9), st.integers(0, 3), window_clips)
def test_over_all_ranks_each_clip_comes_once(num_frames, batch_clips, world_size, epoch, window):
    with patch.object(data, "WINDOW_CLIPS", window):
        ranks = [
            plan(num_frames, batch_clips=batch_clips, seed=0, epoch=epoch, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
    counted = np.concatenate([step.clips[~step.is_padding] for steps in ranks for step in steps])
    np.testing.assert_array_equal(np.sort(counted), np.arange(len(num_frames)))
    assert {len(steps) for steps in ranks} == {steps_per_epoch(len(num_frames), batch_clips)}
    for parts in zip(*ranks, strict=True):
        clips = np.concatenate([part.clips[~part.is_padding] for part in parts])
        assert {part.num_clips for part in parts} == {len(clips)}
        assert len(clips) <= batch_clips
        assert {part.num_frames for part in parts} == {num_frames[clips].sum()}
        assert len({part.window for part in parts}) == 1
        assert all(len(part.clips) >= 1 for part in parts)
        assert not any(part.is_padding.any() for part in parts) or len(clips) < world_size


@given(lengths, st.integers(1, 20), st.integers(1, 5), window_clips)
def test_steps_do_not_depend_on_the_number_of_processes(num_frames, batch_clips, world_size, window):
    with patch.object(data, "WINDOW_CLIPS", window):
        alone = plan(num_frames, batch_clips=batch_clips, seed=1, epoch=2)
        ranks = [
            plan(num_frames, batch_clips=batch_clips, seed=1, epoch=2, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
    for whole, *parts in zip(alone, *ranks, strict=True):
        clips = np.concatenate([part.clips[~part.is_padding] for part in parts])
        np.testing.assert_array_equal(np.sort(whole.clips), np.sort(clips))
        assert {part.window for part in parts} == {whole.window}


@given(lengths, st.integers(1, 20), window_clips)
def test_a_window_holds_few_clips_of_neighbouring_row_groups(num_frames, batch_clips, window):
    with patch.object(data, "WINDOW_CLIPS", window):
        steps = plan(num_frames, batch_clips=batch_clips, seed=0, epoch=0)
    numbers = [step.window for step in steps]
    assert numbers == sorted(numbers)
    read = 0
    for number in range(numbers[-1] + 1):
        clips = np.concatenate([step.clips for step in steps if step.window == number])
        assert len(clips) <= max(window, batch_clips)
        read += len(np.unique(groups_of(num_frames)[clips]))
    assert read <= groups_of(num_frames)[-1] + 1 + numbers[-1]  # only a window's border cuts a group


def test_each_process_reads_mostly_its_own_row_groups():
    num_frames = np.full(2048, 1000)
    groups = groups_of(num_frames, 32)
    read = 0
    for rank in range(8):
        steps = plan_epoch(num_frames, groups, batch_clips=128, seed=0, epoch=0, rank=rank, world_size=8)
        read += len(np.unique(groups[np.concatenate([step.clips for step in steps])]))
    assert read < 3 * 64  # all of them reading all would be 8 * 64


def test_row_groups_and_clips_are_shuffled():
    num_frames = np.full(4096, 1000)
    with patch.object(data, "WINDOW_CLIPS", 512):
        epochs = [plan(num_frames, batch_clips=16, seed=0, epoch=epoch) for epoch in (0, 1)]
    first_windows = [
        set(np.concatenate([step.clips for step in steps if step.window == 0]).tolist()) for steps in epochs
    ]
    assert len(first_windows[0] & first_windows[1]) < 128  # 64 by chance, of 512
    groups_in_a_batch = np.mean([len(np.unique(groups_of(num_frames)[step.clips])) for step in epochs[0]])
    assert groups_in_a_batch > 13  # 14.7 for 16 of 86 groups by chance


def test_order_changes_with_epoch_and_seed_and_repeats_for_the_same():
    num_frames = np.random.default_rng(0).integers(50, 1000, 64)

    def order(seed, epoch):
        steps = plan(num_frames, batch_clips=8, seed=seed, epoch=epoch)
        return np.concatenate([step.clips for step in steps]).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_batches_hold_clips_of_like_length():
    num_frames = np.random.default_rng(0).integers(50, 1000, 512)
    steps = plan(num_frames, batch_clips=16, seed=0, epoch=0)
    padded = sum(len(step.clips) * num_frames[step.clips].max() for step in steps)
    assert padded < 1.15 * num_frames.sum()


@given(lengths, st.integers(1, 20), st.integers(1, 9), window_clips)
def test_validation_scores_each_clip_once(num_frames, batch_clips, world_size, window):
    with patch.object(data, "WINDOW_CLIPS", window):
        seen = [
            step.clips
            for rank in range(world_size)
            for step in plan_validation(num_frames, batch_clips, rank=rank, world_size=world_size)
        ]
    np.testing.assert_array_equal(np.sort(np.concatenate([[], *seen])), np.arange(len(num_frames)))


@pytest.fixture(scope="module")
def features(tmp_path_factory, make_corpus):
    store = Store(str(tmp_path_factory.mktemp("store")))
    config = FeatureConfig(sample_rate_hz=8000, n_fft=256, hop_samples=80, num_mels=20)
    return FeatureSet.open(extract_features(make_corpus(store, num_clips=40), config, store))


@pytest.mark.parametrize("window", [7, 2048])
def test_a_bank_gives_the_clips_of_its_partition(features, monkeypatch, window):
    monkeypatch.setattr(data, "WINDOW_CLIPS", window)
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    rows = features.rows(partition="train")["row"].to_pylist()
    assert bank.rows.tolist() == rows
    for index in (0, len(bank) - 1, 5):
        clip, labels = bank.clip(index)
        np.testing.assert_array_equal(clip, features.load([rows[index]])[0])
        np.testing.assert_array_equal(labels, features.frame_labels([rows[index]])[0])
        assert labels.any() == bool(bank.labels[index])


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_large_partition_is_at_hand_window_by_window(features, monkeypatch, world_size):
    whole = ClipBank.read(features, "train", features.metadata["protocol"])
    monkeypatch.setattr(data, "WINDOW_CLIPS", 7)
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    monkeypatch.setattr(ClipBank, "_load", counted := Mock(side_effect=bank._load))
    for rank in range(world_size):
        steps = plan_epoch(
            bank.num_frames, bank.row_groups, batch_clips=3, seed=0, epoch=1, rank=rank, world_size=world_size
        )
        assert (num_windows := steps[-1].window + 1) > 2
        counted.reset_mock()
        for step in bank.at_hand(steps):
            assert torch.equal(collate(bank, step).features_BFM, collate(whole, step).features_BFM)
            assert len(bank._at_hand) <= 7
        assert counted.call_count == num_windows  # no clip was read by itself
        assert not bank._at_hand


def test_a_partition_of_one_window_is_read_once(features, monkeypatch):
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    monkeypatch.setattr(ClipBank, "_load", None)
    for epoch in (0, 1):
        steps = plan_epoch(bank.num_frames, bank.row_groups, batch_clips=3, seed=0, epoch=epoch)
        assert sum(len(collate(bank, step).mask_BF) for step in bank.at_hand(steps)) == len(bank)


def test_what_fails_in_reading_ahead_is_raised(features, monkeypatch):
    monkeypatch.setattr(data, "WINDOW_CLIPS", 7)
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    monkeypatch.setattr(features, "load", Mock(side_effect=OSError("the disk is gone")))
    steps = plan_epoch(bank.num_frames, bank.row_groups, batch_clips=3, seed=0, epoch=0)
    with pytest.raises(OSError, match="the disk is gone"):
        list(bank.at_hand(steps))


def test_statistics_are_those_of_all_training_frames(features):
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    mean, std = bank.statistics()
    frames = np.concatenate(features.load(bank.rows)).astype(np.float64)
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, frames.std(axis=0), rtol=1e-5)


def test_training_without_clips_or_with_nan_is_refused(features):
    with pytest.raises(UserError, match="no training clips"):
        ClipBank.read(features, "nowhere", features.metadata["protocol"]).statistics()
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    bank.clip(3)[0][3, 3] = np.nan
    with pytest.raises(UserError, match="NaN"):
        bank.statistics()


def test_a_batch_is_padded_masked_and_untouched_without_augmentation(features):
    bank = ClipBank.read(features, "validation", features.metadata["protocol"])
    (step,) = plan_validation(bank.num_frames, 1000, rank=0, world_size=1)
    batch = collate(bank, step)
    targets = batch.targets
    assert batch.features_BFM.dtype == torch.float32
    for place, index in enumerate(step.clips):
        clip, labels = bank.clip(int(index))
        valid = targets.mask_BF[place]
        assert valid.sum() == len(clip)
        np.testing.assert_array_equal(batch.features_BFM[place][valid].numpy(), clip.astype(np.float32))
        assert (batch.features_BFM[place][~valid] == 0).all()
        np.testing.assert_array_equal(targets.frame_labels_BF[place][valid].numpy(), labels)
        assert targets.labels_B[place] == bank.labels[index]


def test_augmented_clips_do_not_depend_on_their_batch(features):
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    mean, std = bank.statistics()
    change = Augmentation(config=AugmentConfig(), scale="log", silence=-18.4, mean_M=mean, std_M=std, seed=0)
    found: dict[int, np.ndarray] = {}
    for world_size in (1, 3):
        for rank in range(world_size):
            for step in plan_epoch(
                bank.num_frames,
                bank.row_groups,
                batch_clips=7,
                seed=0,
                epoch=4,
                rank=rank,
                world_size=world_size,
            ):
                batch = collate(bank, step, change, epoch=4)
                for place, index in enumerate(step.clips):
                    clip = batch.features_BFM[place, : bank.num_frames[index]].numpy()
                    np.testing.assert_array_equal(clip, found.setdefault(int(index), clip))
    untouched = collate(bank, plan_epoch(bank.num_frames, bank.row_groups, batch_clips=7, seed=0, epoch=4)[0])
    assert any((clip != bank.clip(index)[0].astype(np.float32)).any() for index, clip in found.items())
    assert untouched.features_BFM.isfinite().all()


@st.composite
def banks(draw, most=90):
    """What a plan asks of a bank: clips of up to five groups, the first one genuine or not."""
    num_clips = draw(st.integers(1, most))
    groups = np.array(draw(st.lists(st.integers(0, 4), min_size=num_clips, max_size=num_clips)))
    _, groups = np.unique(groups, return_inverse=True)
    num_frames = np.array(draw(st.lists(st.integers(1, 1000), min_size=num_clips, max_size=num_clips)))
    return Mock(
        groups=groups,
        num_groups=groups.max() + 1,
        labels=(groups >= draw(st.integers(0, 2))).astype(np.uint8),
        num_frames=num_frames,
        row_groups=groups_of(num_frames),
        mechanisms=frozenset({"genuine", "vocoder"}),
    )


configs = st.builds(
    lambda batch_clips, seed, balance, mixed: TrainingConfig.parse(
        {
            "batch_clips": batch_clips,
            "seed": seed,
            "sampling": {"balance": balance},
            "augment": {"cutmix_probability": mixed},
        }
    ),
    st.integers(1, 20),
    st.integers(0, 3),
    st.sampled_from(["none", "family"]),
    st.sampled_from([0.0, 0.5, 1.0]),
)


@given(banks(), st.integers(0, 3), st.integers(0, 5))
def test_balanced_draws_share_the_epoch_evenly(bank, seed, epoch):
    draws = draw_clips(bank.groups, bank.labels, SamplingConfig(balance="family"), seed=seed, epoch=epoch)
    assert len(draws) == len(bank.groups)
    assert (np.diff(draws) >= 0).all()
    times = np.bincount(draws, minlength=len(bank.groups))
    num_labels = len(np.unique(bank.labels))
    for group in np.unique(bank.groups):
        members = np.flatnonzero(bank.groups == group)
        groups_alike = len(np.unique(bank.groups[bank.labels == bank.labels[members[0]]]))
        assert abs(times[members].sum() - len(draws) / num_labels / groups_alike) < 1 + 1e-6
        assert np.ptp(times[members]) <= 1


def test_balanced_draws_by_hand_and_over_epochs():
    groups = np.repeat([0, 1, 2], [2, 12, 4])  # genuine, a frequent family, a rare one
    labels = (groups > 0).astype(np.uint8)
    seen = np.zeros(18, np.int64)
    for epoch in range(40):
        draws = draw_clips(groups, labels, SamplingConfig(balance="family"), seed=0, epoch=epoch)
        times = np.bincount(draws, minlength=18)
        counts = [times[groups == group].sum() for group in range(3)]
        assert counts[0] == 9
        assert sorted(counts[1:]) == [4, 5]
        seen += times
    assert abs(seen[groups == 1].sum() - seen[groups == 2].sum()) < 20  # the odd clip goes to either family
    assert seen[groups == 1].min() > 5  # of 15 by chance: which clips come changes with the epoch


def test_each_clip_comes_once_unless_balanced():
    groups = np.array([0, 1, 1, 2])
    draws = draw_clips(groups, (groups > 0).astype(np.uint8), SamplingConfig(), seed=0, epoch=3)
    assert draws.tolist() == [0, 1, 2, 3]


@given(banks(), configs, st.tuples(st.integers(1, 8), st.integers(1, 8)), st.data(), window_clips)
def test_a_resumed_epoch_of_any_number_of_processes_neither_loses_nor_repeats(
    bank, config, world_sizes, drawn, window
):
    """Interrupted after any step and resumed by another number of processes: what one process would see."""
    with patch.object(data, "WINDOW_CLIPS", window):
        alone, *broken = (
            [plan_training(bank, config, epoch=1, rank=rank, world_size=size) for rank in range(size)]
            for size in (1, *world_sizes)
        )
    num_steps = steps_per_epoch(len(bank.groups), config.batch_clips)
    assert {len(steps) for ranks in (alone, *broken) for steps in ranks} == {num_steps}
    done = drawn.draw(st.integers(0, num_steps))
    before, after = broken
    seen = seen_of([*(steps[:done] for steps in before), *(steps[done:] for steps in after)])
    assert seen == seen_of(alone)
    clips = [clip for clip, _, _ in seen]
    expected = draw_clips(bank.groups, bank.labels, config.sampling, seed=config.seed, epoch=1)
    assert clips == expected.tolist()
    assert [turn for _, turn, _ in seen] == [k - clips.index(clip) for k, clip in enumerate(clips)]


def seen_of(ranks):
    """(clip, turn, partner) of all that counts in these steps, sorted."""
    steps = [step for steps in ranks for step in steps]
    columns = [
        np.concatenate([column[~step.is_padding] for step, column in zip(steps, columns, strict=True)])
        for columns in zip(*((step.clips, step.turns, step.partners) for step in steps), strict=True)
    ]
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


@given(banks(), configs, st.integers(1, 8))
def test_partners_are_clips_of_the_same_step(bank, config, world_size):
    ranks = [plan_training(bank, config, epoch=0, rank=k, world_size=world_size) for k in range(world_size)]
    for parts in zip(*ranks, strict=True):
        clips = np.concatenate([part.clips for part in parts])
        partners = np.concatenate([part.partners for part in parts])
        assert np.isin(partners, clips).all()
        if not config.augment.mixed_probability:
            np.testing.assert_array_equal(partners, clips)
        if (
            config.augment.mixed_probability == 1
            and config.sampling.balance == "none"
            and parts[0].num_clips > 1
        ):
            assert (partners != clips).all()


@given(banks(), st.integers(1, 12), st.integers(1, 4))
def test_groups_are_counted_over_the_whole_step(bank, batch_clips, world_size):
    config = TrainingConfig.parse({"batch_clips": batch_clips, "loss": {"group_dro_step": 0.1}})
    ranks = [plan_training(bank, config, epoch=0, rank=k, world_size=world_size) for k in range(world_size)]
    for parts in zip(*ranks, strict=True):
        clips = np.concatenate([part.clips[~part.is_padding] for part in parts])
        for part in parts:
            for group in range(bank.num_groups):
                members = clips[bank.groups[clips] == group]
                assert part.group_clips is not None
                assert part.group_frames is not None
                assert part.group_clips[group] == len(members)
                assert part.group_frames[group] == bank.num_frames[members].sum()


def test_cutmix_is_refused_where_training_clips_are_forged_by_splicing(features):
    config = TrainingConfig.parse({"augment": {"cutmix_probability": 0.5}})
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    assert plan_training(bank, config, epoch=0)
    bank.mechanisms = frozenset({"genuine", "splice"})
    with pytest.raises(UserError, match="cutmix_probability=0"):
        plan_training(bank, config, epoch=0)


def test_a_bank_numbers_its_families(features):
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    assert bank.num_groups == 2
    assert bank.mechanisms == {"genuine", "tone"}
    families = features.table["family"].take(bank.rows).to_pylist()
    assert len(set(zip(families, bank.groups.tolist(), strict=True))) == 2


def test_mixed_batches_do_not_depend_on_processes_or_on_what_is_in_memory(features, monkeypatch):
    config = TrainingConfig.parse(
        {
            "batch_clips": 7,
            "sampling": {"balance": "family"},
            "augment": {"cutmix_probability": 0.4, "mixup_probability": 0.4},
        }
    )
    roles = features.metadata["protocol"]
    mean, std = ClipBank.read(features, "train", roles).statistics()
    change = Augmentation(config=config.augment, scale="log", silence=-18.4, mean_M=mean, std_M=std, seed=0)
    found: dict[tuple[int, int], tuple] = {}
    soft = 0
    monkeypatch.setattr(data, "WINDOW_CLIPS", 14)
    for world_size in (1, 3):
        for rank in range(world_size):
            bank = ClipBank.read(features, "train", roles)
            monkeypatch.setattr(ClipBank, "_load", counted := Mock(side_effect=bank._load))
            steps = plan_training(bank, config, epoch=2, rank=rank, world_size=world_size)
            for step in bank.at_hand(steps):
                batch = collate(bank, step, change, epoch=2)
                targets = batch.targets
                for place, key in enumerate(zip(step.clips.tolist(), step.turns.tolist(), strict=True)):
                    valid = targets.mask_BF[place]
                    given = (batch.features_BFM[place][valid], targets.frame_labels_BF[place][valid])
                    clip, labels, label = found.setdefault(key, (*given, targets.labels_B[place]))
                    assert torch.equal(clip, given[0])
                    assert torch.equal(labels, given[1])
                    assert label == targets.labels_B[place]
                    soft += 0 < label < 1
            assert counted.call_count == steps[-1].window + 1  # partners too were read with their window
            monkeypatch.undo()
            monkeypatch.setattr(data, "WINDOW_CLIPS", 14)
    assert soft
