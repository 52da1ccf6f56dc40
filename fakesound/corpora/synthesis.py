"""Sounds made from nothing: textures, notes, events, rooms. Each is a function of its generator alone."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

Sound = NDArray[np.float64]
Rng = np.random.Generator
Synthesiser = Callable[[int, int, Rng], Sound]
"""(num_samples, sample_rate_hz, rng) -> samples (n,) of any level."""


def rain(num_samples: int, rate_hz: int, rng: Rng) -> Sound:
    """Hiss with many short, ringing drops."""
    bed = _band(rng.standard_normal(num_samples), rate_hz, rng.uniform(300, 900), 0.45 * rate_hz)
    drops = np.zeros(num_samples)
    times = rng.integers(0, num_samples, int(num_samples / rate_hz * rng.uniform(40, 200)))
    drops[times] += rng.exponential(6.0, len(times))
    return bed + _band(drops, rate_hz, rng.uniform(1000, 2500), rng.uniform(0.3, 0.45) * rate_hz)


def wind(num_samples: int, rate_hz: int, rng: Rng) -> Sound:
    """Low noise with a whistling band; both swell slowly, each at its own pace."""
    low = _band(rng.standard_normal(num_samples), rate_hz, 40, rng.uniform(300, 700))
    centre_hz = rng.uniform(500, 1800)
    high = _band(rng.standard_normal(num_samples), rate_hz, centre_hz, centre_hz * rng.uniform(1.2, 2.5))
    swells = [_slow(num_samples, rate_hz, rng.uniform(0.3, 1.2), rng) for _ in range(2)]
    air = 0.05 * rng.standard_normal(num_samples)
    return low / low.std() * swells[0] + rng.uniform(0.2, 0.7) * high / high.std() * swells[1] + air


def fire(num_samples: int, rate_hz: int, rng: Rng) -> Sound:
    """A rumble with crackles of heavy-tailed strength."""
    rumble = _band(rng.standard_normal(num_samples), rate_hz, 30, rng.uniform(200, 500))
    crackles = np.zeros(num_samples)
    times = rng.integers(0, num_samples, int(num_samples / rate_hz * rng.uniform(8, 30)))
    crackles[times] = rng.pareto(1.8, len(times)) * rng.choice([-1, 1], len(times))
    snaps = _band(crackles, rate_hz, rng.uniform(600, 1500), 0.42 * rate_hz)
    hiss = _band(rng.standard_normal(num_samples), rate_hz, 1500, 0.45 * rate_hz)
    return rumble / rumble.std() + 2.0 * snaps / snaps.std() + 0.3 * hiss / hiss.std()


def hum(num_samples: int, rate_hz: int, rng: Rng) -> Sound:
    """A machine: harmonics of a wandering fundamental, and noise that beats with it."""
    speed_hz = rng.uniform(40, 130) * (1 + 0.02 * (_slow(num_samples, rate_hz, 0.7, rng) - 1))
    phase = 2 * np.pi * np.cumsum(speed_hz) / rate_hz
    harmonics = np.arange(1, int(rng.integers(8, 24)))
    levels = rng.lognormal(0, 0.8, len(harmonics)) / harmonics ** rng.uniform(0.5, 1.2)
    tones = sum(a * np.sin(k * phase + rng.uniform(0, 6.3)) for k, a in zip(harmonics, levels, strict=True))
    noise = _band(rng.standard_normal(num_samples), rate_hz, rng.uniform(200, 1000), 0.42 * rate_hz)
    return np.asarray(tones) + rng.uniform(0.2, 0.8) * noise / noise.std() * (1 + 0.7 * np.sin(phase / 2))


def notes(num_samples: int, rate_hz: int, rng: Rng) -> Sound:
    """Plucked or bowed notes of a random scale, with partials, inharmonicity and vibrato."""
    sound = np.zeros(num_samples)
    root_hz = rng.uniform(110, 330)
    steps = np.sort(rng.choice(12, size=6, replace=False)) + rng.uniform(-0.15, 0.15, 6)
    stretch, slope = rng.uniform(0, 8e-4), rng.uniform(0.7, 1.8)
    bowed = rng.random() < 0.4
    onset_s = 0.0
    while onset_s < num_samples / rate_hz:
        first = int(onset_s * rate_hz)
        time_s = np.arange(min(num_samples - first, int(rng.uniform(0.4, 1.6) * rate_hz))) / rate_hz
        pitch_hz = root_hz * 2 ** (rng.choice(steps) / 12 + rng.integers(0, 2))
        partials_hz = pitch_hz * np.arange(1, 16) * np.sqrt(1 + stretch * np.arange(1, 16) ** 2)
        sound[first : first + len(time_s)] += _note(
            time_s, partials_hz[partials_hz < 0.45 * rate_hz], slope, bowed, rng
        )
        onset_s += rng.uniform(0.12, 0.6)
    return sound


def _note(time_s: Sound, partials_hz: Sound, slope: float, bowed: bool, rng: Rng) -> Sound:
    """One note. As on any instrument, pitch and partials tremble, and bow, breath or pick make noise."""
    rate_hz = round(1 / time_s[1]) if len(time_s) > 1 else 1
    vibrato = 1 + 0.004 * np.sin(2 * np.pi * rng.uniform(4, 7) * time_s) if bowed else np.ones_like(time_s)
    trembling = vibrato + rng.uniform(0.002, 0.008) * (_slow(len(time_s), rate_hz, 25, rng) - 1)
    seconds = np.cumsum(trembling) / rate_hz
    decay_s = rng.uniform(0.15, 0.6)
    noise_decay = np.ones_like(time_s) if bowed else np.exp(-time_s / decay_s)
    sound = rng.uniform(0.1, 0.4) * noise_decay * rng.standard_normal(len(time_s))
    for number, frequency_hz in enumerate(partials_hz, start=1):
        envelope = np.ones_like(time_s) if bowed else np.exp(-time_s * np.sqrt(number) / decay_s)
        shimmer = 1 + rng.uniform(0.2, 0.6) * (_slow(len(time_s), rate_hz, 30, rng) - 1)
        phase = 2 * np.pi * frequency_hz * seconds + rng.uniform(0, 2 * np.pi)
        sound += envelope * shimmer * np.sin(phase) / number**slope
    attack_s = 0.06 if bowed else 0.004
    return sound * np.minimum(1, time_s / attack_s) * np.minimum(1, time_s[::-1] / 0.02)


def impacts(num_samples: int, rate_hz: int, rng: Rng) -> Sound:
    """Knocks and clinks: damped modes, struck at random times."""
    sound = np.zeros(num_samples)
    num_modes = int(rng.integers(4, 10))
    modes_hz = np.exp(rng.uniform(np.log(120), np.log(0.4 * rate_hz), num_modes))
    decays_s = rng.uniform(0.02, 0.25, num_modes) * np.sqrt(400 / (modes_hz + 200))
    for onset in rng.integers(0, num_samples, int(rng.integers(6, 16))):
        time_s = np.arange(min(num_samples - onset, rate_hz)) / rate_hz
        levels = rng.lognormal(0, 0.6, num_modes)
        for frequency_hz, decay_s, level in zip(modes_hz, decays_s, levels, strict=True):
            sound[onset : onset + len(time_s)] += (
                level * np.exp(-time_s / decay_s) * np.sin(2 * np.pi * frequency_hz * time_s)
            )
    return sound


def chirps(num_samples: int, rate_hz: int, rng: Rng) -> Sound:
    """Calls of something small: frequency sweeps with overtones, in bouts."""
    sound = np.zeros(num_samples)
    low_hz = rng.uniform(500, 0.15 * rate_hz)
    onset_s = rng.uniform(0, 0.2)
    while onset_s < num_samples / rate_hz:
        first = int(onset_s * rate_hz)
        time = np.linspace(0, 1, max(2, min(num_samples - first, int(rng.uniform(0.05, 0.35) * rate_hz))))
        bend = rng.uniform(-1, 1)
        sweep_hz = low_hz * 2 ** (
            rng.uniform(0, 1) + bend * time + 0.1 * np.sin(2 * np.pi * rng.uniform(2, 9) * time)
        )
        phase = 2 * np.pi * np.cumsum(np.minimum(sweep_hz, 0.4 * rate_hz)) / rate_hz
        overtone = rng.uniform(0, 0.5) * np.sin(2 * phase) * (2 * sweep_hz < 0.45 * rate_hz)
        call = np.hanning(len(time)) * (np.sin(phase) + overtone)
        sound[first : first + len(time)] += rng.uniform(0.4, 1) * call[: num_samples - first]
        onset_s += rng.uniform(0.1, 0.7)
    return sound


SYNTHESISERS: dict[str, tuple[Synthesiser, ...]] = {
    "texture": (rain, wind, fire, hum),
    "music": (notes,),
    "event": (impacts, chirps),
}


def in_a_room(sound: Sound, rate_hz: int, rng: Rng) -> Sound:
    """The sound as heard in a random shoebox room: image sources (Allen and Berkley 1979)."""
    rooms = _pyroomacoustics()
    size_m = rng.uniform([3.0, 2.5, 2.3], [9.0, 7.0, 3.6])
    room = rooms.ShoeBox(size_m, fs=rate_hz, materials=rooms.Material(rng.uniform(0.15, 0.6)), max_order=6)
    room.add_source(rng.uniform(0.15, 0.85, 3) * size_m)
    room.add_microphone(rng.uniform(0.15, 0.85, 3) * size_m)
    room.compute_rir()
    response = np.asarray(room.rir[0][0], dtype=np.float64)
    first = max(0, int(np.argmax(np.abs(response) > 0.1 * np.abs(response).max())) - 8)
    return fftconvolve(sound, response[first:])[: len(sound)]


def background(num_samples: int, rate_hz: int, rng: Rng) -> Sound:
    """Noise of a place, unit variance: falls with frequency, never silent, and reaches up to Nyquist."""
    pole = rng.uniform(0.5, 0.95)
    coloured = np.asarray(lfilter([1], [1, -pole], rng.standard_normal(num_samples)))
    mixed = coloured / coloured.std() + rng.uniform(0.1, 0.4) * rng.standard_normal(num_samples)
    return mixed / mixed.std()


def _band(noise: Sound, rate_hz: int, low_hz: float, high_hz: float) -> Sound:
    high_hz = min(high_hz, 0.49 * rate_hz)
    return np.asarray(sosfilt(butter(2, [low_hz, high_hz], "bandpass", fs=rate_hz, output="sos"), noise))


def _slow(num_samples: int, rate_hz: int, speed_hz: float, rng: Rng) -> Sound:
    """A slow random curve around 1, between about 0.3 and 1.7."""
    knots = max(4, int(num_samples / rate_hz * speed_hz * 2) + 2)
    return np.interp(np.linspace(0, knots - 1, num_samples), np.arange(knots), rng.uniform(0.3, 1.7, knots))


@cache
def _pyroomacoustics() -> Any:
    import pyroomacoustics

    pyroomacoustics.constants.set("num_threads", 1)  # sums in one order: the same bits on any number of cores
    return pyroomacoustics
