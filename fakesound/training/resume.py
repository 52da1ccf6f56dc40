"""All that a checkpoint holds, as it is while training goes on: put away, and taken up again."""

from dataclasses import asdict, replace

import torch
from torch.optim import AdamW

from fakesound.models.detector import Detector
from fakesound.training.checkpoint import Checkpoint, TrainingState
from fakesound.training.config import TrainingConfig
from fakesound.training.ema import WeightAverage
from fakesound.training.loss import GroupWeights
from fakesound.training.optimizer import build_optimizer, load_optimizer, optimizer_tensors
from fakesound.training.progress import EpochProgress
from fakesound.training.randomness import random_states, restore_generators, seed_generators
from fakesound.training.ranks import Ranks
from fakesound.training.reports import EpochRecord
from fakesound.training.upload import CheckpointWriter


class LiveState:
    """What changes in a training, on one process.

    Attributes:
        detector: being trained.
        optimizer: of its weights.
        average: of its weights over the steps; None if not asked for.
        groups: weights of the clips' groups; None if not asked for.
        state: as of the last checkpoint.
        step: optimiser steps done.
        progress: within the epoch.
        device: where all of it is.
    """

    def __init__(
        self,
        detector: Detector,
        config: TrainingConfig,
        request_key: str,
        *,
        ranks: Ranks,
        device: torch.device,
        num_groups: int,
    ) -> None:
        self.detector = detector
        self.device = device
        self.optimizer: AdamW = build_optimizer(detector, config)
        self.groups = GroupWeights(config.loss, num_groups, device) if config.loss.group_dro_step else None
        self._ranks, self._config = ranks, config
        self.step = 0
        self.progress = EpochProgress(device)
        self.state = TrainingState(
            request_key=request_key,
            step=0,
            epoch=0,
            epoch_so_far=None,
            score=None,
            best_step=0,
            best_score=None,
            random_states=[],
            records=[],
        )
        self.average: WeightAverage | None = None

    def start(self) -> None:
        """Begin with the weights that the detector has now."""
        self._average_from_here()
        seed_generators(self._config.seed, self._ranks.rank, 0)

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint: exactly, if it is of as many processes."""
        self.detector.load_state_dict(checkpoint.part("model"))
        load_optimizer(self.optimizer, self.detector, checkpoint.part("optimizer"))
        self._average_from_here()
        if self.average is not None:
            self.average.load(checkpoint.part("ema"))
        if self.groups is not None:
            self.groups.load(checkpoint.part("loss"))
        self.state, self.step = checkpoint.state, checkpoint.state.step
        if self.state.epoch_so_far is not None:
            self.progress.restore(self.state.epoch_so_far, self._ranks)
        if len(self.state.random_states) == self._ranks.world_size:
            restore_generators(self.state.random_states[self._ranks.rank], self.device)
        else:  # another number of processes: nobody's state is anybody's
            seed_generators(self._config.seed, self._ranks.rank, self.step)

    def count_step(self) -> None:
        """The optimiser has taken a step."""
        if self.average is not None:
            self.average.update(self.step)
        self.step += 1

    def save_within_epoch(self, writer: CheckpointWriter) -> None:
        """Checkpoint; every process must come here after the same step, the first one writes."""
        self.state = replace(self.state, epoch_so_far=self.progress.state(self._ranks), score=None)
        self._save(writer)

    def save_epoch(self, writer: CheckpointWriter, record: EpochRecord) -> None:
        """Checkpoint at an epoch's end, and go on to the next; every process must come here."""
        state = self.state
        self.state = replace(
            state,
            epoch=record.epoch,
            epoch_so_far=None,
            score=record.score,
            best_step=record.step if record.is_best else state.best_step,
            best_score=record.score if record.is_best else state.best_score,
            records=[*state.records, asdict(record)],
        )
        self.progress = EpochProgress(self.device)
        self._save(writer)

    def _average_from_here(self) -> None:
        decay = self._config.ema_decay
        self.average = None if decay is None else WeightAverage(self.detector, decay)

    def _save(self, writer: CheckpointWriter) -> None:
        self.state = replace(
            self.state, step=self.step, random_states=random_states(self._ranks, self.device)
        )
        if not self._ranks.is_first:
            return
        parts = {
            "model": self.detector.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.detector),
            "ema": self.average.tensors() if self.average else {},
            "loss": self.groups.tensors() if self.groups else {},
        }
        tensors = {f"{part}.{name}": value for part, named in parts.items() for name, value in named.items()}
        writer.write(Checkpoint(tensors, self.state))
