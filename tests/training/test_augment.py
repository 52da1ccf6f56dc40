import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.training.augment import (
    Augmentation,
    LabelledClip,
    cutmix,
    filter_gains_db,
    frequency_masks,
    mixup,
    time_masks,
)
from fakesound.training.config import AugmentConfig

SILENCE = -18.4
OFF = AugmentConfig(frequency_masks=0, time_masks=0, gain_db=0, noise=0)


def augmentation(config, scale="log", seed=3, mels=12):
    return Augmentation(
        config=config,
        scale=scale,
        mean_M=np.full(mels, -7, np.float32),
        std_M=np.full(mels, 2, np.float32),
        silence=SILENCE,
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


@given(
    st.lists(st.sampled_from([0.0, 0.2, 1.0]), min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
)
def test_time_masks_leave_part_of_every_region_of_mixed_clips(labels, seed, widest):
    frame_labels = np.array(labels, dtype=np.float32)
    config = AugmentConfig(time_masks=16, time_mask_share=widest, keep_share=0.25)
    visible = np.ones(len(frame_labels), dtype=bool)
    for start, stop in time_masks(frame_labels, config, np.random.default_rng(seed)):
        visible[start:stop] = False
    assert visible.any()
    assert visible[frame_labels > 0].any() or not (frame_labels > 0).any()


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_a_filter_is_a_few_straight_lines_within_its_strength(num_mels, seed):
    gains_db = filter_gains_db(num_mels, 6.0, np.random.default_rng(seed))
    assert gains_db.shape == (num_mels,)
    assert np.abs(gains_db).max() <= 6.0
    bends = np.flatnonzero(np.abs(np.diff(gains_db, 2)) > 1e-9) + 1
    assert len(bends) <= 5
    if num_mels >= 36:
        assert (np.diff([0, *bends, num_mels]) >= 6).all()


def test_a_filter_is_the_same_in_every_frame_and_in_both_scales():
    features, labels = clip(mels=40)
    config = OFF.model_copy(update={"filter_db": 6.0})
    added = augmentation(config, mels=40)(features, labels, epoch=0, row=0) - features
    assert np.ptp(added, axis=0).max() < 1e-5
    assert np.ptp(added[0]) > 0.1
    factor = augmentation(config, scale="power", mels=40)(features, labels, epoch=0, row=0) / features
    np.testing.assert_allclose(np.log(factor[0]), added[0], rtol=1e-3, atol=1e-5)


def test_band_limiting_silences_the_top_mels_alone():
    features, labels = clip(mels=40)
    config = OFF.model_copy(update={"band_limit_share": 0.5})
    widths = set()
    for row in range(40):
        changed = augmentation(config, mels=40)(features, labels, epoch=0, row=row)
        silent = (changed == np.float32(SILENCE)).all(axis=0)
        width = int(silent.sum())
        assert silent[40 - width :].all()
        np.testing.assert_array_equal(changed[:, : 40 - width], features[:, : 40 - width])
        widths.add(width)
    assert max(widths) <= 20
    assert len(widths) > 8


def test_filters_do_not_move_the_other_draws():
    features, labels = clip()
    plain = augmentation(AugmentConfig(gain_db=0, noise=0))(features, labels, epoch=0, row=1)
    filtered = augmentation(AugmentConfig(gain_db=0, noise=0, filter_db=3))(features, labels, epoch=0, row=1)
    np.testing.assert_array_equal(plain == -7, filtered == -7)


@st.composite
def labelled(draw):
    num_frames = draw(st.integers(1, 40))
    labels = np.array(draw(st.lists(st.booleans(), min_size=num_frames, max_size=num_frames)), np.float32)
    features = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(num_frames, 3)).astype(np.float32)
    return LabelledClip(features, labels, float(labels.max()))


@given(labelled(), labelled(), st.floats(0, 1))
def test_mixup_mixes_features_and_labels_with_the_same_share(clip, other, share):
    mixed = mixup(clip, other, share)
    n = min(len(clip.features_FM), len(other.features_FM))
    for whole, a, b in zip(mixed[:2], clip[:2], other[:2], strict=True):
        np.testing.assert_allclose(whole[:n], share * a[:n] + (1 - share) * b[:n], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(whole[n:], a[n:])
    heard = float(other.frame_labels_F[:n].any())
    assert mixed.label == share * clip.label + (1 - share) * heard


@given(labelled(), labelled(), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_cutmix_takes_one_stretch_with_its_labels(clip, other, share, seed):
    before = clip.features_FM.copy()
    mixed = cutmix(clip, other, share, np.random.default_rng(seed))
    n = min(len(clip.features_FM), len(other.features_FM))
    is_taken = (mixed.features_FM != clip.features_FM).any(axis=1)
    width = round((1 - share) * n)
    assert is_taken.sum() in (width, 0)  # 0: the clips may be equal
    if is_taken.any():
        start = int(is_taken.argmax())
        assert is_taken[start : start + width].all()
        np.testing.assert_array_equal(mixed.features_FM[is_taken], other.features_FM[:n][is_taken[:n]])
        np.testing.assert_array_equal(mixed.frame_labels_F[is_taken], other.frame_labels_F[:n][is_taken[:n]])
        np.testing.assert_array_equal(mixed.frame_labels_F[~is_taken], clip.frame_labels_F[~is_taken])
    assert mixed.label == mixed.frame_labels_F.any()
    np.testing.assert_array_equal(clip.features_FM, before)


def whole_clip(label, value):
    labels = np.zeros(20, np.float32)
    labels[8:12] = label
    return LabelledClip(np.full((20, 12), value, np.float32), labels, float(label))


def test_a_genuine_clip_that_received_a_forged_stretch_is_forged_and_genuine_into_genuine_stays_so():
    genuine, forged = whole_clip(0, 0), whole_clip(1, 1)
    rng = np.random.default_rng(0)
    assert cutmix(genuine, forged, 0.2, rng).label == 1
    assert cutmix(genuine, whole_clip(0, 1), 0.2, rng).label == 0
    assert cutmix(forged, genuine, 0.0, rng).label == 0
    assert cutmix(genuine, forged, 1.0, rng).label == 0


def test_ways_of_mixing_come_as_often_as_asked_for_and_shares_follow_their_distribution():
    config = OFF.model_copy(
        update={"mixup_probability": 0.6, "cutmix_probability": 0.2, "mixup_alpha": 1.0, "cutmix_alpha": 1.0}
    )
    mix = augmentation(config).mix
    mixed = [mix(whole_clip(0, 0), whole_clip(0, 1), epoch=0, row=row).features_FM for row in range(2000)]
    is_cut = np.array([set(np.unique(features)) <= {0, 1} for features in mixed])
    assert abs(is_cut.mean() - 0.25) < 0.04
    for which in (is_cut, ~is_cut):
        shares = np.array([features.mean() for features, chosen in zip(mixed, which, strict=True) if chosen])
        assert abs(shares.mean() - 1 / 2) < 0.05  # Beta(1, 1) is uniform
        assert abs(shares.std() - 12**-0.5) < 0.03


def test_a_clip_whose_frames_do_not_show_its_label_is_not_mixed():
    config = OFF.model_copy(update={"mixup_probability": 1.0})
    hidden = whole_clip(0, 0)._replace(label=1.0)
    assert augmentation(config).mix(hidden, whole_clip(0, 1), epoch=0, row=0) is hidden
    assert augmentation(config).mix(shown := whole_clip(0, 1), hidden, epoch=0, row=0) is shown


def test_each_turn_of_a_clip_draws_anew_and_the_first_as_before():
    features, labels = clip()
    change = augmentation(AugmentConfig())
    first, again = (change(features, labels, epoch=1, row=2, turn=turn) for turn in (0, 1))
    np.testing.assert_array_equal(first, change(features, labels, epoch=1, row=2))
    assert (first != again).any()
