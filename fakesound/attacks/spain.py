"""Sparse inpainting: the region is forgotten and continued by as few spectral lines as explain its sides.

Method: A-SPAIN, the analysis variant of SPAIN. In a Hann-windowed frame it looks for samples that agree
with the known ones and whose redundant Fourier coefficients are k-sparse, by ADMM with hard thresholding, k
rising at each iteration until the two agree. Mokrý, Záviška, Rajmic & Veselý, "Introducing SPAIN (SParse
Audio INpainter)", EUSIPCO 2019, arXiv 1810.13137. There frames overlap anywhere and gaps last up to 50 ms;
here gaps are closed from the borders inwards (`inwards.fill_inwards`), a quarter of a frame at a time: half
of the frame is known, half is sought, and the nearer half of that is kept. The last block is found between
both sides.

Traces: noise becomes a few steady lines per frame, on the grid of the redundant transform; which lines they
are changes from block to block; events between the borders are missing.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from fakesound.attacks.base import Attack, AttackContext, FloatArray, Samples
from fakesound.attacks.inwards import fill_inwards, known_sides
from fakesound.attacks.spectral import Spectrum

_FRAMES_S = (0.064, 0.1)
_BLOCKS = 4  # of a frame
_REDUNDANCY = 2
_ITERATIONS = 60
_STEP = 3  # coefficients more from one iteration to the next
_TOLERANCE = 1e-3  # of the known coefficients' norm
_MIN_SIDE = 32


def inpaint(left: Samples, right: Samples, length: int) -> Samples:
    """The gap (length,) between `left` and `right` by A-SPAIN in one frame: left, gap, right.

    Where `right` is empty, twice the gap is sought and half of it dropped: at a frame's end the window
    leaves nothing to find.
    """
    missing = length if len(right) else 2 * length
    frame = np.concatenate([left, np.zeros(missing), right])
    window = np.sin(np.pi * (np.arange(len(frame)) + 0.5) / len(frame)) ** 2
    gap = slice(len(left), len(left) + missing)
    found = _complete(frame * window, gap)[gap] / window[gap]
    return found[:length]


def _complete(windowed: Samples, gap: slice) -> Samples:
    """The windowed frame (n,) with its gap filled: ADMM in its scaled form.

    The transform is the DFT padded to `_REDUNDANCY` * n: its adjoint is its inverse up to scale.
    """
    size = fft.next_fast_len(_REDUNDANCY * len(windowed), real=True)
    samples = windowed.copy()
    spectrum: Spectrum = np.asarray(fft.rfft(samples, size))
    tolerance = _TOLERANCE * np.linalg.norm(spectrum)
    dual = np.zeros_like(spectrum)
    for sparsity in range(_STEP, _STEP * _ITERATIONS + 1, _STEP):
        sparse = _keep_largest(spectrum + dual, sparsity)
        samples[gap] = np.asarray(fft.irfft(sparse - dual, size))[gap]
        spectrum = np.asarray(fft.rfft(samples, size))
        disagreement = spectrum - sparse
        if np.linalg.norm(disagreement) <= tolerance:
            break
        dual += disagreement
    return samples


def _keep_largest(spectrum: Spectrum, count: int) -> NDArray[np.complexfloating]:
    """The `count` coefficients of largest magnitude (a conjugate pair counts once), zeros elsewhere."""
    if count >= len(spectrum):
        return spectrum
    power = spectrum.real**2 + spectrum.imag**2
    return np.where(power >= np.partition(power, -count)[-count], spectrum, 0)


def _render(context: AttackContext, rng: np.random.Generator) -> FloatArray:
    block = max(1, int(rng.uniform(*_FRAMES_S) * context.sample_rate_hz) // _BLOCKS)
    reach = 2 * block
    left, right = known_sides(context, reach, _MIN_SIDE)
    filled = fill_inwards(left, right, context.length, block=block, reach=reach, fill=inpaint)
    return filled.astype(np.float32)


SPAIN = Attack(
    family="spain",
    mechanism="interpolation",
    summary="gap filled by sparse spectra that agree with both sides (A-SPAIN)",
    render=_render,
)
