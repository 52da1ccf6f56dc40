"""A search as one self-contained HTML page: history, importance, parallel coordinates, all trials."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fakesound.evaluation.page_plots import PAGE_COLOUR, page_style, to_svg
from fakesound.orchestration.experiment import Experiment, Parameter, ParameterValue
from fakesound.orchestration.sweep import Best, TrialRecord

MIN_TRIALS_FOR_IMPORTANCE = 8
TRIAL_COLOUR, BEST_COLOUR = "#3f88c5", "#d1495b"


def render_sweep(experiment: Experiment, records: Sequence[TrialRecord], best: Best) -> str:
    """The page as text.

    Args:
        experiment: that was searched.
        records: every trial that ended, in order.
        best: of these.
    """
    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("fakesound.orchestration"), jinja2.PackageLoader("fakesound.evaluation")]
    )
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["figure"] = _figure
    complete = [record for record in records if record.state == "complete" and record.value is not None]
    shares = importances(experiment, complete)
    return environment.get_template("sweep.html.j2").render(
        metric=experiment.spec.objective.objective_metric_name,
        algorithm=f"algorithm {experiment.spec.algorithm.algorithm_name}",
        parameters=[parameter.name for parameter in experiment.spec.parameters],
        records=records,
        best=best,
        start=_start_value(records, best),
        counts=", ".join(f"{n} {state}" for state, n in Counter(r.state for r in records).items()),
        hours=_hours(sum(record.seconds for record in records)),
        failures=[record for record in records if record.error],
        num_complete=len(complete),
        min_trials=MIN_TRIALS_FOR_IMPORTANCE,
        shares=shares,
        history=Markup(history_plot(experiment, records)),
        importance=Markup(importance_plot(shares)) if shares else "",
        parallel=Markup(parallel_plot(experiment, records, best)),
        experiment=yaml.safe_dump(experiment.manifest(), sort_keys=False),
    )


def importances(experiment: Experiment, complete: Sequence[TrialRecord]) -> dict[str, float]:
    """Share of the variance that each parameter explains, largest first; empty where too little is known.

    fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014) on a random forest, as Optuna does it.
    """
    values = {record.value for record in complete}
    if len(complete) < MIN_TRIALS_FOR_IMPORTANCE or len(values) == 1:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    from fakesound.orchestration.optuna_sweeper import UnsupportedSpaceError, study_of

    try:
        study = study_of(experiment, complete)
    except UnsupportedSpaceError:  # searched on a cluster, in a space that Optuna has no words for
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def history_plot(experiment: Experiment, records: Sequence[TrialRecord]) -> str:
    """Value of each trial in order, with the best so far."""
    with page_style():
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        axes = figure.subplots()
        for state, face in (("complete", TRIAL_COLOUR), ("stopped", "none")):
            of_state = [(r.number, r.value) for r in records if r.state == state and r.value is not None]
            axes.scatter(
                [number for number, _ in of_state],
                [value for _, value in of_state],
                facecolors=face,
                edgecolors=TRIAL_COLOUR,
                s=22,
                zorder=3,
            )
        numbers, values = _best_so_far(experiment, records)
        axes.step(numbers, values, where="post", color=BEST_COLOUR, linewidth=1.2)
        failed = [r.number for r in records if r.value is None]
        axes.scatter(
            failed,
            [0.03] * len(failed),
            marker="x",
            color=PAGE_COLOUR,
            s=22,
            transform=axes.get_xaxis_transform(),
        )
        axes.set(xlabel="trial", ylabel=experiment.spec.objective.objective_metric_name)
        axes.set_xlim(-0.5, max(r.number for r in records) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_svg(figure)


def importance_plot(shares: Mapping[str, float]) -> str:
    """A bar a parameter, the most important above."""
    with page_style():
        figure = Figure(figsize=(7.2, 0.4 + 0.26 * len(shares)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(list(shares), list(shares.values()), color=TRIAL_COLOUR, height=0.65)
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1.1 * max(shares.values())), xticks=[])
        axes.spines["bottom"].set_visible(False)
        return to_svg(figure)


def parallel_plot(experiment: Experiment, records: Sequence[TrialRecord], best: Best) -> str:
    """A line a trial across the parameters, each on an axis from its least to its greatest value."""
    parameters = experiment.spec.parameters
    shown = [record for record in records if record.value is not None]
    values = np.array([record.value for record in shown], dtype=float)
    order = np.argsort(values if experiment.spec.objective.type == "maximize" else -values, kind="stable")
    rank = np.empty(len(shown))
    rank[order] = np.linspace(0.15, 1, len(shown)) if len(shown) > 1 else 1.0
    with page_style():
        figure = Figure(figsize=(max(7.2, 0.72 * len(parameters)), 3.2), layout="constrained")
        axes = figure.subplots()
        for k in range(len(parameters)):
            axes.axvline(k, color=PAGE_COLOUR, alpha=0.35, linewidth=0.8)
        lines = [
            [(k, _position(p, record.parameters[p.name])) for k, p in enumerate(parameters)]
            for record in shown
        ]
        is_best = [record.number == best.number for record in shown]
        axes.add_collection(
            LineCollection(
                lines,
                colors=[BEST_COLOUR if chosen else TRIAL_COLOUR for chosen in is_best],
                alpha=[1.0 if chosen else share for chosen, share in zip(is_best, rank, strict=True)],
                linewidths=[2.2 if chosen else 1.1 for chosen in is_best],
                linestyles=["--" if record.state == "stopped" else "-" for record in shown],
            )
        )
        for k, parameter in enumerate(parameters):
            for place, text in _marks(parameter):
                axes.annotate(
                    text, (k, place), xytext=(3, 0), textcoords="offset points", fontsize=7, va="center"
                )
        axes.set(xlim=(-0.2, len(parameters) - 0.4), ylim=(-0.06, 1.06), yticks=[])
        axes.set_xticks(range(len(parameters)), [p.name for p in parameters], rotation=30, ha="right")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
        return to_svg(figure)


def _position(parameter: Parameter, value: ParameterValue) -> float:
    """Where a value is on its axis, 0 to 1."""
    if not parameter.is_range:
        choices = parameter.choices
        return choices.index(value) / max(1, len(choices) - 1)
    low, high = parameter.bounds
    assert not isinstance(value, str)
    if parameter.is_log:
        return float(np.log(value / low) / np.log(high / low))
    return (value - low) / (high - low)


def _marks(parameter: Parameter) -> list[tuple[float, str]]:
    """What is written beside an axis: the ends of a range, or every choice."""
    if not parameter.is_range:
        return [(_position(parameter, choice), str(choice)) for choice in parameter.choices]
    low, high = parameter.bounds
    return [(0.0, f"{low:g}"), (1.0, f"{high:g}")]


def _best_so_far(experiment: Experiment, records: Sequence[TrialRecord]) -> tuple[list[int], list[float]]:
    numbers: list[int] = []
    values: list[float] = []
    for record in records:
        if record.state != "complete" or record.value is None:
            continue
        is_better = not values or experiment.spec.objective.is_better(record.value, values[-1])
        numbers.append(record.number)
        values.append(record.value if is_better else values[-1])
    return numbers, values


def _start_value(records: Sequence[TrialRecord], best: Best) -> str:
    first = records[0].value
    return "" if first is None or best.number == records[0].number else f"{first:.4f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} hours" if seconds >= 600 else f"{seconds:.0f} s"


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
