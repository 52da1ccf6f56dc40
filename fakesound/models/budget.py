"""Models made equally large, in parameters or in arithmetic, by their width alone: is one better, or only
larger?

What is counted as a floating-point operation: multiplications and additions of matrix products, convolutions,
attention and selective scans. Elementwise functions (norms, gates, the scan's exponentials) are not, as in
torch's own counter, which counts what runs in its kernels. What runs in ours (the selective scan, the short
convolution) it cannot see: that is counted by formula, and mixers of ViM are not run at all for it.

Shapes: B batch, F frames, L tokens, E width of the model, D inner channels, N state, R rank of the step size,
K taps, S directions.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fakesound.core.errors import UserError
from fakesound.models.build import build_detector
from fakesound.models.config import ModelConfig, TokenNetworkConfig
from fakesound.models.detector import Detector, count_parameters
from fakesound.models.mamba2 import BidirectionalSSDMixer
from fakesound.models.vim import BidirectionalMixer

CLIP_FRAMES = 1000  # ten seconds
TOLERANCE = 0.1
GIGA = 1e9

Model = TypeVar("Model", bound=ModelConfig)


def match_budget(
    config: Model, *, num_mels: int, parameters: int | None = None, gflops: float | None = None
) -> Model:
    """`config` with the width at which it is as large as asked for.

    Args:
        config: any kind of model; all but its width stays.
        num_mels: M, mel bands of one frame.
        parameters: trainable numbers wanted, or
        gflops: 1e9 floating-point operations wanted on ten seconds.

    Raises:
        UserError: no width comes within TOLERANCE of it; the message says how near the nearest is.
    """
    if (parameters is None) == (gflops is None):
        raise ValueError("give either parameters or gflops")
    if parameters is not None:
        return _nearest(config, parameters, partial(_parameters_of, num_mels=num_mels), "parameters")
    assert gflops is not None
    return _nearest(config, gflops * GIGA, partial(count_flops, num_mels=num_mels), "operations")


def _parameters_of(config: ModelConfig, num_mels: int) -> int:
    return count_parameters(unallocated(config, num_mels))


def _nearest(config: Model, wanted: float, measure: Callable[[ModelConfig], float], unit: str) -> Model:
    """Widths are tried from the given one on, each the one that the last suggests.

    Sizes grow with the width, linearly at least and with its square at most. Steps for a square fall short of
    the goal, so that nothing much larger than asked for is ever measured; full steps then settle the last
    few channels.
    """
    sizes: dict[ModelConfig, float] = {}
    factor, candidate = 1.0, config
    for exponent in (0.5, 1.0):
        while True:
            if candidate not in sizes:
                sizes[candidate] = measure(candidate)
            factor *= (wanted / sizes[candidate]) ** exponent
            candidate = config.widened(factor)
            if candidate in sizes:
                break
    nearest = min(sizes, key=lambda candidate: abs(sizes[candidate] - wanted))
    if abs(sizes[nearest] - wanted) > TOLERANCE * wanted:
        raise UserError(
            f"no width of {config.kind} has {wanted:,.0f} {unit} within {TOLERANCE:.0%}: the nearest has "
            f"{sizes[nearest]:,.0f}. Ask for another budget, or change the model's depth"
        )
    return cast(Model, nearest)


def unallocated(config: ModelConfig, num_mels: int) -> Detector:
    """The detector's structure without memory for its weights (on torch's meta device)."""
    with torch.device("meta"):
        return build_detector(config, num_mels)


def count_flops(config: ModelConfig, num_mels: int) -> int:
    """Floating-point operations (a multiplication and an addition are two) of one ten-second clip.

    Raises:
        UserError: the model takes no clip of ten seconds.
    """
    if isinstance(config, TokenNetworkConfig) and config.max_frames < CLIP_FRAMES:
        raise UserError(
            f"operations are counted on ten seconds, and this {config.kind} takes no more than "
            f"{config.max_frames} frames: set max_frames to {CLIP_FRAMES} or more, or budget parameters"
        )
    # Weights of any value do: what is in the memory that they are given is multiplied, and forgotten.
    detector = unallocated(config, num_mels).to_empty(device="cpu").eval()
    counted: list[int] = []
    for module in detector.modules():
        if isinstance(module, BidirectionalMixer):
            module.forward = partial(_count_mixer, module, counted)
        elif isinstance(module, BidirectionalSSDMixer):
            module.register_forward_pre_hook(partial(_count_convolution, counted))
    features_BFM = torch.zeros(1, CLIP_FRAMES, num_mels)
    # Attention as matrix products: the counter does not know the fused kernel of the CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        detector(features_BFM, torch.ones(1, CLIP_FRAMES, dtype=torch.bool))
    return counter.get_total_flops() + sum(counted)


def _count_mixer(
    mixer: BidirectionalMixer, counted: list[int], hidden_BLE: Tensor, mask_BL: Tensor
) -> Tensor:
    counted.append(hidden_BLE.shape[0] * mixer_flops(mixer, hidden_BLE.shape[1]))
    return hidden_BLE


def _count_convolution(
    counted: list[int], mixer: BidirectionalSSDMixer, inputs: tuple[Tensor, Tensor]
) -> None:
    """The one part of Mamba-2 that runs in a kernel of its own."""
    batch, num_tokens, _ = inputs[0].shape
    counted.append(batch * num_tokens * 2 * mixer.conv_weight_SXK.numel())


def mixer_flops(mixer: BidirectionalMixer, num_tokens: int) -> int:
    """Operations of a mixer on one clip of L tokens."""
    stacked = (mixer.x_proj_SXD, mixer.step_proj_SDR, mixer.conv_weight_SDK)
    weights = (mixer.in_proj.weight, mixer.out_proj.weight, *stacked)
    num_directions, inner, num_states = mixer.A_log_SDN.shape
    return num_tokens * (
        2 * sum(weight.numel() for weight in weights) + num_directions * scan_flops(inner, num_states)
    )


def scan_flops(num_channels: int, num_states: int) -> int:
    """Operations of one token in one direction of a selective scan.

    A channel takes delta u and D u, and for each state delta A, decay h, B (delta u), the sum of the latter
    two, and C h, added to y.
    """
    return num_channels * (2 + 6 * num_states)
