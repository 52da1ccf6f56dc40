import inspect
from pathlib import Path

import yaml
from kfp import compiler

from components.image import IMAGE
from fakesound.orchestration.config import RunConfig
from pipelines.unseen_attack import unseen_attack

GOLDEN = Path(__file__).parents[2] / "pipelines" / "unseen_attack.yaml"


def test_the_committed_file_is_what_the_compiler_makes(tmp_path):
    compiled = tmp_path / "compiled.yaml"
    compiler.Compiler().compile(unseen_attack, str(compiled))
    assert compiled.read_bytes() == GOLDEN.read_bytes(), (
        "run `make pipeline` and commit pipelines/unseen_attack.yaml"
    )


def test_the_exit_handler_closes_what_the_first_step_opened():
    golden = yaml.safe_load(GOLDEN.read_text())
    closing = golden["root"]["dag"]["tasks"]["close-run"]
    assert closing["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    (handled,) = closing["dependentTasks"]
    inner = golden["components"][f"comp-{handled}"]["dag"]["tasks"]
    assert "dependentTasks" not in inner["open-run"]
    for name, task in inner.items():
        assert name == "open-run" or task["dependentTasks"], name


def test_every_step_takes_its_image_from_the_parameter():
    executors = yaml.safe_load(GOLDEN.read_text())["deploymentSpec"]["executors"]
    assert len(executors) == 11
    for executor in executors.values():
        assert "image" in executor["container"]["image"]
        assert executor["container"]["image"] != IMAGE


def test_the_runs_configuration_fits_into_a_parameter_and_the_default_is_a_preset():
    parameters = inspect.signature(unseen_attack.pipeline_func).parameters
    assert RunConfig.load(parameters["config"].default).to_json()
    assert set(parameters) == {"store", "config", "recordings", "launcher", "sweeper", "image"}
