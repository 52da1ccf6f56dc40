import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import fakesound.orchestration
from fakesound.core.errors import UserError
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.experiment import (
    ALGORITHM_SETTINGS,
    EXPERIMENT_FILE,
    Experiment,
    Parameter,
    load_experiment,
    parse_experiment,
)
from fakesound.orchestration.optuna_sweeper import distribution

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "manifests" / "40-sweep-experiment.yaml"


def manifest_with(change):
    manifest = yaml.safe_load(MANIFEST.read_text())
    experiment = yaml.safe_load(manifest["data"]["experiment.yaml"])
    change(experiment["spec"])
    manifest["data"]["experiment.yaml"] = yaml.safe_dump(experiment)
    return yaml.safe_dump(manifest)


def test_the_packaged_file_is_the_manifest():
    packaged = Path(fakesound.orchestration.__file__).parent / EXPERIMENT_FILE
    assert packaged.read_bytes() == MANIFEST.read_bytes()
    if (ROOT / ".git").exists():  # in a checkout there is one file and a link to it
        assert packaged.is_symlink()
        assert packaged.resolve() == MANIFEST.resolve()


def test_applied_alone_it_is_only_a_config_map():
    (document,) = yaml.safe_load_all(MANIFEST.read_text())
    assert document["kind"] == "ConfigMap"


def test_the_space_is_the_studys():
    spec = load_experiment().spec
    ranges = {p.name: p.bounds for p in spec.parameters}
    assert ranges["posWeight"] == (1, 8)
    assert ranges["dropout"] == (0, 0.6)
    assert ranges["dropPath"] == (0, 0.1)
    assert ranges["weightDecay"] == (0, 0.1)
    ours = {"lr", "warmupShare", "cooldownShare", "lossAlpha", "timeMaskShare", "noise", "gainDb"}
    assert ours <= ranges.keys()
    assert (spec.max_trial_count, spec.parallel_trial_count) == (20, 5)


def test_every_corner_of_the_space_is_a_valid_configuration():
    experiment = load_experiment()
    for corner in (0, 1):
        values = {
            p.name: (int if p.parameter_type == "int" else float)(p.bounds[corner])
            for p in experiment.spec.parameters
        }
        overrides = experiment.overrides(values)
        assert len(overrides) == len(values)
        config = RunConfig.load("builtin", overrides)
        assert config.training.schedule.peak_lr == values["lr"]
        assert config.training.loss.pos_weight == values["posWeight"]
        assert config.detector.dropout == values["dropout"]
        assert config.detector.drop_path == values["dropPath"]
        assert config.training.schedule.warmup_share == values["warmupShare"]
        assert config.training.loss.alpha == values["lossAlpha"]
        assert config.training.augment.gain_db == values["gainDb"]
        assert experiment.point_of(config.model_dump(mode="json")) == values


def test_small_numbers_survive_the_way_through_yaml():
    experiment = load_experiment()
    values = {p.name: p.bounds[0] for p in experiment.spec.parameters} | {"weightDecay": 3.5e-7}
    values["frequencyMasks"] = 1
    assert RunConfig.load("builtin", experiment.overrides(values)).training.weight_decay == 3.5e-7


def test_the_objective_is_what_training_prints():
    assert load_experiment().spec.objective.objective_metric_name == "validation_score"


@pytest.mark.parametrize(
    ("kind", "space", "expected"),
    [
        ("double", {"min": "0.1", "max": "2"}, FloatDistribution(0.1, 2)),
        (
            "double",
            {"min": "1e-4", "max": "1", "distribution": "logUniform"},
            FloatDistribution(1e-4, 1, log=True),
        ),
        ("double", {"min": "0", "max": "1", "step": "0.25"}, FloatDistribution(0, 1, step=0.25)),
        ("int", {"min": "1", "max": "9", "step": "2"}, IntDistribution(1, 9, step=2)),
        ("int", {"min": "1", "max": "8", "distribution": "logUniform"}, IntDistribution(1, 8, log=True)),
        ("categorical", {"list": ["a", "b"]}, CategoricalDistribution(("a", "b"))),
        ("discrete", {"list": ["0.5", "2"]}, CategoricalDistribution((0.5, 2.0))),
    ],
)
def test_katib_parameters_become_optuna_distributions(kind, space, expected):
    parameter = Parameter.parse({"name": "p", "parameterType": kind, "feasibleSpace": space})
    assert distribution(parameter) == expected


NUMBERS = (
    st.floats(-1e6, 1e6).map(repr) | st.integers(-99, 99).map(str) | st.sampled_from(["1e-4", "0.10", "+2"])
)
POSITIVE = st.floats(1e-6, 1e6).map(repr) | st.sampled_from(["1e-4", "1E2", "5"])


@st.composite
def spaces(draw):
    """(parameterType, feasibleSpace) as Katib takes them."""
    kind = draw(st.sampled_from(["double", "int", "categorical", "discrete"]))
    if kind == "categorical":
        return kind, {
            "list": draw(st.lists(st.text("aé: 1'\"", min_size=1, max_size=5), min_size=1, unique=True))
        }
    if kind == "discrete":
        numbers = draw(st.lists(st.integers(-50, 50), min_size=1, unique=True))
        return kind, {"list": [str(number / 4) for number in numbers]}
    distribution_name = draw(st.sampled_from([None, "uniform", "logUniform", "normal", "logNormal"]))
    positive = str(distribution_name).startswith("log")
    if kind == "int":
        low = draw(st.integers(1 if positive else -99, 99))
        space = {"min": str(low), "max": str(low + draw(st.integers(1, 99)))}
        steps = st.integers(1, 9).map(str)
    else:
        ends = draw(st.lists(POSITIVE if positive else NUMBERS, min_size=2, max_size=2, unique_by=float))
        space = dict(zip(("min", "max"), sorted(ends, key=float), strict=True))
        steps = POSITIVE
    if draw(st.booleans()):
        space["step"] = draw(steps)
    if distribution_name:
        space["distribution"] = distribution_name
    return kind, space


