"""The one interface of all models: normalise the features, run a backbone, return clip and frame logits.

Shapes: B batch, F frames, M mels.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class DetectorOutput(NamedTuple):
    """Logits (before the sigmoid) that the clip, and each of its frames, is forged."""

    clip_logits_B: Tensor
    frame_logits_BF: Tensor


class Network(Protocol):
    """What a detector wraps."""

    def __call__(self, image_BFM: Tensor, mask_BF: Tensor) -> DetectorOutput:
        """Score normalised features that are zero outside the mask."""
        ...


class Detector(nn.Module):
    """A network with the normalisation of its input.

    Args:
        network: takes normalised features (B, F, M), zero outside the mask, and the mask (B, F).
        num_mels: M, mel bands of one frame.
    """

    input_mean_M: Tensor
    input_std_M: Tensor

    def __init__(self, network: nn.Module, num_mels: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("input_mean_M", torch.zeros(num_mels))
        self.register_buffer("input_std_M", torch.ones(num_mels))

    def set_normalisation(self, mean_M: Tensor, std_M: Tensor) -> None:
        """Each mel band is normalised with these: mean and standard deviation over the training frames."""
        self.input_mean_M.copy_(mean_M)
        self.input_std_M.copy_(std_M.clamp_min(1e-5))

    def forward(self, features_BFM: Tensor, mask_BF: Tensor) -> DetectorOutput:
        """Score a batch of clips.

        Args:
            features_BFM: (B, F, M) features as the front end makes them, any floating type.
            mask_BF: (B, F) bool, True for the frames of the clip: a run of at least one from the start. What
                stands in the other frames is ignored, NaN included; what is returned for them means nothing.

        Raises:
            UserError: the clips are longer than the model was built for.
        """
        image_BFM = (features_BFM.float() - self.input_mean_M) / self.input_std_M
        return self.network(image_BFM.masked_fill(~mask_BF[..., None], 0.0), mask_BF)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def no_weight_decay(module: nn.Module) -> set[str]:
    """Names of the parameters to spare: all vectors (norms, biases), and those that a module lists in its
    UNDECAYED, which decay would pull away from what they mean.
    """
    listed = {
        f"{prefix}.{own}" if prefix else own
        for prefix, part in module.named_modules()
        for own in getattr(part, "UNDECAYED", ())
    }
    return listed | {name for name, parameter in module.named_parameters() if parameter.ndim <= 1}
