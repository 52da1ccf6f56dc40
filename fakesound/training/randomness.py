"""torch's generators of every process: seeded, told, restored.

They alone are drawn from while a training runs (dropout, stochastic depth). The order of clips and their
augmentation come from generators made anew of (seed, epoch, clip).
"""

import base64
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from fakesound.training.ranks import Ranks


class RandomState(TypedDict):
    """Base64 of the state of torch's generators on one process; None where there is no GPU."""

    cpu: str
    cuda: str | None


def seed_generators(seed: int, rank: int, step: int) -> None:
    """Dropout draws differ between processes, and between where a training was taken up."""
    entropy = np.random.SeedSequence([seed, rank, step])
    torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))


def random_states(ranks: Ranks, device: torch.device) -> list[RandomState]:
    """State of torch's generators on every process, told to every process."""
    on_cpu = ranks.gather(torch.get_rng_state().to(device))
    states: list[RandomState] = [{"cpu": encode_random_state(state), "cuda": None} for state in on_cpu]
    if device.type == "cuda":
        on_cuda = ranks.gather(torch.cuda.get_rng_state(device).to(device))
        for state, bytes_ in zip(states, on_cuda, strict=True):
            state["cuda"] = encode_random_state(bytes_)
    return states


def restore_generators(state: RandomState, device: torch.device) -> None:
    """Let torch's generators go on where they were."""
    torch.set_rng_state(decode_random_state(state["cpu"]))
    if state["cuda"] and device.type == "cuda":
        torch.cuda.set_rng_state(decode_random_state(state["cuda"]), device)


def encode_random_state(state: Tensor) -> str:
    """A torch generator's state (bytes) as text."""
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def decode_random_state(text: str) -> Tensor:
    """Inverse of `encode_random_state`."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
