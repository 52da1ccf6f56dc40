import pytest

from fakesound.core.errors import UserError
from fakesound.core.store import Store
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.experiment import load_experiment
from fakesound.orchestration.sweep import OptunaSweeper, get_sweeper


class Objective:
    """Best at pos_weight 4; remembers what it was asked; can be told to die or to fail."""

    def __init__(self, *, die_at=None, fail_at=(), steps=0):
        self.tried, self.die_at, self.fail_at, self.steps = [], die_at, fail_at, steps

    def __call__(self, trial):
        if trial.number == self.die_at:
            raise KeyboardInterrupt
        self.tried.append((trial.number, dict(trial.parameters)))
        if trial.number in self.fail_at:
            raise RuntimeError("loss is not a number")
        score = -abs(trial.parameters["posWeight"] - 4)
        for step in range(self.steps):
            trial.report(step, score)
        return score


@pytest.fixture
def place(tmp_path):
    return Store(str(tmp_path)).place("sweeps", "k")


def run(objective, place, max_trials=8, seed=3):
    return OptunaSweeper().run(load_experiment(), objective, place=place, max_trials=max_trials, seed=seed)


def test_the_best_point_is_returned_as_overrides(place):
    objective = Objective()
    best = run(objective, place)
    assert best.value == max(-abs(p["posWeight"] - 4) for _, p in objective.tried)
    assert f"training.loss.pos_weight={best.parameters['posWeight']!r}" in best.overrides


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path):
    whole, part, rest = Objective(), Objective(die_at=5), Objective()
    expected = run(whole, Store(str(tmp_path / "a")).place("sweeps", "k"))
    place = Store(str(tmp_path / "b")).place("sweeps", "k")
    with pytest.raises(KeyboardInterrupt):
        run(part, place)
    assert run(rest, place) == expected
    assert [n for n, _ in rest.tried] == [5, 6, 7]
    assert part.tried + rest.tried == whole.tried


def test_the_budget_is_the_lower_of_the_two(place):
    objective = Objective()
    run(objective, place, max_trials=99)
    assert len(objective.tried) == load_experiment().spec.max_trial_count


def test_failures_are_counted_and_not_fatal_up_to_the_limit(place):
    allowed = load_experiment().spec.max_failed_trial_count
    best = run(Objective(fail_at=range(allowed)), place)
    assert best.number >= allowed
    with pytest.raises(RuntimeError, match="not a number"):
        run(Objective(fail_at=range(100)), Store(str(place.uri)).place("sweeps", "other"))


def test_hopeless_trials_are_stopped_early(place):
    run(Objective(steps=10), place, max_trials=12)
    states = [place.read_json(name)["state"] for name in place.names()]
    assert "stopped" in states
    assert states[:3] == ["complete"] * 3


def test_the_configuration_itself_is_tried_first(place):
    experiment = load_experiment()
    config = RunConfig.load("builtin")
    start = experiment.point_of(config.model_dump(mode="json"))
    objective = Objective()
    OptunaSweeper().run(experiment, objective, place=place, max_trials=2, seed=3, start=start)
    assert objective.tried[0][1] == start
    assert start["posWeight"] == config.training.loss.pos_weight


def test_a_configuration_outside_the_space_is_no_starting_point():
    config = RunConfig.load("builtin", ["training.weight_decay=0.5"])
    assert load_experiment().point_of(config.model_dump(mode="json")) is None


def test_katib_is_refused_and_so_is_an_unknown_name():
    with pytest.raises(UserError, match="not available yet"):
        get_sweeper("katib")
    with pytest.raises(UserError, match="known: optuna, katib"):
        get_sweeper("guess")
