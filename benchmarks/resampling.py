"""Resampling with soxr (the quality that fakesound uses) against torchaudio: speed, alias and passband error.

    python benchmarks/resampling.py --json resampling.json [--repeats 5]

Error is measured on sines: what differs from the same sine drawn at the new rate, away from the ends, in dB
of the sine. Alias is what is left of sines above the new Nyquist frequency. A chirp sweeps up to 90 % of the
lower Nyquist frequency, and its error is one figure for all that lies below.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fakesound.core.audio import resample

DURATION_S = 10.0
PAIRS_HZ = ((44_100, 32_000), (48_000, 32_000), (16_000, 32_000), (22_255, 32_000))
PASSBAND = (0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95)  # of the lower Nyquist frequency
STOPBAND = (1.02, 1.05, 1.1, 1.2, 1.35)  # of the new Nyquist frequency, where the old one lies above it
EDGE_S = 0.1
Samples = NDArray[np.float32]
Resampler = Callable[[Samples, int, int], Samples]


def torchaudio_default(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Windowed sinc of six zero crossings."""
    return torchaudio.functional.resample(torch.from_numpy(samples), from_hz, to_hz).numpy()


def torchaudio_kaiser_best(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """The setting that torchaudio's documentation names as equal to librosa's kaiser_best."""
    return torchaudio.functional.resample(
        torch.from_numpy(samples),
        from_hz,
        to_hz,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    ).numpy()


RESAMPLERS: dict[str, Resampler] = {
    "soxr HQ": resample,
    "torchaudio, default": torchaudio_default,
    "torchaudio, kaiser best": torchaudio_kaiser_best,
}


def sine(frequency_hz: float, rate_hz: int) -> Samples:
    seconds = np.arange(int(DURATION_S * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * seconds)).astype(np.float32)


def chirp(top_hz: float, rate_hz: int) -> Samples:
    """From nothing to `top_hz`, linearly."""
    seconds = np.arange(int(DURATION_S * rate_hz)) / rate_hz
    return (0.5 * np.sin(np.pi * top_hz / DURATION_S * seconds**2)).astype(np.float32)


def level_db(error: Samples, rate_hz: int) -> float:
    """RMS away from the ends, in dB of a sine of amplitude 0.5."""
    edge = int(EDGE_S * rate_hz)
    inner = error[edge : int(DURATION_S * rate_hz) - edge].astype(np.float64)
    return float(20 * np.log10(np.sqrt(np.mean(inner**2)) / (0.5 / np.sqrt(2)) + 1e-12))


def error_db(resampler: Resampler, draw: Callable[[int], Samples], from_hz: int, to_hz: int) -> float:
    expected, found = draw(to_hz), resampler(draw(from_hz), from_hz, to_hz)
    common = min(len(expected), len(found))
    return level_db(found[:common] - expected[:common], to_hz)


def measure(from_hz: int, to_hz: int, repeats: int) -> list[dict[str, Any]]:
    nyquist_hz = min(from_hz, to_hz) / 2
    noise = np.random.default_rng(0).normal(0, 0.1, int(DURATION_S * from_hz)).astype(np.float32)
    runs_s: dict[str, list[float]] = {name: [] for name in RESAMPLERS}
    for turn in range(repeats + 1):
        for name, resampler in RESAMPLERS.items():
            started_s = time.perf_counter()
            resampler(noise, from_hz, to_hz)
            if turn:
                runs_s[name].append(time.perf_counter() - started_s)
    rows = []
    for name, resampler in RESAMPLERS.items():
        passband = {
            share: error_db(resampler, lambda rate_hz, f=share * nyquist_hz: sine(f, rate_hz), from_hz, to_hz)
            for share in PASSBAND
        }
        alias = {
            share: level_db(resampler(sine(share * to_hz / 2, from_hz), from_hz, to_hz), to_hz)
            for share in STOPBAND
            if share * to_hz < from_hz
        }
        swept = error_db(resampler, lambda rate_hz: chirp(0.9 * nyquist_hz, rate_hz), from_hz, to_hz)
        rows.append(
            {
                "from_hz": from_hz,
                "to_hz": to_hz,
                "resampler": name,
                "times_real_time": [DURATION_S / run_s for run_s in runs_s[name]],
                "passband_error_db": passband,
                "chirp_error_db": swept,
                "alias_db": alias,
            }
        )
    return rows


def described(row: dict[str, Any]) -> str:
    errors = " ".join(f"{share:g}: {value:.0f}" for share, value in row["passband_error_db"].items())
    alias = " ".join(f"{share:g}: {value:.0f}" for share, value in row["alias_db"].items())
    return (
        f"{row['from_hz']} -> {row['to_hz']} {row['resampler']:24} "
        f"{statistics.median(row['times_real_time']):6.0f} x real time; passband dB {errors}; "
        f"chirp {row['chirp_error_db']:.0f}; alias dB {alias or '-'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where to write the rows")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, one thread, torch {torch.__version__}")
    rows = []
    with threadpool_limits(1):
        for from_hz, to_hz in PAIRS_HZ:
            rows += measure(from_hz, to_hz, arguments.repeats)
            for row in rows[-len(RESAMPLERS) :]:
                print(described(row), flush=True)
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
