"""The sweep's experiment file: a Katib Experiment (v1beta1, Katib 0.19), read strictly. Both sweepers run it.

What is understood goes out again exactly as it came in; what is not is refused by name: an unknown field,
distribution, algorithm or setting is an error. Katib's own schema and checks, which this follows:
pkg/apis/controller and pkg/webhook/v1beta1/experiment/validator of kubeflow/katib.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, ConfigDict, Field, StrictStr, field_validator, model_validator
from pydantic.alias_generators import to_camel

from fakesound.core.config import Config
from fakesound.core.errors import UserError

EXPERIMENT_FILE = "sweep-experiment.yaml"  # the manifest itself: a link to manifests/40-sweep-experiment.yaml
EXPERIMENT_KEY = "experiment.yaml"
_SET = "--set="
_PLACEHOLDER = re.compile(r"\$\{trialParameters\.([A-Za-z0-9_-]+)\}")
_CONDITION = 'status.conditions.#(type=="{}")#|#(status=="True")#'

ParameterValue = float | int | str
AlgorithmName = Literal[
    "random", "tpe", "multivariate-tpe", "grid", "sobol", "cmaes", "bayesianoptimization", "hyperband", "pbt"
]

# What each algorithm's service in Katib takes; it refuses other names, but only once the experiment runs.
ALGORITHM_SETTINGS: Mapping[str, frozenset[str]] = {
    "random": frozenset({"random_state"}),
    "tpe": frozenset({"gamma", "prior_weight", "n_EI_candidates", "random_state"}),
    "multivariate-tpe": frozenset({"n_startup_trials", "n_ei_candidates", "random_state"}),
    "grid": frozenset({"random_state"}),
    "sobol": frozenset(),
    "cmaes": frozenset({"restart_strategy", "sigma", "random_state"}),
    "bayesianoptimization": frozenset(
        {"base_estimator", "n_initial_points", "acq_func", "acq_optimizer", "random_state"}
    ),
    "hyperband": frozenset({"r_l", "resource_name", "eta"}),
    "pbt": frozenset(
        {"suggestion_trial_dir", "n_population", "truncation_threshold", "resample_probability"}
    ),
}
_STOPPING_SETTINGS = frozenset({"min_trials_required", "start_step"})


def _number(text: str) -> str:
    if not math.isfinite(float(text)):
        raise ValueError("must be finite")
    return text


NumberText = Annotated[StrictStr, AfterValidator(_number)]
"""A number as Katib writes it: text, kept as it is so that 1e-4 stays 1e-4."""


class _KatibObject(Config):
    """A part of the Experiment: camelCase outside, snake_case here, no unknown fields."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class FeasibleSpace(_KatibObject):
    """Values that a parameter may take."""

    min: NumberText | None = None
    max: NumberText | None = None
    step: NumberText | None = None
    distribution: Literal["uniform", "logUniform", "normal", "logNormal"] = "uniform"
    list: tuple[StrictStr, ...] = ()