@st.composite
def experiments(draw):
    """The shipped experiment as plain YAML, with whatever else Katib's schema allows."""
    values = copy.deepcopy(load_experiment().manifest())
    spec = values["spec"]
    for parameter in spec["parameters"]:
        parameter["parameterType"], parameter["feasibleSpace"] = draw(spaces())
    name = draw(st.sampled_from(sorted(ALGORITHM_SETTINGS)))
    settings = draw(
        st.sets(st.sampled_from(sorted(ALGORITHM_SETTINGS[name])) if name != "sobol" else st.nothing())
    )
    spec["algorithm"] = {"algorithmName": name}
    if settings:
        spec["algorithm"]["algorithmSettings"] = [{"name": s, "value": "1"} for s in sorted(settings)]
    optional = {
        "resumePolicy": st.sampled_from(["Never", "LongRunning", "FromVolume"]),
        "parallelTrialCount": st.integers(1, 20),
        "metricsCollectorSpec": st.just(
            {
                "source": {"filter": {"metricsFormat": [r"(\w+)=([\d.]+)"]}},
                "collector": {"kind": "StdOut"},
            }
        ),
        "earlyStopping": st.just({"algorithmName": "medianstop"}),
    }
    for key, strategy in optional.items():
        if draw(st.booleans()):
            spec[key] = draw(strategy)
    if draw(st.booleans()):
        spec["objective"] |= {
            "goal": draw(st.floats(-1, 1)),
            "additionalMetricNames": ["loss"],
            "metricStrategies": [{"name": "loss", "value": draw(st.sampled_from(["min", "max", "latest"]))}],
        }
    return values


@given(experiments())
def test_what_is_understood_goes_out_as_it_came_in(values):
    experiment = Experiment.parse(values)
    assert experiment.manifest() == values
    assert Experiment.parse(yaml.safe_load(yaml.safe_dump(experiment.manifest()))) == experiment


def test_the_shipped_file_goes_out_as_it_came_in():
    written = yaml.safe_load(yaml.safe_load(MANIFEST.read_text())["data"]["experiment.yaml"])
    assert load_experiment().manifest() == written


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda spec: spec["algorithm"].update(algorithmName="enas"), "algorithmName.*hyperband"),
        (
            lambda spec: spec["algorithm"].update(algorithmSettings=[{"name": "sigma", "value": "1"}]),
            "tpe has no setting sigma; known: gamma",
        ),
        (lambda spec: spec.update(resumePolicy="Always"), "resumePolicy.*FromVolume"),
        (lambda spec: spec.update(nasConfig={}), "architecture search is not supported"),
        (lambda spec: spec.update(suspend=True), "suspend: Extra inputs"),
        (lambda spec: spec["objective"].update(metricStrategies=[{"name": "l", "value": "mean"}]), "latest"),
        (lambda spec: spec["parameters"][0]["feasibleSpace"].update(distribution="cauchy"), "logNormal"),
        (lambda spec: spec["parameters"][0]["feasibleSpace"].update(min="0"), "logUniform needs min > 0"),
        (lambda spec: spec["parameters"][0]["feasibleSpace"].update(min="nan"), "must be finite"),
        (lambda spec: spec["parameters"][0]["feasibleSpace"].update(min=0.1), "feasibleSpace.min.*string"),
        (lambda spec: spec["parameters"][1]["feasibleSpace"].update(min="9"), "needs min < max"),
        (lambda spec: spec["parameters"][1]["feasibleSpace"].update(step="0"), "step must be above 0"),
        (lambda spec: spec["parameters"][1]["feasibleSpace"].update(list=["1"]), "no list"),
        (lambda spec: spec["parameters"][0].update(parameterType="unknown"), "parameterType.*categorical"),
        (lambda spec: spec["parameters"].pop(), "trialParameters refer to"),
        (lambda spec: spec["trialTemplate"]["trialParameters"].pop(), "args use trialParameters"),
        (lambda spec: spec["trialTemplate"].update(configMap={}), "configMap: Extra inputs"),
        (
            lambda spec: spec["trialTemplate"]["trialSpec"].update(kind="PyTorchJob"),
            "supported: batch/v1 Job",
        ),
        (lambda spec: spec["trialTemplate"].update(primaryContainerName="other"), "no container other"),
        (lambda spec: spec["earlyStopping"].update(algorithmName="other"), "earlyStopping"),
        (
            lambda spec: spec["earlyStopping"].update(
                algorithmSettings=[{"name": "start_step", "value": "0"}]
            ),
            "start_step must be a whole number",
        ),
        (
            lambda spec: spec["metricsCollectorSpec"]["collector"].update(kind="File"),
            "collector.kind.*StdOut",
        ),
        (lambda spec: spec.update(maxFailedTrialCount=21), "must not exceed maxTrialCount"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change, complaint):
    with pytest.raises(UserError, match=complaint):
        parse_experiment(manifest_with(change))


@pytest.mark.parametrize("text", ["", "data: {}", "[1]", "data: {experiment.yaml: [}"])
def test_another_file_is_refused(text):
    with pytest.raises(UserError):
        parse_experiment(text)
