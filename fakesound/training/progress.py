"""How far a training is within an epoch, and the sums of which its figures are made."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fakesound.training.ranks import Ranks

GRADIENT_NORM = 3  # where it stands among the values of a step


class Means(NamedTuple):
    """Means over steps, all processes together."""

    loss: float
    clip_loss: float
    frame_loss: float
    gradient_norm: float


@dataclass(frozen=True)
class Extent:
    """How many optimiser steps there are.

    Attributes:
        per_epoch: of a whole epoch.
        total: of the training; the last epoch may be cut short.
    """

    per_epoch: int
    total: int

    def in_epoch(self, epoch: int) -> int:
        """Of epoch `epoch` (0-based)."""
        return min(self.per_epoch, self.total - epoch * self.per_epoch)


def mean_of_steps(sums: Tensor, steps: int, ranks: Ranks) -> Means:
    """What the sums of all processes' values amount to; every process must ask at the same point.

    Losses are shares that add up over processes; every process has the same gradient norm.
    """
    totals = sums.clone()
    totals[GRADIENT_NORM] /= ranks.world_size
    return Means(*(ranks.sum(totals) / steps).tolist())


@dataclass
class EpochProgress:
    """An epoch as far as it has come, on one process.

    Attributes:
        device: where values are summed.
        steps: optimiser steps of the epoch done.
        seconds: spent on it.
        loader_seconds: of these, spent waiting for batches.
        sums: (4,) of the values of its steps: this process's shares, as `Means` names them; in double
            precision, so that neither the order of magnitude nor an interruption shows.
    """

    device: torch.device
    steps: int = 0
    seconds: float = 0.0
    loader_seconds: float = 0.0
    sums: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sums = torch.zeros(len(Means._fields), dtype=torch.float64, device=self.device)

    def add(self, values: Tensor, seconds: float, loader_seconds: float) -> None:
        """Count a step; its values may still be on their way."""
        self.sums += values
        self.steps += 1
        self.seconds += seconds
        self.loader_seconds += loader_seconds

    def state(self, ranks: Ranks) -> dict[str, Any]:
        """What `restore` needs, of all processes; every process must ask at the same point."""
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "loader_seconds": self.loader_seconds,
            "sums": [sums.tolist() for sums in ranks.gather(self.sums)],
        }

    def restore(self, state: dict[str, Any], ranks: Ranks) -> None:
        """Go on from there; with another number of processes the first one takes over all sums."""
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.loader_seconds = state["loader_seconds"]
        sums = torch.tensor(state["sums"], dtype=torch.float64, device=self.device)
        if len(sums) == ranks.world_size:
            self.sums = sums[ranks.rank]
            return
        norm = sums[0, GRADIENT_NORM] * ranks.world_size
        self.sums = sums.sum(0) if ranks.is_first else torch.zeros_like(self.sums)
        self.sums[GRADIENT_NORM] = norm if ranks.is_first else 0.0


class StepWindow:
    """The steps since figures of steps were last told, on one process.

    Attributes:
        sums: (4,) of their values.
        steps: how many.
        clips: in them, over all processes.
        seconds: spent on them.
        loader_seconds: of these, spent waiting for batches.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(Means._fields), dtype=torch.float64, device=device)
        self.clear()

    def clear(self) -> None:
        """Start anew."""
        self.sums.zero_()
        self.steps = self.clips = 0
        self.seconds = self.loader_seconds = 0.0

    def add(self, values: Tensor, seconds: float, loader_seconds: float, clips: int) -> None:
        """Count a step; its values may still be on their way."""
        self.sums += values
        self.steps += 1
        self.clips += clips
        self.seconds += seconds
        self.loader_seconds += loader_seconds
