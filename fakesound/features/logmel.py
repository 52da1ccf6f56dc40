"""Log-mel spectrogram whose frame k describes samples [k*hop, (k+1)*hop): the span its label describes.

Shape legend: B batch, S samples, F frames, M mels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.transforms import MelSpectrogram

from fakesound.features.config import FeatureConfig

HALF_MAX = 65504.0  # the largest half-precision number; features are stored in half precision


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
        self.mel = MelSpectrogram(
            sample_rate=config.sample_rate_hz,
            n_fft=config.n_fft,
            hop_length=config.hop_samples,
            f_min=config.f_min_hz,
            f_max=config.top_hz,
            n_mels=config.num_mels,
            power=2.0,
            norm="slaney",
            mel_scale="htk",
            center=False,
        )

    def forward(self, samples_BS: Tensor) -> Tensor:
        """Features (B, F, M), float32, of waveforms of one common length S >= 1."""
        num_samples = samples_BS.shape[-1]
        config = self.config
        span = (config.num_frames(num_samples) - 1) * config.hop_samples + config.n_fft
        # A negative tail cuts samples that no window reaches.
        padded = functional.pad(samples_BS, (self._lead, span - self._lead - num_samples))
        power_BFM = self.mel(padded).transpose(-1, -2)
        if config.scale == "log":
            return torch.log(power_BFM + config.log_floor)
        return power_BFM.clamp(max=HALF_MAX)
