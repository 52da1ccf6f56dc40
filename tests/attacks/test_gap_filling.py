"""Janssen, A-SPAIN and the way inwards that both take through long gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from fakesound.attacks import spain
from fakesound.attacks.base import AttackContext
from fakesound.attacks.inwards import fill_inwards, known_sides
from fakesound.attacks.janssen import extrapolate, interpolate
from fakesound.core.regions import SampleRegion

RATE = 16_000
NOTHING = np.zeros(0)


def snr_db(truth, guess):
    return 10 * np.log10((truth**2).sum() / ((truth - guess) ** 2).sum())


def tones(seed):
    """Five partials of random frequency and phase over noise 65 dB below them."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(RATE) / RATE
    partials = sum(np.sin(2 * np.pi * f * time_s + rng.uniform(0, 6)) for f in rng.uniform(150, 4000, 5))
    return partials + 1e-3 * rng.standard_normal(RATE)


def resonances(seed):
    """A stationary autoregressive process: three narrow resonances."""
    poles = np.array([0.999 * np.exp(0.3j), 0.998 * np.exp(0.7j), 0.995 * np.exp(1.1j)])
    noise = np.random.default_rng(seed).standard_normal(RATE + 8000)
    return signal.lfilter([1.0], np.poly([*poles, *np.conj(poles)]).real, noise)[8000:]


def around(samples, length, reach):
    gap = slice(8000, 8000 + length)
    return samples[gap], samples[gap.start - reach : gap.start], samples[gap.stop : gap.stop + reach]


# Median over eight signals as measured on 24 November 2026: 57.5, 52.0, 12.7, 5.8 dB.
@pytest.mark.parametrize(
    ("make", "gap_s", "at_least_db"),
    [(tones, 0.02, 50), (tones, 0.05, 44), (resonances, 0.005, 10), (resonances, 0.02, 4)],
)
def test_janssen_recovers_what_is_stationary(make, gap_s, at_least_db):
    found = []
    for seed in range(8):
        truth, left, right = around(make(seed), round(gap_s * RATE), 1600)
        found.append(snr_db(truth, interpolate(left, right, len(truth), order=64, iterations=3)))
    assert np.median(found) > at_least_db


# As measured: 47.6, 35.4, 5.5 dB.
@pytest.mark.parametrize(
    ("make", "gap_s", "at_least_db"), [(tones, 0.01, 40), (tones, 0.02, 28), (resonances, 0.01, 3)]
)
def test_spain_recovers_what_is_sparse(make, gap_s, at_least_db):
    found = []
    for seed in range(8):
        truth, left, right = around(make(seed), round(gap_s * RATE), 640)
        found.append(snr_db(truth, spain.inpaint(left, right, len(truth))))
    assert np.median(found) > at_least_db


def test_iterating_helps_where_the_gap_is_long_beside_its_sides():
    gained = []
    for seed in range(8):
        truth, left, right = around(tones(seed), 800, 1600)
        once, thrice = (snr_db(truth, interpolate(left, right, 800, order=64, iterations=n)) for n in (1, 3))
        gained.append(thrice - once)
    assert np.median(gained) > 1  # 5 dB as measured


def test_spain_equals_admm_with_dense_matrices():
    rng = np.random.default_rng(4)
    frame = np.sin(0.7 * np.arange(40)) + 0.1 * rng.standard_normal(40)
    gap = slice(15, 22)
    frame[gap] = 0
    size = 80
    transform = np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(40)) / size)
    x, dual = frame.copy(), np.zeros(size, dtype=complex)
    for sparsity in range(spain._STEP, spain._STEP * spain._ITERATIONS + 1, spain._STEP):
        wanted = transform @ x + dual
        half = np.argsort(-np.abs(wanted[: size // 2 + 1]))[:sparsity]
        kept = np.zeros(size, dtype=bool)
        kept[half] = kept[-half % size] = True
        sparse = np.where(kept, wanted, 0)
        x[gap] = (transform.conj().T @ (sparse - dual)).real[gap] / size
        apart = transform @ x - sparse
        if np.linalg.norm(apart[: size // 2 + 1]) <= 1e-3 * np.linalg.norm(
            (transform @ frame)[: size // 2 + 1]
        ):
            break
        dual += apart
    np.testing.assert_allclose(spain._complete(frame, gap), x, atol=1e-9)


def test_extrapolation_keeps_level_and_spectrum():
    process = resonances(3)
    more = extrapolate(process[:8000], 8000, order=32, rng=np.random.default_rng(0))
    assert 20 * np.log10(more.std() / process.std()) == pytest.approx(0, abs=4)
    step = abs(more[0] - process[7999])
    assert step < 2 * np.abs(np.diff(process)).max()


def go_on(left, right, length):
    """Continues what repeats itself every three samples."""
    return np.resize(left[-3:], length)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400), st.integers(1, 60), st.sampled_from(["both", "left", "right"]), st.integers(3, 50)
)
def test_inwards_fills_every_sample_once_and_in_order(length, block, sides, reach):
    pattern = np.resize([1.0, 1.0, -1.0], 200 + length)  # its level is the same everywhere: nothing to fade
    left = pattern[:100] if sides != "right" else NOTHING
    right = pattern[100 + length :] if sides != "left" else NOTHING
    filled = fill_inwards(left, right, length, block=block, reach=reach, fill=go_on)
    np.testing.assert_allclose(filled, pattern[100 : 100 + length], rtol=1e-9)


def test_what_dies_away_is_held_at_the_level_of_its_side():
    def fade_out(left, right, length):
        return left[-1] * np.exp(-np.arange(1, length + 1) / 50) * (-1.0) ** np.arange(1, length + 1)

    side = (-1.0) ** np.arange(200)
    filled = fill_inwards(side, NOTHING, 5000, block=100, reach=200, fill=fade_out)
    assert 20 * np.log10(np.sqrt(np.mean(filled[2500:] ** 2))) == pytest.approx(0, abs=6)


def test_where_nothing_is_known_the_region_is_mirrored():
    samples = np.arange(1, 101, dtype=np.float32)
    left, right = known_sides(AttackContext(samples, SampleRegion(0, 100), 8000), 10, 5)
    assert left.tolist() == list(range(10, 0, -1)) and right.tolist() == list(range(100, 90, -1))
    left, right = known_sides(AttackContext(samples, SampleRegion(20, 97), 8000), 10, 5)
    assert left.tolist() == list(range(11, 21)) and not len(right)
