"""`fakesound`: every stage of the road as a command, and `detect` for a file of one's own.

Imports of what a command needs stand inside it: `fakesound --help` answers at once.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from fakesound.cli.attacks import attacks
from fakesound.core.errors import UserError
from fakesound.core.files import writing
from fakesound.orchestration.environment import (
    CONFIG_VARIABLE,
    FEATURES_VARIABLE,
    RUN_VARIABLE,
    STORE_VARIABLE,
)

EXIT_USER = 2

store_option = click.option(
    "--store",
    envvar=STORE_VARIABLE,
    default="store",
    show_default=True,
    help=f"Folder or URL of everything that runs make (or {STORE_VARIABLE}).",
)
config_option = click.option(
    "--config",
    envvar=CONFIG_VARIABLE,
    default="builtin",
    show_default=True,
    help=f"Preset (builtin, folder, laboratory), YAML file or JSON (or {CONFIG_VARIABLE}).",
)
set_option = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one value.")
unseen_option = click.option(
    "--unseen",
    default="",
    metavar="FAMILY,…",
    help="Families or mechanisms to leave out of training; they make the zeroshot view.",
)


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that works in a store under a run configuration."""
    return store_option(config_option(set_option(command)))


run_option = click.option(
    "--run", envvar=RUN_VARIABLE, default="", help=f"Parent run in MLflow (or {RUN_VARIABLE})."
)
FEATURES_HELP = f"Pointer file that `features` wrote, or its content (or {FEATURES_VARIABLE})."
features_option = click.option("--features", envvar=FEATURES_VARIABLE, required=True, help=FEATURES_HELP)


class _Commands(click.Group):
    """Turns what the user can mend into a message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(EXIT_USER)


@click.group(cls=_Commands)
@click.version_option(package_name="fakesound")
def main() -> None:
    """Find forged audio and the stretches that were forged."""


main.add_command(attacks)


def _config(source: str, overrides: tuple[str, ...], unseen: str = "") -> str:
    from fakesound.orchestration.config import RunConfig

    left_out = [f"unseen=[{unseen}]"] if unseen else []
    return RunConfig.load(source, (*overrides, *left_out)).to_json()


@main.group()
def corpus() -> None:
    """Build, import, describe and check corpora."""


@corpus.command("build")
@configured
@click.option(
    "--recordings", "--genuine", default="", help="Folder of recordings; without it a corpus is generated."
)
@click.option("--out", required=True, help="Pointer file to write.")
def corpus_build(*, store: str, config: str, overrides: tuple[str, ...], recordings: str, out: str) -> None:
    """Make genuine and forged clips from recordings."""
    from fakesound.orchestration.stages import corpus as stage

    stage.build(store=store, config=_config(config, overrides), recordings=recordings, corpus_out=out)


@corpus.command("import")
@click.option("--format", "form", required=True, help="Of the dataset, such as fakesound (docs/adapters.md).")
@click.option("--root", required=True, help="The dataset's folder, or a table of your own.")
@click.option(
    "--genuine",
    "--audiocaps",
    help="Folder of the genuine recordings, where the dataset builds on others that it does not distribute.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Deals sources to partitions that a dataset lacks."
)
@click.option("--out", required=True, help="Manifest (Parquet) to write.")
def corpus_import(*, form: str, root: str, genuine: str | None, seed: int, out: str) -> None:
    """List a dataset's clips, labels and regions in a manifest; no audio is copied."""
    from fakesound.orchestration.stages import corpus as stage

    found = stage.import_(form=form, root=root, genuine=genuine, seed=seed, manifest_out=out)
    click.echo(f"{found.num_clips} clips; {found.num_missing} without audio, {found.num_rejected} unusable")
    if found.rejects_path:
        click.echo(f"those are listed in {found.rejects_path}")


@corpus.command("convert")
@store_option
@click.argument("manifest")
@click.option("--out", required=True, help="Pointer file to write.")
def corpus_convert(*, store: str, manifest: str, out: str) -> None:
    """Make a corpus of an imported manifest: 32 kHz, clips of at most ten seconds."""
    from fakesound.orchestration.stages import corpus as stage

    stage.convert(store=store, manifest=manifest, corpus_out=out)


@corpus.command("describe")
@click.argument("file")
@click.option("--plot", help="Histogram of forged lengths to write (.png, .svg or .html).")
def corpus_describe(*, file: str, plot: str | None) -> None:
    """Count what a corpus (its pointer file) or an imported manifest holds; list a corpus's rejects."""
    from fakesound.orchestration.stages import corpus as stage

    click.echo(stage.describe(source=file, plot=plot))


@corpus.command("check")
@click.argument("file")
def corpus_check(file: str) -> None:
    """Verify a corpus (its pointer file) or an imported manifest.

    Every audio file is unaltered, no source is in two partitions, and labels agree with regions.
    """
    from fakesound.orchestration.stages import corpus as stage

    stage.check(corpus=file)
    click.echo("every file is whole, no source is in two partitions, and labels agree with regions")


@main.command()
@configured
@click.option("--corpus", required=True, help="Pointer file that `corpus build` wrote.")
@click.option("--out", required=True, help="Pointer file to write.")
def features(*, store: str, config: str, overrides: tuple[str, ...], corpus: str, out: str) -> None:
    """Extract log-mel features of a corpus; only missing shards are made."""
    from fakesound.orchestration.stages import features as stage

    stage.extract(store=store, config=_config(config, overrides), corpus=corpus, features_out=out)


