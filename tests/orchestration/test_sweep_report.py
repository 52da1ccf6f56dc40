import re

import pytest
from html_page import Page
from sweeps import changed

from fakesound.core.store import Store
from fakesound.orchestration.experiment import load_experiment
from fakesound.orchestration.sweep import TrialRecord, best_of, read_trials
from fakesound.orchestration.sweep_report import importances, render_sweep

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "path", "use"}


def made_up(number, *, value=None, state="complete", experiment=None):
    """Posweight alone matters."""
    parameters = {}
    for k, parameter in enumerate((experiment or load_experiment()).spec.parameters):
        if not parameter.is_range:
            parameters[parameter.name] = parameter.choices[number % len(parameter.choices)]
            continue
        low, high = parameter.bounds
        value_of = low + (high - low) * ((number * (k + 3) * 0.137) % 1)
        parameters[parameter.name] = int(value_of) if parameter.parameter_type == "int" else value_of
    if value is None and state != "failed":
        value = parameters.get("posWeight", 1.0) / 10
    error = HOSTILE if state == "failed" else ""
    return TrialRecord(number, parameters, state, value, {"1": 0.1, "2": 0.2}, seconds=60.0, error=error)


@pytest.fixture(scope="module")
def records():
    made = [made_up(number) for number in range(14)]
    return [*made, made_up(14, state="failed"), made_up(15, state="stopped", value=0.2)]


def test_the_page_is_whole_and_asks_the_network_for_nothing(records):
    experiment = load_experiment()
    best = best_of(experiment, records)
    text = render_sweep(experiment, records, best)
    page = Page(text, VOID)
    assert page.open == []
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert not any(tag in ("script", "link", "img", "iframe") for tag, _ in page.tags)
    links = [
        value for _, attributes in page.tags for key, value in attributes.items() if key in ("href", "src")
    ]
    assert all(link.startswith("#") for link in links)
    assert sum(tag == "svg" for tag, _ in page.tags) == 3
    assert len(re.findall(r'<th scope="row">\d+</th>', text)) == 16
    assert f"trial {best.number}, validation_score {best.value:.4f}" in text
    for override in best.overrides:
        assert override in text


def test_the_parameter_that_matters_is_the_most_important(records):
    shares = importances(load_experiment(), [r for r in records if r.state == "complete"])
    assert next(iter(shares)) == "posWeight"
    assert sum(shares.values()) == pytest.approx(1)


def test_too_few_trials_say_nothing_of_importance(records):
    experiment = load_experiment()
    text = render_sweep(experiment, records[:2], best_of(experiment, records[:2]))
    assert "2 complete trials are too few" in text
    assert text.count("<svg") == 2


def test_what_optuna_has_no_words_for_is_shown_all_the_same():
    def change(spec):
        spec["parameters"][1]["feasibleSpace"]["distribution"] = "normal"
        spec["parameters"][2] |= {"parameterType": "categorical", "feasibleSpace": {"list": ["a", "b"]}}

    experiment = changed(change)
    records = [made_up(number, value=number / 9, experiment=experiment) for number in range(9)]
    assert importances(experiment, records) == {}
    assert "too few" in render_sweep(experiment, records, best_of(experiment, records))


def test_trials_of_a_search_are_read_in_order(tmp_path):
    place = Store(str(tmp_path)).place("sweeps", "k")
    for number in (2, 0, 11):
        made_up(number).write(place)
    assert [record.number for record in read_trials(place)] == [0, 2, 11]
