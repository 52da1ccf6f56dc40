"""How a detector is run while it is trained: in many processes, compiled, recomputing what it lets go."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from fakesound.core.errors import UserError
from fakesound.models.detector import Detector
from fakesound.training.config import TrainingConfig
from fakesound.training.ranks import Ranks


def prepare(detector: Detector, config: TrainingConfig, ranks: Ranks, device: torch.device) -> nn.Module:
    """What to call in training in place of `detector`, whose weights it trains.

    Raises:
        UserError: an option is not for this model.
    """
    if config.activation_checkpointing:
        recompute_activations(detector)
    if config.compile:
        compile_blocks(detector)
    if ranks.world_size == 1:
        return detector
    # Buffers are shared once an epoch, before anything reads them, not at every step.
    return DistributedDataParallel(
        detector,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def recompute_activations(detector: Detector) -> None:
    """Keep of each block only what enters it (Chen et al., "Training Deep Nets with Sublinear Memory Cost",
    arXiv 1604.06174). Dropout draws the same again.

    Raises:
        UserError: a model without such blocks. (Those of CNNs would update running statistics twice.)
    """
    for block in _blocks(detector, "activation_checkpointing"):
        block.forward = partial(_forward_again, block.forward)


def compile_blocks(detector: Detector) -> None:
    """Run each block through torch.compile, in place: names of weights stay what they are.

    Not whole networks: with clips of many lengths, torch 2.10 burns the strides of one length into their
    gradient, and fails on the next.

    Raises:
        UserError: a model without such blocks.
    """
    for block in _blocks(detector, "compile"):
        block.compile(dynamic=True)


def _blocks(detector: Detector, option: str) -> list[nn.Module]:
    from fakesound.models.token_network import ResidualBlock

    blocks: list[nn.Module] = [part for part in detector.modules() if isinstance(part, ResidualBlock)]
    if not blocks:
        raise UserError(f"training.{option} is for models over patches: vim, transformer, mamba2")
    return blocks


def _forward_again(forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False)
