"""A loss that is no number any more: noticed without making the GPU wait, stopped before it is saved."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fakesound.core.errors import UserError
from fakesound.core.store import Place
from fakesound.training.progress import GRADIENT_NORM, Means

DIVERGED_NAME = "diverged.json"
LOWER_IT = "lower training.schedule.peak_lr. The last checkpoint is from before that"


class DivergedError(UserError):
    """The loss or its gradient is no longer a finite number."""


class DivergenceWatch:
    """Remembers, on the device, the first step whose gradient norm was not finite.

    The norm is the same on all processes, so that all of them find the same. A loss that is NaN makes it NaN.

    Attributes:
        values: of that step, on this process.
    """

    def __init__(self, device: torch.device) -> None:
        self._first = torch.full((), -1, dtype=torch.int64, device=device)
        self.values = torch.zeros(len(Means._fields), device=device)
        self._can_read_freely = device.type == "cpu"

    def see(self, step: int, values: Tensor) -> None:
        """Look at the values of a step, as `EpochProgress.add` takes them."""
        is_first = ~torch.isfinite(values[GRADIENT_NORM]) & (self._first < 0)
        self._first = torch.where(is_first, step, self._first)
        self.values = torch.where(is_first, values, self.values)

    def first_bad_step(self, *, may_wait: bool) -> int | None:
        """The step, if there was one. On a GPU to read it is to wait for it: None where `may_wait` is not."""
        if not (may_wait or self._can_read_freely):
            return None
        first = int(self._first.item())
        return None if first < 0 else first


def write_diverged(
    place: Place, *, epoch: int, steps: range, clip_ids: Sequence[str], figures: dict[str, float]
) -> None:
    """Leave beside the checkpoints what the training diverged on: `diverged.json`.

    Args:
        place: of the training.
        epoch: 1 for the first.
        steps: of the training, 1 for the first; one alone where the very step is known.
        clip_ids: of the clips of these steps, on all processes.
        figures: means over these steps; those that are not finite become text, which JSON has no number for.
    """
    told = {name: value if math.isfinite(value) else str(value) for name, value in figures.items()}
    place.write_json(
        DIVERGED_NAME,
        {
            "epoch": epoch,
            "first_step": steps[0],
            "last_step": steps[-1],
            "clip_ids": list(clip_ids),
            **told,
        },
    )
