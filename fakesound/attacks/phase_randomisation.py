"""Phase randomisation: the region's short-time spectra with uniformly random phases.

Method: surrogate data in overlapping long windows: every bin of every frame keeps its magnitude and gets an
independent phase. Theiler et al., "Testing for nonlinearity in time series: the method of surrogate data",
Physica D 58, 1992, applied to frames of 40-200 ms.

Traces: pitch pulses and onsets dissolve into noise of the same spectrum, partials become narrow-band noise
as wide as the window's main lobe, harmonics lose their common phase.
"""

import numpy as np

from fakesound.attacks.base import Attack, AttackContext, FloatArray
from fakesound.attacks.spectral import Stft, random_phases

_WINDOWS_S = (0.04, 0.2)


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    window_s = np.exp(rng.uniform(*np.log(_WINDOWS_S)))
    stft = Stft.lasting(
        min(window_s, len(context.samples) / context.sample_rate_hz / 2), context.sample_rate_hz
    )
    padded = context.with_margin(stft.n_fft)
    magnitudes = np.abs(stft.analyse(padded))
    spectra = magnitudes * random_phases(magnitudes.shape, rng)
    return stft.synthesise(spectra, len(padded))[stft.n_fft : stft.n_fft + context.length].astype(np.float32)


PHASE_RANDOMISATION = Attack(
    family="phase_randomisation",
    mechanism="phase_reconstruction",
    summary="short-time magnitudes kept, phases drawn at random",
    render=_render,
)
