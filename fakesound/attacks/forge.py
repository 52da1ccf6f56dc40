"""Put replacements into recordings: crossfades, genuine controls, and the chain that every clip ends with.

A region's border is the midpoint of its crossfade: the crossfade straddles it, half outside the region. At
the recording's own start and end there is nothing to fade from, so there is no crossfade. Samples outside
the regions and their crossfades keep every bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fakesound.attacks.base import Attack, AttackContext, FloatArray
from fakesound.attacks.chain import OFF, ChainConfig, degrade
from fakesound.attacks.copy_move import COPY_MOVE
from fakesound.attacks.matching import match
from fakesound.attacks.spectral import fade_in
from fakesound.core.audio import FULL_SCALE, resample
from fakesound.core.errors import UserError
from fakesound.core.regions import SampleRegion

CROSSFADE_S = (0.001, 0.05)
MAX_CROSSFADE_SHARE = 4  # a crossfade lasts at most region / 4
GAIN_DB = (-7.0, -1.0)  # headroom for what resampling overshoots
_DITHER_STREAM = 1


@dataclass(frozen=True)
class _Crossfade:
    """Weights of the replacement over its span: rising, one, falling."""

    span: SampleRegion
    rise: FloatArray
    fall: FloatArray


def forge(
    samples: FloatArray,
    regions: Sequence[SampleRegion],
    attack: Attack,
    *,
    sample_rate_hz: int,
    rng: np.random.Generator,
    donor: FloatArray | None = None,
) -> FloatArray:
    """The recording with its regions replaced by an attack, matched and crossfaded.

    Args:
        samples: (n,) at the recording's native rate.
        regions: sorted, apart from each other, within the recording.
        attack: the family, see `registry.get_attack`.
        sample_rate_hz: of `samples` and `donor`.
        rng: draws everything random.
        donor: another recording (d,), for the families that need one.

    Returns:
        A new array (n,), bit-identical to `samples` outside the regions and their crossfades.

    Raises:
        UserError: regions overlap, are out of order or leave the recording; a donor is missing.
    """
    _check_regions(regions, len(samples))
    forged = samples.copy()
    for index, region in enumerate(regions):
        room = _room(regions, index, len(samples))
        fade = _draw_crossfade(region, room, sample_rate_hz, rng)
        context = AttackContext(samples, fade.span, sample_rate_hz, donor)
        rendered = attack.render(context, rng).astype(np.float64)
        matched = match(rendered, samples.astype(np.float64), fade.span, sample_rate_hz)
        _insert(forged, matched.astype(np.float32), fade)
    return forged


def control(
    samples: FloatArray, regions: Sequence[SampleRegion], *, sample_rate_hz: int, rng: np.random.Generator
) -> FloatArray:
    """A genuine splice: as `forge`, filled with content from elsewhere in the same recording.

    Masks, crossfades, matching and levels are those of forgeries; only the content was really recorded.
    """
    return forge(samples, regions, COPY_MOVE, sample_rate_hz=sample_rate_hz, rng=rng)


def final_chain(
    samples: FloatArray,
    *,
    native_rate_hz: int,
    target_rate_hz: int,
    seed: int,
    chain: ChainConfig = OFF,
    reference: FloatArray | None = None,
) -> FloatArray:
    """What every clip passes through, genuine or forged: resampling, `chain`, gain, dither, 16-bit steps.

    Noise, codec, gain (-7 to -1 dB) and dither (triangular, two steps wide) come from the seed alone: both
    clips of a pair with one seed differ only where the forgery is, unless a codec is drawn.

    Args:
        samples: (n,) at `native_rate_hz`.
        native_rate_hz: before.
        target_rate_hz: after.
        seed: the pair's.
        chain: noise and codec; none by default.
        reference: what both clips of the pair were made from: the noise's level follows it. None: `samples`.

    Returns:
        float32 (m,), every value a multiple of 2^-15 in [-1, 1): 16-bit files hold it exactly.
    """
    resampled = resample(samples, native_rate_hz, target_rate_hz)
    heard = degrade(resampled, samples if reference is None else reference, target_rate_hz, chain, seed)
    gain = 10 ** (np.random.default_rng(seed).uniform(*GAIN_DB) / 20)
    noise = np.random.default_rng([seed, _DITHER_STREAM])
    dither = noise.random(len(heard)) - noise.random(len(heard))
    steps = np.rint(heard.astype(np.float64) * gain * FULL_SCALE + dither)
    return (np.clip(steps, -FULL_SCALE, FULL_SCALE - 1) / FULL_SCALE).astype(np.float32)


def _check_regions(regions: Sequence[SampleRegion], num_samples: int) -> None:
    end = 0
    for onset, offset in regions:
        if not end <= onset < offset <= num_samples:
            raise UserError(
                f"region {onset}-{offset} is empty, out of order, overlaps another or leaves 0-{num_samples}"
            )
        end = offset


def _room(regions: Sequence[SampleRegion], index: int, num_samples: int) -> tuple[int, int]:
    """Longest crossfades on both sides that leave neighbours' crossfades and the recording's ends alone."""
    onset, offset = regions[index]
    before = onset - regions[index - 1].offset if index else 2 * onset
    after = regions[index + 1].onset - offset if index + 1 < len(regions) else 2 * (num_samples - offset)
    return before, after


def _draw_crossfade(
    region: SampleRegion, room: tuple[int, int], sample_rate_hz: int, rng: np.random.Generator
) -> _Crossfade:
    """Lengths log-uniform in 1-50 ms, at most a quarter of the region; each of either shape."""
    longest = (region.offset - region.onset) // MAX_CROSSFADE_SHARE
    drawn = np.exp(rng.uniform(*np.log(CROSSFADE_S), size=2)) * sample_rate_hz
    before, after = (max(0, min(round(d), longest, r)) for d, r in zip(drawn, room, strict=True))
    span = SampleRegion(region.onset - before // 2, region.offset + after // 2)
    equal_power = rng.random(2) < 0.5
    rise, fall = fade_in(before, equal_power[0]), fade_in(after, equal_power[1])
    return _Crossfade(span, rise.astype(np.float32), fall[::-1].astype(np.float32))


def _insert(samples: FloatArray, replacement: FloatArray, fade: _Crossfade) -> None:
    """Write the replacement over samples[fade.span], mixing with what is there along the crossfades."""
    target = samples[fade.span.onset : fade.span.offset]
    length, before, after = len(target), len(fade.rise), len(fade.fall)
    mixed = replacement.copy()
    mixed[:before] = fade.rise * replacement[:before] + fade.rise[::-1] * target[:before]
    tail = slice(length - after, length)
    mixed[tail] = fade.fall * replacement[tail] + fade.fall[::-1] * target[tail]
    target[:] = mixed
