"""A detector as a folder: the weights (safetensors, never pickle) and what is needed to run and judge them.

    model.safetensors   every parameter and buffer
    detector.json       schema, model config, mel bands, front end, facts, SHA-256 of the weights

Shapes: none of its own.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.store import Place
from fakesound.models.build import build_detector
from fakesound.models.config import ModelConfig, parse_model_config
from fakesound.models.detector import Detector

WEIGHTS_NAME = "model.safetensors"
DESCRIPTION_NAME = "detector.json"
SCHEMA = 2


@dataclass(frozen=True)
class Bundle:
    """A loaded detector (in eval mode, on the CPU) and what was saved with it."""

    detector: Detector
    config: ModelConfig
    num_mels: int
    front_end: dict[str, Any]
    facts: dict[str, Any]


def save_bundle(
    folder: Path,
    *,
    detector: Detector,
    config: ModelConfig,
    num_mels: int,
    front_end: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write the bundle; each file whole or not at all, the description last.

    Args:
        folder: made if missing.
        detector: its weights are written from wherever they are.
        config: what `build_detector` made it from.
        num_mels: M, mel bands of one frame.
        front_end: configuration of the features it was trained on (JSON values).
        facts: whatever a reader should know: thresholds, digests, training run (JSON values).
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    place = Place(str(folder.absolute()))
    place.write_bytes(WEIGHTS_NAME, weights)
    description = {
        "schema": SCHEMA,
        "model": config.model_dump(mode="json"),
        "num_mels": num_mels,
        "front_end": dict(front_end),
        "facts": dict(facts),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    place.write_json(DESCRIPTION_NAME, description)


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle back.

    Raises:
        IntegrityError: the weights are not those that the description was written for, or fit no such model.
        UserError: the folder holds no bundle, or one of another schema.
    """
    description = _read_description(folder)
    config = parse_model_config(description["model"])
    weights = _read(folder / WEIGHTS_NAME)
    if hashlib.sha256(weights).hexdigest() != description["weights_sha256"]:
        raise IntegrityError(
            f"{folder / WEIGHTS_NAME} is not what {DESCRIPTION_NAME} was written for: get it again"
        )
    detector = build_detector(config, description["num_mels"])
    try:
        detector.load_state_dict(safetensors.torch.load(weights), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"{folder / WEIGHTS_NAME} does not fit the model it names: {error}") from None
    return Bundle(
        detector=detector.eval(),
        config=config,
        num_mels=description["num_mels"],
        front_end=description["front_end"],
        facts=description["facts"],
    )


_EXPECTED_TYPES: dict[str, type] = {
    "model": dict,
    "num_mels": int,
    "front_end": dict,
    "facts": dict,
    "weights_sha256": str,
}


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION_NAME
    try:
        description = json.loads(_read(path))
    except ValueError:
        raise UserError(f"{path} is not JSON") from None
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        raise UserError(f"{path} is not a detector of schema {SCHEMA}")
    for key, expected in _EXPECTED_TYPES.items():
        if not isinstance(description.get(key), expected):
            raise UserError(f"{path}: {key} is missing or not of type {expected.__name__}")
    if description["num_mels"] < 1:
        raise UserError(f"{path}: num_mels must be at least 1")
    return description


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"no detector in {path.parent}: {path.name}: {error.strerror}") from None
