"""One optimiser step: batch, losses, gradient, update. Nothing here waits for a GPU."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from fakesound.models.detector import Detector
from fakesound.training.augment import Augmentation
from fakesound.training.config import TrainingConfig
from fakesound.training.data import Batch, ClipBank, StepPlan, collate
from fakesound.training.loss import GroupWeights, detection_loss
from fakesound.training.ranks import Ranks
from fakesound.training.schedule import lr_at


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """What takes steps, on one process.

    Attributes:
        model: what is called; holds the detector's weights.
        detector: what is trained.
        optimizer: of its weights.
        config: of the training.
        total_steps: of the training.
        ranks: this process among the others.
        device: where the detector is.
        clips: to train on.
        augmentation: of them.
        groups: weigh the clips' groups; None minimises the mean loss.
    """

    model: nn.Module
    detector: Detector
    optimizer: AdamW
    config: TrainingConfig
    total_steps: int
    ranks: Ranks
    device: torch.device
    clips: ClipBank
    augmentation: Augmentation
    groups: GroupWeights | None = None

    @property
    def uses_bf16(self) -> bool:
        """Whether the network computes in bf16; its weights, losses and scans stay in float32."""
        return self.config.precision == "bf16" and self.device.type == "cuda"

    def make_batches(self, plan: StepPlan, epoch: int) -> list[Batch]:
        """The pieces of a step of epoch `epoch` (0-based), on the CPU; may be called on another thread."""
        return [
            collate(self.clips, piece, self.augmentation, epoch)
            for piece in cut(plan, self.config.accumulate_steps)
        ]

    def take(self, number: int, batches: Sequence[Batch]) -> Tensor:
        """Step `number` (0-based) of the training.

        Returns:
            (loss, clip loss, frame loss, gradient norm), still on the device: this process's shares of the
            losses; the norm, before clipping, is that of all.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(number, self.total_steps, self.config.schedule)
        losses = []
        for k, batch in enumerate(batches):
            with self._gradients_exchanged(k + 1 == len(batches)):
                losses.append(self._add_gradient(batch.to(self.device)))
        norm = nn.utils.clip_grad_norm_(self.detector.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if self.groups is not None:
            self.groups.finish_step(self.ranks.sum)
        self.optimizer.zero_grad(set_to_none=True)
        return torch.cat([torch.stack(losses).sum(0), norm[None]])

    def _add_gradient(self, batch: Batch) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.uses_bf16):
            output = self.model(batch.features_BFM, batch.mask_BF)
        if self.groups is not None:
            losses = self.groups(output, batch.targets)
        else:
            losses = detection_loss(output, batch.targets, self.config.loss)
        # Gradients are averaged over processes, but the losses are shares that add up.
        (losses.total * self.ranks.world_size).backward()
        return torch.stack([losses.total, losses.clip, losses.frame]).detach()

    def _gradients_exchanged(self, is_last_piece: bool) -> AbstractContextManager[None]:
        """Processes exchange the gradient of a step once, when it is whole."""
        if is_last_piece or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()


def cut(plan: StepPlan, pieces: int) -> Iterator[StepPlan]:
    """A step in up to `pieces` pieces, none of them empty.

    Losses are divided by the counts of the whole step, so that the pieces' gradients add up to its gradient.
    """
    for places in np.array_split(np.arange(len(plan.clips)), min(pieces, len(plan.clips))):
        yield plan.part(places)
