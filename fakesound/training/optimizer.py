"""AdamW with weight decay where it belongs, and its state as named tensors."""

import torch
from torch import Tensor
from torch.optim import AdamW

from fakesound.models.detector import Detector, no_weight_decay
from fakesound.training.config import TrainingConfig


def build_optimizer(detector: Detector, config: TrainingConfig) -> AdamW:
    """AdamW (Loshchilov & Hutter, ICLR 2019); A_log, D, norms, biases, positions do not decay.

    The learning rate is set at every step by the caller.
    """
    exempt = no_weight_decay(detector)
    named = [(name, parameter) for name, parameter in detector.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in named if name not in exempt], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if name in exempt], "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=config.schedule.peak_lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def optimizer_tensors(optimizer: AdamW, detector: Detector) -> dict[str, Tensor]:
    """Its state: `<parameter>.<what>` -> tensor."""
    return {
        f"{name}.{what}": value
        for name, parameter in detector.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: AdamW, detector: Detector, tensors: dict[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`, for an optimizer of the same detector."""
    parameters = dict(detector.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        name, what = key.rsplit(".", 1)
        parameter = parameters[name]
        optimizer.state[parameter][what] = value.to(parameter.device, torch.float32)
