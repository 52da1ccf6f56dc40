"""Checkpoints that are whole or not there: safetensors and a JSON state file, no pickle.

    checkpoints/step-00000120/tensors.safetensors   model and optimiser
    checkpoints/step-00000120/state.json            the rest, and the SHA-256 of the tensors; written last

Each file appears complete or not at all (`Place.writing`), on any kind of store. A checkpoint counts from
the moment its state file is there and fits its tensors; whatever else a crash left is skipped.
"""

import base64
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fakesound.core.errors import IntegrityError
from fakesound.core.progress import say
from fakesound.core.store import Place

FOLDER = "checkpoints"
TENSORS_NAME = "tensors.safetensors"
STATE_NAME = "state.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where a training stands, tensors apart.

    Attributes:
        request_key: digest of all that determines the result.
        step: optimiser steps done.
        epoch: the epoch to go on with, 0-based.
        step_in_epoch: steps of it already done: the sampler's position.
        score: validation score of these weights.
        best_step: step of the best checkpoint so far, this one included.
        best_score: its score.
        random_states: base64 of torch's generators, one entry a rank: {"cpu": …, "cuda": … or None}.
        records: what was reported of every epoch so far.
    """

    request_key: str
    step: int
    epoch: int
    step_in_epoch: int
    score: float
    best_step: int
    best_score: float
    random_states: list[dict[str, str | None]]
    records: list[dict[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name (`model.…`, `optimizer.…`) and the state that belongs to them."""

    tensors: dict[str, Tensor]
    state: TrainingState


def save_checkpoint(place: Place, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write the checkpoint; then delete all but the latest `keep` and the best.

    Args:
        place: of the training.
        checkpoint: tensors on any device.
        keep: how many of the latest to keep.
    """
    state = checkpoint.state
    folder = _folder(state.step)
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    )
    place.write_bytes(f"{folder}/{TENSORS_NAME}", data)
    sealed = {"schema": SCHEMA, "tensors_sha256": hashlib.sha256(data).hexdigest(), **asdict(state)}
    place.write_json(f"{folder}/{STATE_NAME}", sealed)
    kept = {*_steps(place)[:keep], state.step, state.best_step}
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


def encode_random_state(state: Tensor) -> str:
    """A torch generator's state (bytes) as text."""
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def decode_random_state(text: str) -> Tensor:
    """Inverse of `encode_random_state`."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def encode_records(records: list[dict[str, Any]]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(record, sort_keys=True) + "\n" for record in records).encode()


def _folder(step: int) -> str:
    return f"{FOLDER}/step-{step:08d}"


def _names(place: Place) -> list[str]:
    return [name for name in place.names() if name.startswith(f"{FOLDER}/")]


def _step_of(name: str) -> int:
    return int(name.split("/")[1].removeprefix("step-"))


def _steps(place: Place) -> list[int]:
    """Steps of which there is anything, newest first."""
    return sorted({_step_of(name) for name in _names(place)}, reverse=True)
