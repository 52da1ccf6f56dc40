import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, signal

from fakesound.attacks.prediction import burg, fill_gap, levinson, residual


def snr_db(truth, guess):
    return 10 * np.log10((truth**2).sum() / ((truth - guess) ** 2).sum())


def slow_fill_gap(left, right, length, polynomial):
    """The gap that minimises the residual energy of every equation touching it, by dense least squares."""
    order = len(polynomial) - 1
    known = np.concatenate([left[-order:], np.zeros(length), right[:order]])
    rows = np.zeros((length + order, len(known)))
    for row in range(length + order):
        rows[row, row : row + order + 1] = polynomial[::-1]
    unknown = slice(order, order + length)
    return np.linalg.lstsq(rows[:, unknown], -rows @ known, rcond=None)[0]


@pytest.mark.parametrize(("order", "length"), [(4, 40), (16, 9), (8, 1), (30, 12), (5, 5), (12, 120)])
def test_banded_solution_equals_dense_least_squares(order, length):
    rng = np.random.default_rng(order * 100 + length)
    signal_in = signal.lfilter([1.0], [1.0, -1.6, 0.9], rng.standard_normal(1000))
    polynomial = burg([signal_in], order)
    left, right = signal_in[:400], signal_in[400 + length :]
    fast = fill_gap(left, right, length, polynomial)
    slow = slow_fill_gap(left, right, length, polynomial)
    np.testing.assert_allclose(fast, slow, atol=1e-5 * np.abs(signal_in).max())


def test_short_gap_in_tones_is_recovered_above_40_db():
    rate = 16_000
    time_s = np.arange(rate) / rate
    tones = sum(np.sin(2 * np.pi * f * time_s + f) for f in (311.0, 622.0, 1480.0))
    tones = tones + 1e-4 * np.random.default_rng(0).standard_normal(rate)
    gap = slice(8000, 8000 + 160)  # 10 ms
    left, right = tones[gap.start - 4000 : gap.start], tones[gap.stop : gap.stop + 4000]
    filled = fill_gap(left, right, 160, burg([left, right], 40))
    assert snr_db(tones[gap], filled) > 40


def test_short_gap_in_a_resonant_process_is_recovered_above_10_db():
    rng = np.random.default_rng(1)
    poles = [0.995 * np.exp(1j * 0.3), 0.99 * np.exp(1j * 1.1)]
    truth = signal.lfilter([1.0], np.poly([*poles, *np.conj(poles)]).real, rng.standard_normal(8000))
    gap = slice(4000, 4012)
    left, right = truth[: gap.start], truth[gap.stop :]
    filled = fill_gap(left, right, 12, burg([left, right], 4))
    assert snr_db(truth[gap], filled) > 10


def test_burg_finds_the_process():
    truth = np.array([1.0, -1.5, 0.8])
    process = signal.lfilter([1.0], truth, np.random.default_rng(2).standard_normal(20_000))
    halves = [process[:9000], process[11_000:]]
    np.testing.assert_allclose(burg(halves, 2), truth, atol=0.03)
    assert residual(process, truth).std() == pytest.approx(1.0, abs=0.03)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 3))
def test_burg_is_always_stable(seed, order, count):
    rng = np.random.default_rng(seed)
    segments = [np.cumsum(rng.standard_normal(int(rng.integers(order + 2, 400)))) for _ in range(count)]
    poles = np.roots(burg(segments, order))
    assert np.abs(poles).max(initial=0.0) < 1 + 1e-6


def test_burg_of_silence_predicts_nothing():
    assert burg([np.zeros(100)], 5).tolist() == [1, 0, 0, 0, 0, 0]


def test_levinson_solves_the_yule_walker_equations_of_every_frame():
    rng = np.random.default_rng(3)
    frames = rng.standard_normal((6, 200)).cumsum(axis=1)
    lags = np.stack([np.correlate(f, f, "full")[199 : 199 + 9] for f in frames])
    for lag, polynomial in zip(lags, levinson(lags), strict=True):
        expected = linalg.solve_toeplitz(lag[:-1], -lag[1:])
        np.testing.assert_allclose(polynomial, [1, *expected], atol=1e-6)
