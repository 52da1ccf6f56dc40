"""Components are thin: one call into fakesound each, tested through the function that kfp ships."""

import ast
import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest

import components
from components.image import IMAGE

NAMES = sorted(path.parent.name for path in Path(components.__file__).parent.glob("*/component.py"))


def component(name):
    return getattr(importlib.import_module(f"components.{name}.component"), name)


def test_every_step_is_there():
    steps = (
        "open_run corpus plan_features features_shard finish_features sweep train evaluate register close_run"
    )
    assert sorted(steps.split()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_component_is_thin_and_installs_nothing(name):
    made = component(name)
    tree = ast.parse(inspect.getsource(importlib.import_module(f"components.{name}.component")))
    modules = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert modules <= {"kfp", "components.image"}
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_step"
    ]
    assert len(calls) == 1
    container = made.component_spec.implementation.container
    assert container is not None
    assert container.image == IMAGE
    assert "pip install" not in " ".join(container.command)


@pytest.mark.parametrize("name", NAMES)
def test_a_component_calls_its_stage_with_arguments_that_it_takes(name, monkeypatch):
    """The arguments must fit the stage's signature: no checker sees into a component's body otherwise."""
    calls = []

    def fake_run_step(function, **kwargs):
        inspect.signature(function).bind(**kwargs)
        calls.append((function, kwargs))
        return {"plan": 3, "evaluate": {"vim.easy.clip_auc": 0.5}}.get(function.__name__, "text")

    monkeypatch.setattr("fakesound.orchestration.process.run_step", fake_run_step)
    function = component(name).python_func
    logged = {}
    fakes = {
        "status": SimpleNamespace(state="SUCCEEDED"),
        "metrics": SimpleNamespace(log_metric=logged.__setitem__),
        "shard": "2",
    }
    artifacts = {"corpus", "features", "training", "detector", "baseline", "evaluation", "report"}
    arguments = {
        key: fakes.get(key) or (SimpleNamespace(path=f"at/{key}") if key in artifacts else key)
        for key in inspect.signature(function).parameters
    }
    returned = function(**arguments)
    assert len(calls) == 1
    if name == "plan_features":
        assert returned == ["0", "1", "2"]
    if name == "features_shard":
        assert calls[0][1]["index"] == 2
    if name == "evaluate":
        assert logged == {"vim.easy.clip_auc": 0.5}
