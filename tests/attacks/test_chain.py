import numpy as np
import pytest
from scipy import signal

from fakesound.attacks.chain import ChainConfig
from fakesound.attacks.forge import final_chain, forge
from fakesound.attacks.registry import get_attack
from fakesound.core.audio import resample
from fakesound.core.errors import UserError
from fakesound.core.regions import SampleRegion

NOISY = ChainConfig(noise_probability=1.0, noise_snr_db=(20.0, 20.0))
CODED = ChainConfig(codec_probability=1.0)


def recording(rate, duration_s):
    noise = np.random.default_rng(0).standard_normal(round(duration_s * rate))
    sound = signal.lfilter([1.0], [1, -1.6, 0.9], noise)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def pair(rate, region):
    """A recording and the same, forged in one region."""
    samples = recording(rate, 1.0)
    attack = get_attack("noise_vocoder")
    rng = np.random.default_rng(0)
    return samples, forge(samples, [region], attack, sample_rate_hz=rate, rng=rng)


def test_final_chain_lands_on_16_bit_steps_and_depends_on_the_seed_alone():
    samples = recording(22_050, 0.5)
    out = final_chain(samples, native_rate_hz=22_050, target_rate_hz=32_000, seed=3)
    assert out.dtype == np.float32 and len(out) == 16_000
    steps = out.astype(np.float64) * 32_768
    assert (steps == np.rint(steps)).all() and np.abs(steps).max() <= 32_768
    assert (
        out.tobytes() == final_chain(samples, native_rate_hz=22_050, target_rate_hz=32_000, seed=3).tobytes()
    )
    assert (
        out.tobytes() != final_chain(samples, native_rate_hz=22_050, target_rate_hz=32_000, seed=4).tobytes()
    )


def test_final_chain_treats_a_pair_alike():
    clips = [
        final_chain(x, native_rate_hz=16_000, target_rate_hz=32_000, seed=8)
        for x in pair(16_000, SampleRegion(4000, 9000))
    ]
    differs = np.flatnonzero(clips[0] != clips[1])
    assert differs[0] > 2 * (4000 - 500 - 200) and differs[-1] < 2 * (9000 + 500 + 200)


def test_final_chain_clips_instead_of_wrapping():
    loud = np.full(8000, 4.0, dtype=np.float32)
    out = final_chain(loud, native_rate_hz=8000, target_rate_hz=8000, seed=0)
    assert out.max() == np.float32(32_767 / 32_768)


def test_with_nothing_switched_on_the_chain_is_resampling_gain_and_dither():
    samples = recording(22_050, 0.5)
    made = final_chain(samples, native_rate_hz=22_050, target_rate_hz=32_000, seed=3)
    resampled = resample(samples, 22_050, 32_000).astype(np.float64)
    gain = 10 ** (np.random.default_rng(3).uniform(-7, -1) / 20)
    noise = np.random.default_rng([3, 1])
    dither = noise.random(len(resampled)) - noise.random(len(resampled))
    steps = np.clip(np.rint(resampled * gain * 32_768 + dither), -32_768, 32_767)
    assert made.tobytes() == (steps / 32_768).astype(np.float32).tobytes()


def test_a_pair_gets_the_same_noise_at_the_ratio_asked_for():
    rate, region = 16_000, SampleRegion(4000, 9000)
    samples, forged = pair(rate, region)
    rates = {"native_rate_hz": rate, "target_rate_hz": rate, "seed": 5}
    genuine, fake = (final_chain(x, **rates, chain=NOISY, reference=samples) for x in (samples, forged))
    outside = np.ones(len(samples), dtype=bool)
    outside[region.onset - 500 : region.offset + 500] = False
    assert (genuine == fake)[outside].all() and (genuine != fake).any()
    clean = final_chain(samples, **rates)
    noise = genuine.astype(float) - clean
    assert 20 * np.log10(clean.std() / noise.std()) == pytest.approx(20, abs=0.3)


def test_noise_and_codec_are_drawn_from_the_seed_as_often_as_asked():
    samples = recording(8000, 0.3)
    chain = ChainConfig(noise_probability=0.5, codec_probability=0.5)
    rates = {"native_rate_hz": 8000, "target_rate_hz": 8000}
    changed = 0
    for seed in range(40):
        first, again = (final_chain(samples, **rates, seed=seed, chain=chain) for _ in range(2))
        assert first.tobytes() == again.tobytes()
        changed += first.tobytes() != final_chain(samples, **rates, seed=seed).tobytes()
    assert 22 <= changed <= 38  # three in four


def test_a_codec_keeps_length_and_place():
    rate, region = 16_000, SampleRegion(4000, 9000)
    samples, forged = pair(rate, region)
    for seed in range(6):
        rates = {"native_rate_hz": rate, "target_rate_hz": 32_000, "seed": seed}
        plain = final_chain(forged, **rates)
        coded = final_chain(forged, **rates, chain=CODED, reference=samples)
        assert coded.shape == plain.shape and (coded != plain).mean() > 0.9
        lags = signal.correlate(coded, plain, "full")
        assert abs(lags.argmax() - (len(plain) - 1)) <= 3


@pytest.mark.parametrize("values", [{"noise_probability": 1.5}, {"noise_snr_db": [30, 10]}, {"codec": "mp3"}])
def test_bad_chains_are_refused(values):
    with pytest.raises(UserError, match="ChainConfig"):
        ChainConfig.parse(values)
