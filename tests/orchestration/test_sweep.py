import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import pytest
from sweeps import Objective, SlowObjective, changed, run_here, search_of

from fakesound.core.errors import UserError
from fakesound.core.store import Store
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.experiment import load_experiment
from fakesound.orchestration.optuna_sweeper import STUDY_NAME, OptunaSweeper
from fakesound.orchestration.sweep import check_sweeper, get_sweeper, read_trials


@pytest.fixture
def place(tmp_path):
    return Store(str(tmp_path / "store")).place("sweeps", "k")


def run(objective, place, experiment=None, **limits):
    return OptunaSweeper(objective, run_here).run(search_of(place, experiment, **limits))


def forget_time(place):
    """Records without what differs between any two runs."""
    return [vars(record) | {"seconds": 0} for record in read_trials(place)]


def test_the_best_point_is_returned_as_overrides(place):
    objective = Objective()
    best = run(objective, place)
    assert best.value == max(-abs(p["posWeight"] - 4) for _, p in objective.tried)
    assert f"training.loss.pos_weight={best.parameters['posWeight']!r}" in best.overrides
    assert objective.closed == [(f"run-{n}", "complete") for n in range(8)]


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("algorithm", ["tpe", "multivariate-tpe", "sobol", "random"])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path, algorithm, parallel):
    experiment = changed(lambda spec: spec["algorithm"].update(algorithmName=algorithm))
    limits = {"parallel_trials": parallel, "max_trials": 14}
    whole, part, rest = Objective(), Objective(die_at=12), Objective()
    here, there = (Store(str(tmp_path / name)).place("sweeps", "k") for name in "ab")
    expected = run(whole, here, experiment, **limits)
    with pytest.raises(KeyboardInterrupt):
        run(part, there, experiment, **limits)
    there.remove("trials/010.json")  # killed before it was written, while 11 was: with several at a time
    assert run(rest, there, experiment, **limits) == expected
    assert forget_time(there) == forget_time(here)
    assert {10, 12} <= {n for n, _ in rest.tried} <= {10, 11, 12, 13}
    points = dict(whole.tried)
    assert all(points[number] == point for number, point in part.tried + rest.tried)


def test_with_four_at_a_time_a_trial_knows_of_those_four_before_it_and_of_none_later(tmp_path):
    points = []
    for name, failing in (("a", []), ("b", [11])):
        objective = Objective(fail_at=failing)
        run(objective, Store(str(tmp_path)).place("sweeps", name), parallel_trials=4, max_trials=16)
        points.append([point for _, point in sorted(objective.tried, key=lambda pair: pair[0])])
    assert points[0][:15] == points[1][:15]
    assert points[0][15] != points[1][15]
    assert len({json.dumps(point) for point in points[0]}) == 16


def test_the_budget_is_the_lower_of_the_two(place):
    objective = Objective()
    run(objective, place, max_trials=99)
    assert len(objective.tried) == load_experiment().spec.max_trial_count


def test_failures_are_counted_and_not_fatal_below_the_limit_and_are_tried_again(place):
    limit = load_experiment().spec.max_failed_trial_count
    best = run(Objective(fail_at=range(limit - 1)), place)
    assert best.number >= limit - 1
    other = Store(place.uri).place("sweeps", "other")
    objective = Objective(fail_at=range(1, limit + 1))
    with pytest.raises(UserError, match=f"{limit} trials failed.*loss is not a number"):
        run(objective, other)
    assert len(objective.tried) == limit + 1
    again = Objective()
    run(again, other)
    assert [n for n, _ in again.tried] == [1, 2, 3, 4, 5, 6, 7]  # 0 was kept


def test_a_score_that_is_no_number_is_a_failure(place):
    class Diverging(Objective):
        def __call__(self, trial, run, report):
            value = super().__call__(trial, run, report)
            return float("nan") if trial.number == 0 else value

    assert run(Diverging(), place, max_trials=3).number > 0
    assert read_trials(place)[0].error == "it ended with score nan"