class Parameter(_KatibObject):
    """One dimension of the search space."""

    name: str = Field(min_length=1)
    parameter_type: Literal["double", "int", "categorical", "discrete"]
    feasible_space: FeasibleSpace

    @model_validator(mode="after")
    def _has_a_space(self) -> Self:
        if self.is_range:
            self._check_range()
        else:
            self._check_list()
        return self

    @property
    def is_range(self) -> bool:
        """Whether values lie between a minimum and a maximum; else they are listed."""
        return self.parameter_type in ("double", "int")

    @property
    def is_log(self) -> bool:
        """Whether values are spread evenly over their logarithms."""
        return self.feasible_space.distribution in ("logUniform", "logNormal")

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest value of a range."""
        space = self.feasible_space
        assert space.min is not None and space.max is not None
        return float(space.min), float(space.max)

    @property
    def step(self) -> float | None:
        """Distance of neighbouring values of a range; None where there is none."""
        return None if self.feasible_space.step is None else float(self.feasible_space.step)

    @property
    def choices(self) -> tuple[ParameterValue, ...]:
        """Values of a categorical (as written) or discrete (as numbers) parameter."""
        listed = self.feasible_space.list
        return tuple(map(float, listed)) if self.parameter_type == "discrete" else listed

    def holds(self, value: ParameterValue) -> bool:
        """Whether `value` is in the space."""
        if not self.is_range:
            return value in self.choices
        low, high = self.bounds
        return not isinstance(value, str) and low <= value <= high

    def parse_value(self, text: str) -> ParameterValue:
        """A value as Katib writes it down.

        Raises:
            ValueError: it is no value of this type.
        """
        if self.parameter_type == "categorical":
            return text
        return int(float(text)) if self.parameter_type == "int" else float(text)

    def _check_range(self) -> None:
        space = self.feasible_space
        if space.list or space.min is None or space.max is None or not float(space.min) < float(space.max):
            raise ValueError(f"{self.name}: needs min < max and no list")
        if self.is_log and float(space.min) <= 0:
            raise ValueError(f"{self.name}: {space.distribution} needs min > 0")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"{self.name}: step must be above 0")
        whole = [space.min, space.max, *([space.step] if space.step else [])]
        if self.parameter_type == "int" and any(float(text) % 1 for text in whole):
            raise ValueError(f"{self.name}: min, max and step of an int are whole numbers")

    def _check_list(self) -> None:
        space = self.feasible_space
        if not space.list or {space.min, space.max, space.step} != {None}:
            raise ValueError(
                f"{self.name}: a {self.parameter_type} parameter has a list, and no min, max or step"
            )
        if space.distribution != "uniform":
            raise ValueError(f"{self.name}: a {self.parameter_type} parameter's distribution is uniform")
        if len(set(self.choices)) < len(space.list):
            raise ValueError(f"{self.name}: the list names a value twice")


class Setting(_KatibObject):
    """A named setting of an algorithm."""

    name: str
    value: StrictStr


class Algorithm(_KatibObject):
    """How points are chosen."""

    algorithm_name: AlgorithmName
    algorithm_settings: tuple[Setting, ...] = ()

    @model_validator(mode="after")
    def _knows_its_settings(self) -> Self:
        _refuse_unknown(self.algorithm_settings, ALGORITHM_SETTINGS[self.algorithm_name], self.algorithm_name)
        return self

    @property
    def settings(self) -> dict[str, str]:
        """Name -> value."""
        return {setting.name: setting.value for setting in self.algorithm_settings}


class EarlyStopping(_KatibObject):
    """When a trial is given up: see `median_stop`."""

    algorithm_name: Literal["medianstop"]
    algorithm_settings: tuple[Setting, ...] = ()

    @model_validator(mode="after")
    def _knows_its_settings(self) -> Self:
        _refuse_unknown(self.algorithm_settings, _STOPPING_SETTINGS, self.algorithm_name)
        for setting in self.algorithm_settings:
            if not setting.value.isdecimal() or int(setting.value) < 1:
                raise ValueError(f"{setting.name} must be a whole number above 0, not {setting.value!r}")
        return self

    def setting(self, name: str, default: int) -> int:
        """A whole-number setting."""
        return next((int(s.value) for s in self.algorithm_settings if s.name == name), default)


class MetricStrategy(_KatibObject):
    """Which of a metric's values a trial is judged by."""

    name: str
    value: Literal["min", "max", "latest"]


