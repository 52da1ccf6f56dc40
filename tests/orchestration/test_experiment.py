from pathlib import Path

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import fakesound.orchestration
from fakesound.core.errors import UserError
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.experiment import EXPERIMENT_FILE, Parameter, load_experiment, parse_experiment
from fakesound.orchestration.sweep import distribution

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
    ranges = {p.name: (p.feasible_space.min, p.feasible_space.max) for p in spec.parameters}
    assert ranges["posWeight"] == (1, 8)
    assert ranges["dropout"] == (0, 0.6)
    assert ranges["dropPath"] == (0, 0.1)
    assert ranges["weightDecay"] == (0, 0.1)
    assert {"lr", "timeMaskShare"} <= ranges.keys()
    assert (spec.max_trial_count, spec.parallel_trial_count) == (20, 5)


def test_every_corner_of_the_space_is_a_valid_configuration():
    experiment = load_experiment()
    for corner in ("min", "max"):
        values = {
            p.name: (int if p.parameter_type == "int" else float)(getattr(p.feasible_space, corner))
            for p in experiment.spec.parameters
        }
        overrides = experiment.overrides(values)
        assert len(overrides) == len(values)
        config = RunConfig.load("builtin", overrides)
        assert config.training.schedule.peak_lr == values["lr"]
        assert config.training.loss.pos_weight == values["posWeight"]
        assert config.detector.dropout == values["dropout"]
        assert config.detector.drop_path == values["dropPath"]


def test_small_numbers_survive_the_way_through_yaml():
    experiment = load_experiment()
    values = {p.name: p.feasible_space.min for p in experiment.spec.parameters} | {"weightDecay": 3.5e-7}
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


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda spec: spec["algorithm"].update(algorithmName="cmaes"), "algorithmName"),
        (lambda spec: spec.update(resumePolicy="Never"), "resumePolicy"),
        (lambda spec: spec["parameters"][0]["feasibleSpace"].update(distribution="normal"), "distribution"),
        (lambda spec: spec["parameters"][0]["feasibleSpace"].update(min="0"), "logUniform needs min > 0"),
        (lambda spec: spec["parameters"][1]["feasibleSpace"].update(min="9"), "needs min < max"),
        (lambda spec: spec["parameters"].pop(), "trialParameters refer to"),
        (lambda spec: spec["earlyStopping"].update(algorithmName="other"), "earlyStopping"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change, complaint):
    with pytest.raises(UserError, match=complaint):
        parse_experiment(manifest_with(change))


@pytest.mark.parametrize("text", ["", "data: {}", "[1]", "data: {experiment.yaml: [}"])
def test_another_file_is_refused(text):
    with pytest.raises(UserError):
        parse_experiment(text)