def test_where_every_trial_fails_the_reason_is_said(place):
    with pytest.raises(UserError, match=r"no trial of 2 came to an end: .*loss is not a number"):
        run(Objective(fail_at=range(9)), place, max_trials=2)


def test_hopeless_trials_are_stopped_early(place):
    run(Objective(steps=10), place, max_trials=12)
    records = read_trials(place)
    states = [record.state for record in records]
    assert "stopped" in states
    assert states[:3] == ["complete"] * 3
    assert {len(r.steps) for r in records if r.state == "stopped"} == {4}  # once, at start_step


def test_the_goal_and_the_hours_end_a_search(place, tmp_path):
    objective = Objective()
    run(objective, place, changed(lambda spec: spec["objective"].update(goal=-100.0)))
    assert len(objective.tried) == 1

    def slow(*arguments):
        record = run_here(*arguments)
        record.seconds = 1200
        return record

    objective, other = Objective(), Store(str(tmp_path)).place("sweeps", "hours")
    OptunaSweeper(objective, slow).run(search_of(other, max_trial_hours=1.0))
    assert len(objective.tried) == 3


def test_the_configuration_itself_is_tried_first(place):
    experiment = load_experiment()
    config = RunConfig.load("builtin")
    start = experiment.point_of(config.model_dump(mode="json"))
    objective = Objective()
    run(objective, place, max_trials=2, start=start)
    assert objective.tried[0][1] == start
    assert start["posWeight"] == config.training.loss.pos_weight


def test_a_configuration_outside_the_space_is_no_starting_point():
    config = RunConfig.load("builtin", ["training.weight_decay=0.5"])
    assert load_experiment().point_of(config.model_dump(mode="json")) is None


def test_a_model_without_a_searched_value_is_refused_by_name():
    config = RunConfig.load("builtin", ["detector={kind: lcnn}"])
    with pytest.raises(UserError, match=r"dropPath, which is for detector\.drop_path"):
        load_experiment().point_of(config.model_dump(mode="json"))


def test_a_grid_is_walked_without_repetition(place):
    def change(spec):
        kept = ("posWeight", "frequencyMasks")
        spec["parameters"] = [p for p in spec["parameters"] if p["name"] in kept]
        spec["parameters"][0]["feasibleSpace"] = {"min": "1", "max": "2", "step": "0.5"}
        template = spec["trialTemplate"]
        template["trialParameters"] = [p for p in template["trialParameters"] if p["name"] in kept]
        container = template["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
        container["args"] = [a for a in container["args"] if any(name in a for name in kept)]
        spec["algorithm"]["algorithmName"] = "grid"

    objective = Objective()
    run(objective, place, changed(change), max_trials=20)
    tried = {(p["posWeight"], p["frequencyMasks"]) for _, p in objective.tried}
    assert tried == {(weight, masks) for weight in (1.0, 1.5, 2.0) for masks in (0, 1, 2, 3)}
    assert len(objective.tried) == 12


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s["algorithm"].update(algorithmName="cmaes"), "package cmaes, which is not among"),
        (lambda s: s["algorithm"].update(algorithmName="hyperband"), "hyperband runs on a cluster only"),
        (lambda s: s["algorithm"].update(algorithmName="grid"), "needs a step, which lr"),
        (
            lambda s: s["algorithm"].update(algorithmSettings=[{"name": "gamma", "value": "0.2"}]),
            "setting gamma of tpe has no counterpart",
        ),
        (
            lambda s: s["parameters"][1]["feasibleSpace"].update(distribution="normal"),
            "warmupShare: distribution normal is drawn on a cluster only",
        ),
        (lambda s: s["parameters"][0]["feasibleSpace"].update(step="0.001"), "logUniform with a step"),
        (
            lambda s: s["algorithm"].update(algorithmSettings=[{"name": "random_state", "value": "x"}]),
            "random_state of tpe must be a whole number, not 'x'",
        ),
    ],
)
def test_what_optuna_cannot_do_is_refused_by_name_before_any_trial(place, change, complaint):
    objective = Objective()
    with pytest.raises(UserError, match=complaint):
        run(objective, place, changed(change))
    assert objective.tried == []


