"""What a training tells of itself while it runs, and who listens. Light: no torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fakesound.training.samples import Sample

EPOCHS_NAME = "epochs.jsonl"


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What is told every few steps: means over the steps since it was last told.

    Attributes:
        epoch: 1 for the first.
        step: optimiser steps done.
        total_steps: of the whole training.
        step_in_epoch: optimiser steps of this epoch done.
        steps_in_epoch: of how many.
        learning_rate: of the last of these steps.
        loss: of the batches of all processes.
        clip_loss: likewise.
        frame_loss: likewise.
        gradient_norm: before clipping.
        clips_per_s: over all processes together.
        loader_share: of the time, spent waiting for batches (first process).
    """

    epoch: int
    step: int
    total_steps: int
    step_in_epoch: int
    steps_in_epoch: int
    learning_rate: float
    loss: float
    clip_loss: float
    frame_loss: float
    gradient_norm: float
    clips_per_s: float
    loader_share: float


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What is told of an epoch.

    Attributes:
        epoch: 1 for the first.
        step: optimiser steps done at its end.
        learning_rate: of its last step.
        loss: mean over steps.
        clip_loss: mean over steps.
        frame_loss: mean over steps.
        gradient_norm: mean over steps, before clipping.
        validation: `partition/figure` -> value, see `validate.partition_metrics`.
        score: see `validate.validation_score`.
        is_best: whether no earlier epoch scored as high.
        seconds: wall time, validation included, what was lost to an interruption not.
        loader_seconds: of these, spent waiting for batches (first process).
    """

    epoch: int
    step: int
    learning_rate: float
    loss: float
    clip_loss: float
    frame_loss: float
    gradient_norm: float
    validation: dict[str, float] = field(default_factory=dict)
    score: float
    is_best: bool
    seconds: float
    loader_seconds: float


def encode_records(records: Sequence[dict[str, Any]]) -> bytes:
    """The content of `epochs.jsonl`: one JSON object a line."""
    return "".join(json.dumps(record, sort_keys=True) + "\n" for record in records).encode()


class Reports(Protocol):
    """Who is told. Only the first process of a training tells. What is raised here ends the training, which
    can be resumed."""

    def on_step(self, record: StepRecord) -> None:
        """After every `training.log_every_steps` steps, and after the last step of an epoch."""
        ...

    def on_epoch(self, record: EpochRecord) -> None:
        """After each epoch's checkpoint. Epochs that an interrupted run had told of are not told again:
        `epochs.jsonl` has them all."""
        ...

    def on_samples(self, epoch: int, samples: "Sequence[Sample]") -> None:
        """After every `training.samples_every_epochs` epochs and the last one, if there are clips to validate
        on."""
        ...


class Quiet:
    """Listens to nothing; a base for those who listen to something."""

    def on_step(self, record: StepRecord) -> None:
        """See `Reports.on_step`."""

    def on_epoch(self, record: EpochRecord) -> None:
        """See `Reports.on_epoch`."""

    def on_samples(self, epoch: int, samples: "Sequence[Sample]") -> None:
        """See `Reports.on_samples`."""
