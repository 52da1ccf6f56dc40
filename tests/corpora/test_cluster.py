import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesound.core.audio import resample
from fakesound.corpora import cluster
from fakesound.corpora.cluster import components, find_near_duplicates, fingerprint


def recording(seed: int, seconds: float = 1.5, rate_hz: int = 22_050) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(int(seconds * rate_hz))
    swell = np.interp(np.arange(len(noise)), np.linspace(0, len(noise), 12), rng.uniform(0.1, 1, 12))
    return (0.1 * swell * np.convolve(noise, rng.standard_normal(40), mode="same")).astype(np.float32)


def pairs_of(recordings: list[tuple[np.ndarray, int]]) -> list[tuple[int, int]]:
    prints = [fingerprint(samples, rate_hz) for samples, rate_hz in recordings]
    return find_near_duplicates(prints, lambda index: recordings[index])


@pytest.mark.parametrize(
    "change",
    [
        lambda samples, rate_hz: (samples.copy(), rate_hz),
        lambda samples, rate_hz: (0.2 * samples[7_001:], rate_hz),
        lambda samples, rate_hz: (-samples[: len(samples) // 2], rate_hz),
        lambda samples, rate_hz: (resample(samples[3_333:], rate_hz, 16_000), 16_000),
    ],
    ids=["copy", "quieter offset cut", "upside-down first half", "resampled cut"],
)
def test_cuts_of_one_recording_are_found_among_others(change) -> None:
    others = [(recording(seed), 22_050) for seed in range(1, 8)]
    original = recording(0)
    assert pairs_of([(original, 22_050), *others, change(original, 22_050)]) == [(0, 8)]


def test_a_common_hum_does_not_make_two_recordings_one() -> None:
    time_s = np.arange(22_050 * 2) / 22_050
    hum = np.sin(2 * np.pi * 50 * time_s)
    rng = np.random.default_rng(0)
    mixed = [(hum + 0.2 * rng.standard_normal(len(hum))).astype(np.float32) for _ in range(2)]
    assert pairs_of([(samples, 22_050) for samples in mixed]) == []


def test_recordings_that_resemble_each_other_everywhere_stay_cheap_and_keep_their_best_offsets() -> None:
    time_s = np.arange(22_050 * 60) / 22_050
    tone = (0.5 * np.sin(2 * np.pi * 400 * time_s)).astype(np.float32)
    steady = fingerprint(tone, 22_050)
    shifts = cluster._candidates([steady, steady, fingerprint(recording(0), 22_050)])
    assert len(steady.positions) == 144  # 144 x 144 matches, of which a pair keeps a few
    assert list(shifts) == [(0, 1)] and len(shifts[0, 1]) == 4


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20))
def test_components_are_those_of_the_graph(links: list[tuple[int, int]]) -> None:
    graph = networkx.Graph(links)
    graph.add_nodes_from(range(15))
    numbers = components(range(15), links)
    expected = {frozenset(nodes) for nodes in networkx.connected_components(graph)}
    found = {frozenset(n for n in numbers if numbers[n] == number) for number in set(numbers.values())}
    assert found == expected
