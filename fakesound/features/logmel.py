"""Log-mel spectrogram whose frame k describes samples [k*hop, (k+1)*hop): the span its label describes.

Written for one CPU thread: windows are views of the signal, never copies; a block of frames stays in the
cache from window to mel; and the mel product leaves out the bins that a filter does not reach.
`benchmarks/features.py` compares it with torchaudio and librosa.

Shape legend: B batch, S samples, F frames, N samples of a window, K frequency bins, M mels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.functional import melscale_fbanks

from fakesound.features.config import FeatureConfig

HALF_MAX = 65504.0  # the largest half-precision number; features are stored in half precision
FRAMES_PER_BLOCK = 250  # 2 MB of spectrum at n_fft 2048: smaller blocks cost calls, larger ones cache misses
MELS_PER_BAND = 16


class _Band(NamedTuple):
    """Neighbouring mel filters, and the bins that any of them reaches."""

    mels: slice
    bins: slice
    weights_KM: Tensor


class LogMel(nn.Module):
    """Waveforms (B, S) to features (B, F, M), F = `config.num_frames(S)`.

    The window of frame k is centred on sample (k + 1/2)*hop, the middle of the span its label describes;
    beyond the clip's ends the signal is zero. Mel power as `torchaudio.transforms.MelSpectrogram` (power 2,
    Slaney normalisation, HTK scale), then ln(power + floor) or the power itself, capped for half precision.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self._lead = (config.n_fft - config.hop_samples) // 2
        self._window_N = torch.hann_window(config.n_fft)
        self._bands = _bands(
            melscale_fbanks(
                n_freqs=config.n_fft // 2 + 1,
                f_min=config.f_min_hz,
                f_max=config.top_hz,
                n_mels=config.num_mels,
                sample_rate=config.sample_rate_hz,
                norm="slaney",
                mel_scale="htk",
            )
        )

    def forward(self, samples_BS: Tensor) -> Tensor:
        """Features (B, F, M), float32, of waveforms of one common length S >= 1, on the CPU."""
        num_samples = samples_BS.shape[-1]
        config = self.config
        num_frames = config.num_frames(num_samples)
        span = (num_frames - 1) * config.hop_samples + config.n_fft
        # A negative tail cuts samples that no window reaches.
        padded = functional.pad(samples_BS, (self._lead, span - self._lead - num_samples))
        features_BFM = samples_BS.new_empty(len(samples_BS), num_frames, config.num_mels)
        for clip_FN, out_FM in zip(
            padded.unfold(-1, config.n_fft, config.hop_samples), features_BFM, strict=True
        ):
            blocks = zip(clip_FN.split(FRAMES_PER_BLOCK), out_FM.split(FRAMES_PER_BLOCK), strict=True)
            for frames_FN, block_FM in blocks:
                self._write_mel_power(frames_FN, block_FM)
        if config.scale == "log":
            return features_BFM.add_(config.log_floor).log_()
        return features_BFM.clamp_(max=HALF_MAX)

    def _write_mel_power(self, frames_FN: Tensor, out_FM: Tensor) -> None:
        spectrum_FK = torch.fft.rfft(frames_FN * self._window_N)
        squares_FK2 = torch.view_as_real(spectrum_FK).square_()  # |z|^2 without the square root of abs
        power_FK = squares_FK2[..., 0] + squares_FK2[..., 1]
        for band in self._bands:
            out_FM[:, band.mels] = power_FK[:, band.bins] @ band.weights_KM


def _bands(filters_KM: Tensor) -> list[_Band]:
    """The filter bank cut into bands: together an eighth of the whole at 2048 and 128."""
    bands = []
    for first in range(0, filters_KM.shape[1], MELS_PER_BAND):
        mels = slice(first, min(first + MELS_PER_BAND, filters_KM.shape[1]))
        reached = filters_KM[:, mels].any(dim=1).nonzero().flatten().tolist()
        bins = slice(reached[0], reached[-1] + 1) if reached else slice(0, 0)
        bands.append(_Band(mels, bins, filters_KM[bins, mels].contiguous()))
    return bands
