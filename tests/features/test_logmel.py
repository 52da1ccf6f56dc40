import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.features import logmel
from fakesound.features.config import FeatureConfig
from fakesound.features.logmel import LogMel

SMALL = FeatureConfig(sample_rate_hz=8000, n_fft=256, hop_samples=80, num_mels=20)
SMALL_LOGMEL = LogMel(SMALL)


def noise(num_samples, seed=0, batch=1):
    return torch.from_numpy(
        np.random.default_rng(seed).normal(0, 0.1, (batch, num_samples)).astype(np.float32)
    )


@pytest.mark.parametrize("config", [SMALL, FeatureConfig(num_mels=64, f_min_hz=50, f_max_hz=14_000)])
def test_equals_torchaudio_on_the_same_parameters(config):
    samples = noise(config.hop_samples * 37)
    lead = (config.n_fft - config.hop_samples) // 2
    reference = torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate_hz,
        n_fft=config.n_fft,
        hop_length=config.hop_samples,
        f_min=config.f_min_hz,
        f_max=config.f_max_hz or config.sample_rate_hz / 2,
        n_mels=config.num_mels,
        norm="slaney",
        mel_scale="htk",
        center=False,
    )(torch.nn.functional.pad(samples, (lead, lead)))
    expected = torch.log(reference + config.log_floor).transpose(1, 2)
    torch.testing.assert_close(LogMel(config)(samples), expected)
    power = LogMel(config.model_copy(update={"scale": "power"}))(samples)
    torch.testing.assert_close(power, reference.transpose(1, 2))


def slow_mel_power(samples, config):
    """The definition in double precision: one window after the other, every bin times every filter."""
    filters_KM = torchaudio.functional.melscale_fbanks(
        config.n_fft // 2 + 1,
        config.f_min_hz,
        config.top_hz,
        config.num_mels,
        config.sample_rate_hz,
        norm="slaney",
        mel_scale="htk",
    ).double()
    window_N = torch.hann_window(config.n_fft, dtype=torch.float64)
    lead = (config.n_fft - config.hop_samples) // 2
    padded = torch.nn.functional.pad(samples.double(), (lead, config.n_fft))
    frames = [
        torch.fft.rfft(padded[k * config.hop_samples :][: config.n_fft] * window_N).abs() ** 2 @ filters_KM
        for k in range(config.num_frames(len(samples)))
    ]
    return torch.stack(frames)


@pytest.mark.parametrize(
    "config",
    [
        FeatureConfig(scale="power"),
        FeatureConfig(scale="power", num_mels=280),  # the study's: some of its filters reach no bin
        SMALL.model_copy(update={"scale": "power", "n_fft": 255, "hop_samples": 81}),
    ],
)
@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_power_is_within_a_ten_thousandth_of_the_definition(config):
    num_frames = logmel.FRAMES_PER_BLOCK + 3
    samples = noise(config.hop_samples * num_frames + 1)[0]
    expected = slow_mel_power(samples, config)
    found = LogMel(config)(samples[None])[0].double()
    assert found.shape == (num_frames, config.num_mels)
    assert ((found - expected).abs() <= 1e-4 * expected).all()


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_filters_that_reach_no_bin_give_silence():
    features = LogMel(SMALL.model_copy(update={"num_mels": 200, "scale": "power"}))(noise(800))
    assert (features[..., 0] == 0).all()
    assert (features[..., -1] > 0).all()


def test_equals_torchaudio_centred_and_shifted_by_half_a_hop():
    """torchaudio's own centring puts window k on k*hop; ours is that of the signal moved by half a hop."""
    samples = noise(SMALL.hop_samples * 50)
    centred = torchaudio.transforms.MelSpectrogram(
        8000, n_fft=256, hop_length=80, n_mels=20, norm="slaney", mel_scale="htk", pad_mode="constant"
    )(samples[:, SMALL.hop_samples // 2 :])
    ours = SMALL_LOGMEL(samples)[0, 2:48]
    torch.testing.assert_close(ours, torch.log(centred[0].T + SMALL.log_floor)[2:48])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2000))
def test_frame_count_rule_for_any_length(num_samples):
    features = SMALL_LOGMEL(torch.zeros(1, num_samples))
    assert features.shape == (1, max(1, num_samples // 80), 20)
    assert torch.isfinite(features).all()


def test_a_click_is_loudest_in_the_frame_that_spans_it():
    for frame in (0, 7, 19):
        samples = torch.zeros(1, 20 * 80)
        samples[0, frame * 80 + 40] = 1.0
        assert SMALL_LOGMEL(samples)[0].mean(dim=1).argmax() == frame


def test_the_loudest_possible_sound_fits_half_precision():
    for scale in ("log", "power"):
        features = LogMel(SMALL.model_copy(update={"scale": scale}))(torch.ones(1, 4000) * 4)
        assert torch.isfinite(features.half()).all()


def test_batch_rows_do_not_touch_each_other():
    samples = noise(1600, batch=3)
    assert torch.equal(SMALL_LOGMEL(samples)[1:2], SMALL_LOGMEL(samples[1:2]))


@pytest.mark.parametrize(
    "values",
    [
        {"n_fft": 300, "hop_samples": 320},
        {"n_fft": 2049},
        {"f_max_hz": 17_000},
        {"f_min_hz": 5000, "f_max_hz": 4000},
        {"mels": 3},
    ],
)
def test_impossible_front_ends_are_refused(values):
    with pytest.raises(UserError):
        FeatureConfig.parse(values)