class Objective(_KatibObject):
    """What is optimised."""

    type: Literal["maximize", "minimize"]
    objective_metric_name: str = Field(min_length=1)
    goal: float | None = None
    additional_metric_names: tuple[str, ...] = ()
    metric_strategies: tuple[MetricStrategy, ...] = ()

    @property
    def strategy(self) -> Literal["min", "max", "latest"]:
        """Which of the objective's values counts; as in Katib, the best one unless said."""
        for strategy in self.metric_strategies:
            if strategy.name == self.objective_metric_name:
                return strategy.value
        return "max" if self.type == "maximize" else "min"

    def value_of(self, scores: Sequence[float]) -> float:
        """A trial's value, of its scores in order."""
        return {"min": min, "max": max, "latest": lambda values: values[-1]}[self.strategy](scores)

    def is_better(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`."""
        return value > other if self.type == "maximize" else value < other

    def reaches_goal(self, value: float) -> bool:
        """Whether no better value is asked for."""
        return self.goal is not None and not self.is_better(self.goal, value)


class Filter(_KatibObject):
    """Regular expressions that find names and values in what a trial prints."""

    metrics_format: tuple[str, ...] = ()


class MetricsSource(_KatibObject):
    """Where a trial's metrics are; of a trial that prints them, only how they look."""

    filter: Filter | None = None


class Collector(_KatibObject):
    """Who collects metrics. `fakesound train` prints them, so it is the collector of printed lines."""

    kind: Literal["StdOut"]


class MetricsCollector(_KatibObject):
    """How Katib comes to know a trial's metrics."""

    collector: Collector
    source: MetricsSource | None = None


class TrialParameter(_KatibObject):
    """A name that the trial's specification uses for a search parameter."""

    name: str
    reference: str
    description: str = ""


class TrialTemplate(_KatibObject):
    """The workload of one trial."""

    primary_container_name: str
    trial_parameters: tuple[TrialParameter, ...]
    trial_spec: Annotated[dict[str, Any], Field(description="a Job of batch/v1")]
    retain: bool = False
    primary_pod_labels: dict[str, str] = Field(default_factory=dict)
    success_condition: str = _CONDITION.format("Complete")
    failure_condition: str = _CONDITION.format("Failed")

    @field_validator("trial_spec")
    @classmethod
    def _is_a_job(cls, spec: dict[str, Any]) -> dict[str, Any]:
        kind = (spec.get("apiVersion"), spec.get("kind"))
        if kind != ("batch/v1", "Job"):
            raise ValueError(f"trials of {kind[0]} {kind[1]} are not supported; supported: batch/v1 Job")
        if spec.get("metadata", {}).keys() & {"name", "namespace"}:
            raise ValueError("Katib names a trial's Job itself: no metadata.name or metadata.namespace")
        return spec

    @model_validator(mode="after")
    def _has_its_container(self) -> Self:
        try:
            arguments = self.primary_container["args"]
        except (KeyError, TypeError, StopIteration):
            raise ValueError(f"trialSpec has no container {self.primary_container_name} with args") from None
        used = {match for argument in arguments for match in _PLACEHOLDER.findall(argument)}
        names = {parameter.name for parameter in self.trial_parameters}
        if used != names:
            raise ValueError(f"args use trialParameters {sorted(used)}, there are {sorted(names)}")
        return self

    @property
    def primary_container(self) -> dict[str, Any]:
        """The container that trains."""
        containers = self.trial_spec["spec"]["template"]["spec"]["containers"]
        return next(c for c in containers if c["name"] == self.primary_container_name)

    @property
    def searched_arguments(self) -> dict[str, str]:
        """Parameter of the search -> the `key.key=value` that it is put into."""
        found = {}
        for argument in self.primary_container["args"]:
            placeholder = _PLACEHOLDER.search(argument)
            if argument.startswith(_SET) and placeholder:
                found[placeholder[1]] = argument.removeprefix(_SET)
        return {p.reference: found[p.name] for p in self.trial_parameters if p.name in found}


class ExperimentSpec(_KatibObject):
    """The body of the Experiment."""

    objective: Objective
    algorithm: Algorithm
    early_stopping: EarlyStopping | None = None
    max_trial_count: int = Field(gt=0)
    parallel_trial_count: int = Field(default=3, gt=0)
    max_failed_trial_count: int = Field(ge=0)
    resume_policy: Literal["Never", "LongRunning", "FromVolume"] = "Never"
    metrics_collector_spec: MetricsCollector
    parameters: tuple[Parameter, ...] = Field(min_length=1)
    trial_template: TrialTemplate

    @model_validator(mode="before")
    @classmethod
    def _searches_no_architectures(cls, values: Any) -> Any:
        if isinstance(values, dict) and "nasConfig" in values:
            raise ValueError("nasConfig: architecture search is not supported; supported: parameters")
        return values

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [parameter.name for parameter in self.parameters]
        references = [parameter.reference for parameter in self.trial_template.trial_parameters]
        if sorted(names) != sorted(references) or any(a == b for a, b in pairwise(sorted(names))):
            raise ValueError(f"trialParameters refer to {sorted(references)}, parameters are {sorted(names)}")
        return self

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if max(self.parallel_trial_count, self.max_failed_trial_count) > self.max_trial_count:
            raise ValueError("parallelTrialCount and maxFailedTrialCount must not exceed maxTrialCount")
        return self

    @property
    def fatal_failures(self) -> int:
        """How many failed trials end the search: Katib ends it once it *has* maxFailedTrialCount of them."""
        return max(1, self.max_failed_trial_count)


class Metadata(_KatibObject):
    """What the Experiment is called."""

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")  # Katib appends to it, up to 63
    namespace: str
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Experiment(_KatibObject):
    """A Katib Experiment, v1beta1."""

    api_version: Literal["kubeflow.org/v1beta1"]
    kind: Literal["Experiment"]
    metadata: Metadata
    spec: ExperimentSpec

    def manifest(self) -> dict[str, Any]:
        """As Kubernetes takes it: what was given and nothing else."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def overrides(self, values: Mapping[str, ParameterValue]) -> list[str]:
        """The trial's `--set` arguments that name a parameter, with `values` put in."""
        return [
            _PLACEHOLDER.sub(_plain(values[name]), argument)
            for name, argument in self.spec.trial_template.searched_arguments.items()
        ]

    def point_of(self, config: Mapping[str, Any]) -> dict[str, ParameterValue] | None:
        """The point of the search space at which a run configuration (as nested mappings) already stands.

        None where one of its values is outside the space.

        Raises:
            UserError: a parameter is for a value that this configuration does not have.
        """
        found: dict[str, ParameterValue] = {}
        for name, argument in self.spec.trial_template.searched_arguments.items():
            path = argument.partition("=")[0]
            value: Any = config
            for key in path.split("."):
                if not isinstance(value, Mapping) or key not in value:
                    raise UserError(
                        f"the sweep searches {name}, which is for {path}, and this configuration has no such "
                        "value: choose another model, or sweep.max_trials=0"
                    )
                value = value[key]
            found[name] = value
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
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"no ConfigMap with an Experiment under data/{EXPERIMENT_KEY}: {error}") from None


def _refuse_unknown(settings: Sequence[Setting], known: frozenset[str], algorithm: str) -> None:
    for setting in settings:
        if setting.name not in known:
            raise ValueError(
                f"{algorithm} has no setting {setting.name}; known: {', '.join(sorted(known)) or 'none'}"
            )


def _plain(value: ParameterValue) -> str:
    """A number that YAML and Katib read back as the same number (`5e-04` would be a string in YAML 1.1)."""
    if isinstance(value, float):
        text = repr(value)
        return f"{value:.17f}".rstrip("0") if "e-" in text and math.isfinite(value) else text
    return str(value)
