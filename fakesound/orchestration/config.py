"""The whole configuration of a run: one typed object that travels as one canonical JSON string."""

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, field_validator, model_validator

from fakesound.core.config import Config
from fakesound.core.errors import UserError
from fakesound.corpora.config import CorpusConfig
from fakesound.evaluation.config import EvaluationConfig
from fakesound.features.config import FeatureConfig
from fakesound.models.config import BudgetConfig, FCNResNetConfig, ModelConfig, VisionMambaConfig
from fakesound.orchestration.launch_config import LaunchConfig
from fakesound.training.config import TrainingConfig

PRESETS = ("builtin", "folder", "laboratory")
MAX_JSON_BYTES = 100_000  # what an orchestrator takes as a parameter


class SweepConfig(Config):
    """How much of the experiment file's budget to spend.

    Attributes:
        max_trials: never more than the experiment file allows; 0 skips the sweep.
        parallel_trials: trials at a time, never more than the experiment file allows.
        max_trial_hours: of all trials together (times the GPUs of a trial: GPU-hours). No further trial
            starts after that, and on a cluster those under way end. None is no limit.
        epochs: passes over the training clips per trial.
        seed: of the search.
    """

    max_trials: int = Field(default=20, ge=0)
    parallel_trials: int = Field(default=1, gt=0)
    max_trial_hours: float | None = Field(default=None, gt=0)
    epochs: int = Field(default=3, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**31)


class RunConfig(Config):
    """Every parameter that influences a result. `baseline` is judged beside `detector` on the same split.

    With a `budget` both are made as wide as it says before they are trained.

    `unseen` names families or mechanisms that are not trained on and make the zeroshot view, whatever the
    corpus's own protocol says (`corpora.protocol.held_out`); the corpus is not built again for it.
    """

    corpus: CorpusConfig = CorpusConfig()
    unseen: tuple[str, ...] = ()
    features: FeatureConfig = FeatureConfig()
    detector: ModelConfig = VisionMambaConfig()
    baseline: ModelConfig = FCNResNetConfig()
    budget: BudgetConfig | None = None
    training: TrainingConfig = TrainingConfig()
    baseline_training: TrainingConfig = TrainingConfig()
    sweep: SweepConfig = SweepConfig()
    launch: LaunchConfig = LaunchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("unseen")
    @classmethod
    def _in_one_order(cls, unseen: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(unseen)))

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, values: Any) -> Any:
        """A partial `detector` or `baseline` is of the default's kind."""
        if not isinstance(values, dict):
            return values
        kinds = {"detector": "vim", "baseline": "fcn_resnet"}
        partial = {name: values[name] for name in kinds if isinstance(values.get(name), dict)}
        return values | {name: {"kind": kinds[name]} | model for name, model in partial.items()}

    @classmethod
    def load(cls, source: str, overrides: Iterable[str] = ()) -> Self:
        """Read a preset by name, a YAML file by path, or canonical JSON, and apply `key.key=value` overrides.

        Raises:
            UserError: no such preset or file, or a key or value is refused.
        """
        return cls.parse(with_overrides(_read(source), overrides))

    def with_overrides(self, overrides: Iterable[str]) -> Self:
        """This configuration with `key.key=value` changes, validated anew."""
        return self.parse(with_overrides(self.model_dump(mode="json"), overrides))

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces.

        Raises:
            UserError: longer than an orchestrator's parameter may be.
        """
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        if len(text.encode()) > MAX_JSON_BYTES:
            raise UserError(f"the run configuration exceeds {MAX_JSON_BYTES} bytes")
        return text


def with_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with each `key.key=value` put in its place; values are YAML (`0.5`, `[1, 2]`, `null`).

    Raises:
        UserError: an override has no `=`, is not YAML, or goes below something that is no mapping.
    """
    changed = json.loads(json.dumps(values))
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not path:
            raise UserError(f"override {override!r} is not of the form key.key=value")
        _put(changed, path.strip().split("."), _parse_value(text, override), override)
    return changed


def _put(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    *parents, last = keys
    for key in parents:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise UserError(f"override {override!r}: {key} is a value, not a group of values")
    values[last] = value


def _parse_value(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: the value is not YAML") from None


def _read(source: str) -> dict[str, Any]:
    if source.lstrip().startswith("{"):
        text, name = source, "the run configuration"
    elif source in PRESETS:
        text, name = (resources.files("fakesound") / "presets" / f"{source}.yaml").read_text(), source
    else:
        text, name = _read_file(source), source
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{name} is not a mapping of keys to values")
    return values


def _read_file(source: str) -> str:
    try:
        return Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(PRESETS)
        raise UserError(f"no configuration {source!r} (presets: {known}; or a YAML file): {error}") from None
