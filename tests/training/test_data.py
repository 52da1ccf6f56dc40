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
from fakesound.training.config import AugmentConfig
from fakesound.training.data import ClipBank, collate, plan_epoch, plan_validation, steps_per_epoch

lengths = st.lists(st.integers(1, 1000), min_size=1, max_size=90).map(np.array)


@given(lengths, st.integers(1, 20), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_over_all_ranks_each_clip_comes_once(num_frames, batch_clips, world_size, seed, epoch):
    ranks = [
        plan_epoch(
            num_frames, batch_clips=batch_clips, seed=seed, epoch=epoch, rank=rank, world_size=world_size
        )
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
        assert all(len(part.clips) >= 1 for part in parts)
        assert not any(part.is_padding.any() for part in parts) or len(clips) < world_size


@given(lengths, st.integers(1, 20), st.integers(1, 5))
def test_steps_do_not_depend_on_the_number_of_processes(num_frames, batch_clips, world_size):
    alone = plan_epoch(num_frames, batch_clips=batch_clips, seed=1, epoch=2)
    first = plan_epoch(num_frames, batch_clips=batch_clips, seed=1, epoch=2, rank=0, world_size=world_size)
    for whole, part in zip(alone, first, strict=True):
        np.testing.assert_array_equal(whole.clips[::world_size], part.clips)


def test_order_changes_with_epoch_and_seed_and_repeats_for_the_same():
    num_frames = np.random.default_rng(0).integers(50, 1000, 64)

    def order(seed, epoch):
        steps = plan_epoch(num_frames, batch_clips=8, seed=seed, epoch=epoch)
        return np.concatenate([step.clips for step in steps]).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_batches_hold_clips_of_like_length():
    num_frames = np.random.default_rng(0).integers(50, 1000, 512)
    steps = plan_epoch(num_frames, batch_clips=16, seed=0, epoch=0)
    padded = sum(len(step.clips) * num_frames[step.clips].max() for step in steps)
    assert padded < 1.15 * num_frames.sum()


@given(lengths, st.integers(1, 20), st.integers(1, 9))
def test_validation_scores_each_clip_once(num_frames, batch_clips, world_size):
    starts = np.concatenate([[0], np.cumsum(num_frames)])
    nothing = np.zeros(0, np.uint8)
    bank = ClipBank(np.zeros((0, 1), np.float16), starts, nothing, nothing, np.arange(len(num_frames)))
    seen = [
        step.clips
        for rank in range(world_size)
        for step in plan_validation(bank, batch_clips, rank=rank, world_size=world_size)
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(num_frames)))


@pytest.fixture(scope="module")
def features(tmp_path_factory, make_corpus):
    store = Store(str(tmp_path_factory.mktemp("store")))
    config = FeatureConfig(sample_rate_hz=8000, n_fft=256, hop_samples=80, num_mels=20)
    return FeatureSet.open(extract_features(make_corpus(store, num_clips=40), config, store))


@pytest.mark.parametrize("memory_share", [0.25, 0.0])
def test_a_bank_holds_its_partition_in_memory_or_mapped(features, monkeypatch, memory_share):
    monkeypatch.setattr(data, "MEMORY_SHARE", memory_share)
    bank = ClipBank.read(features, "train", features.metadata["protocol"])
    assert isinstance(bank.frames, np.memmap) == (memory_share == 0)
    rows = features.rows(partition="train")["row"].to_pylist()
    assert bank.rows.tolist() == rows
    for index in (0, len(bank) - 1, 5):
        clip, labels = bank.clip(index)
        np.testing.assert_array_equal(clip, features.load([rows[index]])[0])
        np.testing.assert_array_equal(labels, features.frame_labels([rows[index]])[0])
        assert labels.any() == bool(bank.labels[index])


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
    bank.frames[3, 3] = np.nan
    with pytest.raises(UserError, match="NaN"):
        bank.statistics()


def test_a_batch_is_padded_masked_and_untouched_without_augmentation(features):
    bank = ClipBank.read(features, "validation", features.metadata["protocol"])
    (step,) = plan_validation(bank, 1000, rank=0, world_size=1)
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
    change = Augmentation(config=AugmentConfig(), scale="log", mean_M=mean, std_M=std, seed=0)
    found: dict[int, np.ndarray] = {}
    for world_size in (1, 3):
        for rank in range(world_size):
            for step in plan_epoch(
                bank.num_frames, batch_clips=7, seed=0, epoch=4, rank=rank, world_size=world_size
            ):
                batch = collate(bank, step, change, epoch=4)
                for place, index in enumerate(step.clips):
                    clip = batch.features_BFM[place, : bank.num_frames[index]].numpy()
                    np.testing.assert_array_equal(clip, found.setdefault(int(index), clip))
    untouched = collate(bank, plan_epoch(bank.num_frames, batch_clips=7, seed=0, epoch=4)[0])
    assert any((clip != bank.clip(index)[0].astype(np.float32)).any() for index, clip in found.items())
    assert untouched.features_BFM.isfinite().all()
