"""NMF mosaicing: the region explained as a mixture of spectra heard around it.

Method: complex STFT frames drawn from the surroundings are the fixed templates W of a non-negative
factorisation V ≈ W H of the region's band magnitudes; the activations H, found by multiplicative updates for
the Kullback-Leibler divergence, then mix the complex templates themselves.
Lee & Seung, "Learning the parts of objects by non-negative matrix factorization", Nature 401, 1999;
Driedger, Prätzlich & Müller, "Let it bee: towards NMF-inspired audio mosaicing", ISMIR 2015.

Traces: spectra frozen to a few templates, their phases repeated from frame to frame (a buzz at the hop rate),
events that the surroundings never heard are missing.
"""

import numpy as np

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples
from fakesound.attacks.spectral import Stft, band_centres, band_weights

_WINDOW_S = 0.064
_TEMPLATES = (24, 64)
_BAND_OCTAVES = 1 / 8
_BAND_MIN_HZ = 50.0
_UPDATES = 15
_POLYPHONY = (2, 7)  # templates heard at once
_FLOOR = 1e-9


def activations(wanted: Samples, templates: Samples, updates: int) -> Samples:
    """H >= 0 (T, R) such that H @ templates (R, B) approaches wanted (T, B): KL multiplicative updates.

    The divergence never rises from one update to the next.
    """
    mixed = np.full((len(wanted), len(templates)), wanted.mean() / max(templates.sum(axis=0).mean(), 1e-300))
    totals = np.maximum(templates.sum(axis=1), 1e-300)
    for _ in range(updates):
        mixed *= (wanted / np.maximum(mixed @ templates, 1e-300)) @ templates.T / totals
    return mixed


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    rate = context.sample_rate_hz
    stft = Stft.lasting(_WINDOW_S, rate)
    padded = context.with_margin(stft.n_fft)
    sides = context.surroundings(len(context.samples), stft.hop)
    heard = np.concatenate([stft.analyse(side) for side in sides])
    picked = heard[rng.choice(len(heard), min(len(heard), int(rng.integers(*_TEMPLATES))), replace=False)]
    centres = band_centres(rate / 2, _BAND_OCTAVES, max(_BAND_MIN_HZ, rate / stft.n_fft))
    average = band_weights(centres, stft.frequencies(rate)).T
    wanted = np.abs(stft.analyse(padded)) @ average
    floor = _FLOOR * max(wanted.max(), 1e-300)
    mixed = activations(wanted + floor, np.abs(picked) @ average + floor, _UPDATES)
    mixed *= mixed >= -np.sort(-mixed, axis=1)[:, : rng.integers(*_POLYPHONY)][:, -1:]
    return stft.synthesise(mixed @ picked, len(padded))[stft.n_fft : stft.n_fft + context.length].astype(
        np.float32
    )


NMF = Attack(
    family="nmf",
    mechanism="factorisation",
    summary="mixtures of the surroundings' spectra by non-negative activations",
    render=_render,
)