@main.command()
@configured
@unseen_option
@run_option
@features_option
@click.option("--sweeper", default="optuna", show_default=True, help="optuna or katib.")
@click.option("--image", default="", help="Container image of trials on a cluster.")
@click.option("--out", help="File for the best point's overrides; without it they are printed only.")
def sweep(
    *,
    store: str,
    config: str,
    overrides: tuple[str, ...],
    unseen: str,
    run: str,
    features: str,
    sweeper: str,
    image: str,
    out: str | None,
) -> None:
    """Search hyperparameters in the space of the experiment file."""
    from fakesound.orchestration.stages import sweep as stage

    best = stage.sweep(
        store=store,
        config=_config(config, overrides, unseen),
        features=features,
        run=run,
        sweeper=sweeper,
        image=image,
    )
    click.echo(best)
    if out:
        with writing(out) as path:
            path.write_text(f"{best}\n")


@main.command()
@configured
@unseen_option
@run_option
@click.option("--features", envvar=FEATURES_VARIABLE, help=FEATURES_HELP)
@click.option("--role", type=click.Choice(["detector", "baseline"]), default="detector", show_default=True)
@click.option("--best", type=click.Path(exists=True, dir_okay=False), help="File that `sweep --out` wrote.")
@click.option("--launcher", default="local", show_default=True, help="local or volcano.")
@click.option("--image", default="", help="Container image of the processes, for the launcher volcano.")
@click.option("--resume", metavar="RUN", help="Go on with the training of this MLflow run, as it began.")
@click.option("--out", help="Pointer file to write.")
def train(
    *,
    store: str,
    config: str,
    overrides: tuple[str, ...],
    unseen: str,
    run: str,
    features: str | None,
    role: str,
    best: str | None,
    launcher: str,
    image: str,
    resume: str | None,
    out: str | None,
) -> None:
    """Train one model; prints `validation_score=…` after every epoch."""
    from fakesound.orchestration.stages import train as stage

    if resume:
        _refuse_beside_resume()
        stage.resume(store=store, run=resume, training_out=out)
        return
    if not features:
        raise UserError("nothing to train on: name a pointer file with --features, or a run with --resume")
    stage.train(
        store=store,
        config=_config(config, overrides, unseen),
        overrides=Path(best).read_text() if best else stage.NO_OVERRIDES,
        role=role,
        features=features,
        run=run,
        launcher=launcher,
        image=image,
        training_out=out,
    )


def _refuse_beside_resume() -> None:
    """What a training is was settled when it began."""
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in ("store", "resume", "out")
        and context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    ]
    if given:
        raise UserError(f"--resume goes on with a training as it was begun: leave out {', '.join(given)}")


@main.command()
@configured
@unseen_option
@run_option
@features_option
@click.option("--detector", required=True, help="Pointer file that `train` wrote.")
@click.option("--baseline", required=True, help="Pointer file that `train --role baseline` wrote.")
@click.option("--out", required=True, help="Pointer file to write.")
@click.option("--report", required=True, help="HTML file to write.")
def evaluate(
    *,
    store: str,
    config: str,
    overrides: tuple[str, ...],
    unseen: str,
    run: str,
    features: str,
    detector: str,
    baseline: str,
    out: str,
    report: str,
) -> None:
    """Judge two models side by side on attacks seen and unseen."""
    from fakesound.orchestration.stages import evaluate as stage

    stage.evaluate(
        store=store,
        config=_config(config, overrides, unseen),
        features=features,
        detector=detector,
        baseline=baseline,
        run=run,
        evaluation_out=out,
        report_out=report,
    )
    click.echo(stage.table_of(out))


@main.command()
@store_option
@run_option
@features_option
@click.option("--training", required=True, help="Pointer file that `train` wrote.")
@click.option("--evaluation", required=True, help="Pointer file that `evaluate` wrote.")
def register(*, store: str, run: str, features: str, training: str, evaluation: str) -> None:
    """Register a trained detector; it becomes champion if it is the first or the better one."""
    from fakesound.orchestration.stages import register as stage

    click.echo(
        stage.register(store=store, features=features, training=training, evaluation=evaluation, run=run)
    )


@main.command()
@store_option
@click.argument("file")
@click.option("--model", help="Model URI (models:/fakesound@champion) or folder of a detector.")
@click.option("--plot", help="Picture to write.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "audacity"]), default="text", show_default=True
)
def detect(*, store: str, file: str, model: str | None, plot: str | None, form: str) -> None:
    """Say whether a recording was forged, and where.

    Exit code: 0 nothing found, 3 forged, 2 could not judge.
    """
    from fakesound.cli.detect import detect_and_show

    sys.exit(detect_and_show(file, store=store, model=model, plot=plot, form=form))


@main.command()
@click.option("--kind", "kinds", multiple=True, help="Only models of this kind; may be repeated.")
@click.option("--json", "json_out", metavar="FILE", help="File to write the figures to.")
def models(*, kinds: tuple[str, ...], json_out: str | None) -> None:
    """Measure every kind and size of model on this machine: parameters, operations, time, memory."""
    from fakesound.cli.models import print_models

    print_models(kinds, json_out)


@main.command()
@click.option("--strict", is_flag=True, help="Exit code 2 if installed CUDA kernels are known not to work.")
def doctor(*, strict: bool) -> None:
    """Say what this machine has, which scan backend will be used, and what would make it faster."""
    from fakesound.cli.doctor import diagnose, kernel_problems

    click.echo(diagnose())
    if strict and (problems := kernel_problems()):
        raise UserError("\n".join(problems))


if __name__ == "__main__":
    main()