def test_gaussian_processes_stand_for_bayesian_optimisation(place):
    def change(spec):
        spec["algorithm"] = {
            "algorithmName": "bayesianoptimization",
            "algorithmSettings": [{"name": "n_initial_points", "value": "3"}],
        }

    objective = Objective()
    run(objective, place, changed(change), max_trials=5)
    assert len(objective.tried) == 5


def test_the_study_is_left_as_optunas_own_database(place):
    best = run(Objective(fail_at=[1], steps=10), place)
    path = place.local_path(STUDY_NAME)
    study = optuna.load_study(study_name="fakesound-sweep", storage=f"sqlite:///{path}")
    assert study.best_trial.number == best.number
    assert study.best_params == best.parameters
    assert len(study.trials) == 8


def test_trials_run_in_processes_that_share_the_cores(place, tmp_path, capfd):
    started_s = time.monotonic()
    search = search_of(place, max_trials=4, parallel_trials=2)
    best = OptunaSweeper(SlowObjective(tmp_path, seconds=0.1, kill_at=1)).run(search)
    assert best.number != 1
    states = [record.state for record in read_trials(place)]
    assert states == ["complete", "failed", "complete", "complete"]
    assert "killed by signal 9" in read_trials(place)[1].error
    said = capfd.readouterr().out
    assert "[trial 0] threads " in said
    assert "OMP_NUM_THREADS" in os.environ
    assert time.monotonic() - started_s < 30


SEARCH = """
    import sys
    sys.path[:0] = [{tests!r}]
    from sweeps import SlowObjective, search_of
    from fakesound.core.store import Store
    from fakesound.orchestration.optuna_sweeper import OptunaSweeper

    if __name__ == "__main__":
        place = Store({store!r}).place("sweeps", "k")
        print(OptunaSweeper(SlowObjective({marks!r}, seconds=0.3)).run(search_of(place, max_trials=3)))
"""


def start_search(tmp_path, name, marks):
    script = tmp_path / f"{name}.py"
    names = {"tests": str(Path(__file__).parent), "store": str(tmp_path / name), "marks": str(marks)}
    script.write_text(textwrap.dedent(SEARCH).format(**names))
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)


def test_a_search_that_was_killed_is_taken_up_with_the_same_result(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    killed = start_search(tmp_path, "killed", marks)
    deadline_s = time.monotonic() + 60
    while len(list(marks.iterdir())) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(read_trials(Store(str(tmp_path / "killed")).place("sweeps", "k"))) == 1
    shown = start_search(tmp_path, "killed", marks).communicate(timeout=60)[0]
    there, here = (Store(str(tmp_path / name)).place("sweeps", "k") for name in ("killed", "whole"))
    best = OptunaSweeper(SlowObjective(marks), run_here).run(search_of(here, max_trials=3))
    assert shown.splitlines()[-1] == str(best)
    assert forget_time(there) == forget_time(here)
    tried = [int(mark.name.split("-")[0]) for mark in marks.iterdir()]
    assert [tried.count(n) for n in range(3)] == [2, 3, 2]


def test_a_sweeper_that_cannot_be_used_is_refused(monkeypatch, tmp_path):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match="sweeper=katib needs a cluster, and there is none"):
        check_sweeper("katib")
    with pytest.raises(UserError, match="known: optuna, katib"):
        get_sweeper("guess", objective=Objective(), image="")
    (tmp_path / "none").write_text("")
    with pytest.raises(UserError, match="give --image"):
        get_sweeper("katib", objective=Objective(), image="")
    with pytest.raises(UserError, match="configuration cannot be used"):
        get_sweeper("katib", objective=Objective(), image="fakesound:1")
