"""Typed configuration: frozen, unknown keys refused, each with a digest that keys what is built from it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from fakesound.core.errors import UserError

DIGEST_LENGTH = 16


def digest_of(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of `value` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


class Config(BaseModel):
    """Base of every configuration class: immutable, keyword-only, closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def digest(self) -> str:
        """Digest of all values, defaults included: two configs that mean the same have the same digest."""
        return digest_of(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate `values`.

        Raises:
            UserError: a key is unknown or a value is out of range; the message names each of them.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UserError(f"{cls.__name__}: {describe_validation_error(error)}") from None


def describe_validation_error(error: ValidationError) -> str:
    """One line a problem: dotted key, what is wrong, what was given."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "(whole)"
        lines.append(f"{key}: {problem['msg']} (got {problem.get('input')!r:.80})")
    return "; ".join(lines)
