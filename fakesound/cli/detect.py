"""`fakesound detect`: which model judges, what is shown, which exit code."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fakesound.core.errors import UserError
from fakesound.core.files import writing

if TYPE_CHECKING:
    from fakesound.models.bundle import Bundle

EXIT_NOTHING, EXIT_FORGED = 0, 3

HOW_TO_GET_A_MODEL = (
    "no model: name one with --model (a folder, or models:/fakesound@champion), or make one with `make run`; "
    "the champion is looked for in MLFLOW_TRACKING_URI, or in the store that --store or FAKESOUND_STORE names"
)


def detect_and_show(path: str, *, store: str, model: str | None, plot: str | None, form: str) -> int:
    """Judge a file, print what was found, and return the exit code.

    Args:
        path: audio file.
        store: where the registry is looked for.
        model: model URI or folder; None takes the champion.
        plot: picture to write.
        form: text, json or audacity.

    Raises:
        UserError: there is no model, the file cannot be judged, or the picture cannot be written.
    """
    from fakesound.evaluation.detect import detect_file
    from fakesound.evaluation.show import plot_detection, render_audacity, render_json, render_text

    if not Path(path).exists():  # before a model is fetched
        raise UserError(f"no file {path}")
    name, bundle = resolve_model(model, store)
    click.echo(f"model: {name}", err=True)
    found = detect_file(path, bundle)
    if form == "audacity":
        click.echo(render_audacity(found), nl=False)
    else:
        click.echo(render_json(found, name) if form == "json" else render_text(found, name))
    if plot:
        with writing(plot) as beside:
            try:
                plot_detection(found, beside, Path(plot).suffix.removeprefix(".") or "png")
            except ValueError as error:
                raise UserError(f"{plot} cannot be written: {error}") from None
    return EXIT_FORGED if found.forged else EXIT_NOTHING


def resolve_model(model: str | None, store: str) -> tuple[str, "Bundle"]:
    """The model asked for, or else the registry's champion: its name and its bundle.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    from fakesound.core.store import Store
    from fakesound.models.bundle import load_bundle

    if model and (Path(model).is_dir() or ":" not in model):
        return model, load_bundle(Path(model))
    # The registry takes seconds to import, so it is asked only where there may be one.
    from fakesound.orchestration.tracking import CHAMPION_URI, Tracking, has_tracking

    opened = Store(store)
    if not has_tracking(opened):
        raise UserError(f"no model {model}: no registry to look in" if model else HOW_TO_GET_A_MODEL)
    from fakesound.orchestration.registry import fetch_bundle, find_champion

    tracking = Tracking(opened)
    if model:
        return model, fetch_bundle(tracking, model)
    champion = find_champion(tracking)
    if champion is None:
        raise UserError(HOW_TO_GET_A_MODEL)
    return f"{CHAMPION_URI} (version {champion.version})", fetch_bundle(tracking, CHAMPION_URI)
