"""Checkpoints that are whole or not there: safetensors and a JSON state file, no pickle.

    checkpoints/step-00000120/tensors.safetensors   model, optimiser, averaged weights
    checkpoints/step-00000120/state.json            the rest, and the SHA-256 of the tensors; written last

Each file appears complete or not at all (`Place.writing`), on any kind of store. A checkpoint counts from
the moment its state file is there and fits its tensors; whatever else a crash left is skipped. A remote store
gets its checkpoints in the background (`CheckpointWriter`).

There is no state of a loss scaler, since bf16 needs none, and none of the learning rate, a function of the
step alone.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from fakesound.core.errors import IntegrityError
from fakesound.core.progress import say
from fakesound.core.store import Place
from fakesound.training.randomness import RandomState
from fakesound.training.reports import EPOCHS_NAME, encode_records

FOLDER = "checkpoints"
TENSORS_NAME = "tensors.safetensors"
STATE_NAME = "state.json"
SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where a training stands, tensors apart.

    Attributes:
        request_key: digest of all that determines the result: configuration and data.
        step: optimiser steps done.
        epoch: the epoch to go on with, 0-based.
        epoch_so_far: of that epoch, see `EpochProgress.state`; None before its first step.
        score: validation score of these weights; None within an epoch.
        best_step: step of the best checkpoint so far, this one included; 0 before the first epoch's end.
        best_score: its score.
        random_states: of torch's generators, one entry a rank.
        records: what was reported of every epoch so far.
    """

    request_key: str
    step: int
    epoch: int
    epoch_so_far: dict[str, Any] | None
    score: float | None
    best_step: int
    best_score: float | None
    random_states: list[RandomState]
    records: list[dict[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name (`model.…`, `optimizer.…`, `ema.…`) and the state that belongs to them."""

    tensors: dict[str, Tensor]
    state: TrainingState

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of `name`, without it."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): value for k, value in self.tensors.items() if k.startswith(prefix)}


@dataclass(frozen=True)
class SealedCheckpoint:
    """A checkpoint as the bytes of its files: what trains on meanwhile no longer changes it."""

    step: int
    best_step: int
    tensors: bytes
    state: bytes
    epochs: bytes


def seal(checkpoint: Checkpoint) -> SealedCheckpoint:
    """The checkpoint's files; its tensors may be on any device."""
    tensors = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    )
    state = checkpoint.state
    values = {"schema": SCHEMA, "tensors_sha256": hashlib.sha256(tensors).hexdigest(), **asdict(state)}
    return SealedCheckpoint(
        step=state.step,
        best_step=state.best_step,
        tensors=tensors,
        state=json.dumps(values, sort_keys=True).encode(),
        epochs=encode_records(state.records),
    )


def save_checkpoint(place: Place, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write the checkpoint and its records; then delete all but the latest `keep` and the best.

    Args:
        place: of the training.
        checkpoint: tensors on any device.
        keep: how many of the latest to keep.
    """
    save_sealed(place, seal(checkpoint), keep=keep)


def save_sealed(place: Place, sealed: SealedCheckpoint, *, keep: int) -> None:
    """As `save_checkpoint`."""
    folder = _folder(sealed.step)
    place.write_bytes(f"{folder}/{TENSORS_NAME}", sealed.tensors)
    place.write_bytes(f"{folder}/{STATE_NAME}", sealed.state)
    place.write_bytes(EPOCHS_NAME, sealed.epochs)
    kept = {*_steps(place)[:keep], sealed.step, sealed.best_step}
    for name in _names(place):
        if _step_of(name) not in kept:
            place.remove(name)


def load_latest(place: Place, request_key: str) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none. Says which ones it skips, and why."""
    for step in _steps(place):
        try:
            return load_checkpoint(place, step, request_key)
        except IntegrityError as error:
            say(f"warning: checkpoint of step {step} skipped: {error}")
    return None


def load_checkpoint(place: Place, step: int, request_key: str) -> Checkpoint:
    """The checkpoint of a step, tensors on the CPU.

    Raises:
        IntegrityError: it is missing, half-written, altered or of another training.
    """
    folder = _folder(step)
    values = place.read_json(f"{folder}/{STATE_NAME}")
    data = place.read_bytes(f"{folder}/{TENSORS_NAME}")
    try:
        if values.pop("schema") != SCHEMA:
            raise IntegrityError(f"{folder} is of another schema than {SCHEMA}")
        if values.pop("tensors_sha256") != hashlib.sha256(data).hexdigest():
            raise IntegrityError(f"{folder}/{TENSORS_NAME} is not what {STATE_NAME} was written for")
        state = TrainingState(**values)
        tensors = safetensors.torch.load(data)
    except (AttributeError, KeyError, TypeError, SafetensorError) as error:
        raise IntegrityError(f"{folder} cannot be read: {error!r}") from None
    if state.request_key != request_key or state.step != step:
        raise IntegrityError(f"{folder} belongs to another training")
    return Checkpoint(tensors, state)


def _folder(step: int) -> str:
    return f"{FOLDER}/step-{step:08d}"


def _names(place: Place) -> list[str]:
    return [name for name in place.names() if name.startswith(f"{FOLDER}/")]


def _step_of(name: str) -> int:
    return int(name.split("/")[1].removeprefix("step-"))


def _steps(place: Place) -> list[int]:
    """Steps of which there is anything, newest first."""
    return sorted({_step_of(name) for name in _names(place)}, reverse=True)
