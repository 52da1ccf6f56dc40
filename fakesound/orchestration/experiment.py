"""The sweep's experiment file: a Katib Experiment, read strictly. Both sweepers run this one file.

What is not understood is refused by name: an unknown field, distribution, algorithm or setting is an error.
"""

import math
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from fakesound.core.config import Config
from fakesound.core.errors import UserError

EXPERIMENT_FILE = "sweep-experiment.yaml"  # the manifest itself: a link to manifests/40-sweep-experiment.yaml
EXPERIMENT_KEY = "experiment.yaml"
_SET = "--set="
_PLACEHOLDER = re.compile(r"\$\{trialParameters\.([A-Za-z0-9_-]+)\}")

ParameterValue = float | int | str


class _KatibObject(Config):
    """A part of the Experiment: camelCase outside, snake_case here, no unknown fields."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class FeasibleSpace(_KatibObject):
    """Values that a parameter may take; Katib writes numbers as strings."""

    min: float | None = None
    max: float | None = None
    step: float | None = Field(default=None, gt=0)
    distribution: Literal["uniform", "logUniform"] = "uniform"
    list: tuple[str, ...] = ()


class Parameter(_KatibObject):
    """One dimension of the search space."""

    name: str
    parameter_type: Literal["double", "int", "categorical", "discrete"]
    feasible_space: FeasibleSpace

    @model_validator(mode="after")
    def _has_a_space(self) -> Self:
        space = self.feasible_space
        if self.parameter_type in ("categorical", "discrete"):
            if not space.list or space.min is not None or space.max is not None:
                raise ValueError(
                    f"{self.name}: a {self.parameter_type} parameter has a list, and no min or max"
                )
        elif space.list or space.min is None or space.max is None or not space.min < space.max:
            raise ValueError(f"{self.name}: needs min < max and no list")
        elif space.distribution == "logUniform" and (space.min <= 0 or space.step is not None):
            raise ValueError(f"{self.name}: logUniform needs min > 0 and no step")
        return self

    @property
    def choices(self) -> tuple[ParameterValue, ...]:
        """Values of a categorical (as written) or discrete (as numbers) parameter."""
        listed = self.feasible_space.list
        return tuple(map(float, listed)) if self.parameter_type == "discrete" else listed

    def holds(self, value: ParameterValue) -> bool:
        """Whether `value` is in the space."""
        space = self.feasible_space
        if self.parameter_type in ("categorical", "discrete"):
            return value in self.choices
        assert space.min is not None and space.max is not None
        return not isinstance(value, str) and space.min <= value <= space.max


class Setting(_KatibObject):
    """A named setting of an algorithm."""

    name: str
    value: str


class Algorithm(_KatibObject):
    """How points are chosen."""

    algorithm_name: Literal["random", "tpe"]
    algorithm_settings: tuple[Setting, ...] = ()


class EarlyStopping(_KatibObject):
    """When a trial is given up: below the median of the others at the same step."""

    algorithm_name: Literal["medianstop"]
    algorithm_settings: tuple[Setting, ...] = ()

    def setting(self, name: str, default: int) -> int:
        """A whole-number setting."""
        return next((int(s.value) for s in self.algorithm_settings if s.name == name), default)


class Objective(_KatibObject):
    """What is optimised."""

    type: Literal["maximize", "minimize"]
    objective_metric_name: str
    goal: float | None = None


class TrialParameter(_KatibObject):
    """A name that the trial's specification uses for a search parameter."""

    name: str
    reference: str
    description: str = ""


class TrialTemplate(_KatibObject):
    """The workload of one trial."""

    primary_container_name: str
    trial_parameters: tuple[TrialParameter, ...]
    trial_spec: Annotated[dict[str, Any], Field(description="a Kubernetes object, passed on as it is")]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of the primary container."""
        containers = self.trial_spec["spec"]["template"]["spec"]["containers"]
        chosen = next(c for c in containers if c["name"] == self.primary_container_name)
        return tuple(chosen["args"])


class ExperimentSpec(_KatibObject):
    """The body of the Experiment."""

    objective: Objective
    algorithm: Algorithm
    early_stopping: EarlyStopping | None = None
    max_trial_count: int = Field(gt=0)
    parallel_trial_count: int = Field(gt=0)
    max_failed_trial_count: int = Field(ge=0)
    metrics_collector_spec: dict[str, Any]
    parameters: tuple[Parameter, ...] = Field(min_length=1)
    trial_template: TrialTemplate

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = {parameter.name for parameter in self.parameters}
        references = {parameter.reference for parameter in self.trial_template.trial_parameters}
        if names != references:
            raise ValueError(f"trialParameters refer to {sorted(references)}, parameters are {sorted(names)}")
        return self


class Experiment(_KatibObject):
    """A Katib Experiment, v1beta1."""

    api_version: Literal["kubeflow.org/v1beta1"]
    kind: Literal["Experiment"]
    metadata: dict[str, Any]
    spec: ExperimentSpec

    def overrides(self, values: Mapping[str, ParameterValue]) -> list[str]:
        """The trial's `--set` arguments that name a parameter, with `values` put in."""
        by_name = {
            parameter.name: values[parameter.reference]
            for parameter in self.spec.trial_template.trial_parameters
        }
        return [
            _PLACEHOLDER.sub(lambda match: _plain(by_name[match[1]]), argument.removeprefix(_SET))
            for argument in self.spec.trial_template.arguments
            if argument.startswith(_SET) and _PLACEHOLDER.search(argument)
        ]

    def point_of(self, config: Mapping[str, Any]) -> dict[str, ParameterValue] | None:
        """The point of the search space at which a run configuration (as nested mappings) already stands.

        None where one of its values is outside the space.
        """
        names = {
            parameter.name: parameter.reference for parameter in self.spec.trial_template.trial_parameters
        }
        found: dict[str, ParameterValue] = {}
        for argument in self.spec.trial_template.arguments:
            placeholder = _PLACEHOLDER.search(argument)
            if argument.startswith(_SET) and placeholder:
                keys = argument.removeprefix(_SET).partition("=")[0].split(".")
                value: Any = config
                for key in keys:
                    value = value[key]
                found[names[placeholder[1]]] = value
        inside = all(parameter.holds(found[parameter.name]) for parameter in self.spec.parameters)
        return found if inside else None


@cache
def load_experiment() -> Experiment:
    """The experiment that ships with fakesound."""
    return parse_experiment((resources.files("fakesound.orchestration") / EXPERIMENT_FILE).read_text())


def parse_experiment(manifest: str) -> Experiment:
    """Read the Experiment out of its ConfigMap.

    Raises:
        UserError: not such a ConfigMap, or something in the Experiment is not understood.
    """
    try:
        return Experiment.parse(yaml.safe_load(yaml.safe_load(manifest)["data"][EXPERIMENT_KEY]))
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"no ConfigMap with an Experiment under data/{EXPERIMENT_KEY}: {error}") from None


def _plain(value: ParameterValue) -> str:
    """A number that YAML and Katib read back as the same number (`5e-04` would be a string in YAML 1.1)."""
    if isinstance(value, float):
        text = repr(value)
        return f"{value:.17f}".rstrip("0") if "e-" in text and math.isfinite(value) else text
    return str(value)
