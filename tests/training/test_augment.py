import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.training.augment import Augmentation, frequency_masks, time_masks
from fakesound.training.config import AugmentConfig

OFF = AugmentConfig(frequency_masks=0, time_masks=0, gain_db=0, noise=0)


def augmentation(config, scale="log", seed=3, mels=12):
    return Augmentation(
        config=config,
        scale=scale,
        mean_M=np.full(mels, -7, np.float32),
        std_M=np.full(mels, 2, np.float32),
        silence=-18.4,
        seed=seed,
    )


def clip(num_frames=80, mels=12):
    features = np.random.default_rng(0).normal(size=(num_frames, mels)).astype(np.float32)
    labels = np.zeros(num_frames, np.uint8)
    labels[10:14] = 1
    return features, labels


@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
    st.integers(1, 16),
    st.floats(0, 1),
    st.floats(0.01, 1),
)
def test_time_masks_always_leave_part_of_the_clip_and_of_every_forged_region(
    labels, seed, count, widest, keep
):
    frame_labels = np.array(labels, dtype=np.uint8)
    config = AugmentConfig(time_masks=count, time_mask_share=widest, keep_share=keep)
    visible = np.ones(len(frame_labels), dtype=bool)
    for start, stop in time_masks(frame_labels, config, np.random.default_rng(seed)):
        visible[start:stop] = False
    assert visible.sum() >= max(1, math.ceil(keep * len(labels)))
    padded = np.concatenate([[0], frame_labels, [0]]).astype(int)
    edges = np.flatnonzero(np.diff(padded))
    for onset, offset in zip(edges[::2], edges[1::2], strict=True):
        assert visible[onset:offset].sum() >= max(1, math.ceil(keep * (offset - onset)))


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_frequency_masks_leave_a_band(num_mels, seed):
    config = AugmentConfig(frequency_masks=16, frequency_mask_share=1.0)
    visible = np.ones(num_mels, dtype=bool)
    for start, stop in frequency_masks(num_mels, config, np.random.default_rng(seed)):
        visible[start:stop] = False
    assert visible.any()


@settings(max_examples=10)
@given(st.integers(0, 5), st.integers(0, 5))
def test_the_draw_depends_on_seed_epoch_and_row_alone(epoch, row):
    features, labels = clip()
    changed = augmentation(AugmentConfig())(features, labels, epoch=epoch, row=row)
    augmentation(AugmentConfig())(features, labels, epoch=9, row=9)
    np.testing.assert_array_equal(
        changed, augmentation(AugmentConfig())(features, labels, epoch=epoch, row=row)
    )
    for other in (
        augmentation(AugmentConfig())(features, labels, epoch=epoch + 1, row=row),
        augmentation(AugmentConfig())(features, labels, epoch=epoch, row=row + 1),
        augmentation(AugmentConfig(), seed=4)(features, labels, epoch=epoch, row=row),
    ):
        assert (changed != other).any()


def test_all_off_is_identity_and_the_input_is_never_written():
    features, labels = clip()
    before = features.copy()
    np.testing.assert_array_equal(augmentation(OFF)(features, labels, epoch=0, row=0), before)
    augmentation(AugmentConfig())(features, labels, epoch=0, row=0)
    np.testing.assert_array_equal(features, before)


def test_masked_cells_are_at_the_mean_and_others_untouched():
    features, labels = clip()
    config = OFF.model_copy(
        update={"time_masks": 2, "frequency_masks": 2, "frequency_mask_share": 0.4, "time_mask_share": 0.3}
    )
    changed = augmentation(config)(features, labels, epoch=1, row=1)
    moved = changed != features
    assert moved.any()
    assert (changed[moved] == -7).all()


def test_gain_adds_decibels_to_log_and_multiplies_power():
    features, labels = clip()
    config = OFF.model_copy(update={"gain_db": 6.0})
    shift = augmentation(config)(features, labels, epoch=0, row=0) - features
    assert np.ptp(shift) < 1e-5
    assert 0 < abs(shift[0, 0]) <= 0.6 * math.log(10) + 1e-6
    factor = augmentation(config, scale="power")(features, labels, epoch=0, row=0) / features
    np.testing.assert_allclose(np.log(factor), shift[0, 0], rtol=1e-3)


def test_noise_is_as_strong_as_configured_in_units_of_the_features():
    features = np.zeros((4000, 12), np.float32)
    strengths = [
        augmentation(OFF.model_copy(update={"noise": 0.5}))(
            features, np.zeros(4000, np.uint8), epoch=0, row=row
        ).std()
        for row in range(20)
    ]
    assert max(strengths) <= 0.5 * 2 * 1.05
    assert max(strengths) > 0.5
