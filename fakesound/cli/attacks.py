"""`fakesound attacks`: what families there are, and one's own file forged by one of them or by all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fakesound.core.errors import UserError
from fakesound.core.files import writing
from fakesound.core.regions import Region, SampleRegion, to_samples

if TYPE_CHECKING:
    from fakesound.attacks.base import Attack
    from fakesound.core.audio import FloatArray

ALL = "all"
COMMAND_MECHANISM = "command"
_REGION_STREAM = 1


@dataclass(frozen=True)
class _Job:
    """What is forged: a recording (n,), its rate, where, and a donor at the same rate."""

    samples: "FloatArray"
    sample_rate_hz: int
    regions: list[SampleRegion]
    donor: "FloatArray | None"
    seed: int


@click.group()
def attacks() -> None:
    """List the families of forgery, and try them on a file."""


def _forging(command: Callable[..., None]) -> Callable[..., None]:
    """The options of both commands that forge."""
    for option in reversed(
        (
            click.argument("file"),
            click.option("--family", required=True, help="See `attacks list`; with --command: its name."),
            click.option(
                "--region",
                "spans",
                multiple=True,
                metavar="ONSET-OFFSET",
                help="Seconds, e.g. 1.2-2.5; more than one may be given. Without it one is drawn.",
            ),
            click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
            click.option("--donor", help="Another recording, for the splice family."),
            click.option("--command", "template", help="Command line with {input} {output} {onset_s} …"),
        )
    ):
        command = option(command)
    return command


@attacks.command("list")
def list_families() -> None:
    """Print every family: name, mechanism, what it does, where it comes from."""
    from fakesound.attacks.registry import known_attacks

    rows = [
        (name, attack.mechanism, attack.summary, whence) for name, (attack, whence) in known_attacks().items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@attacks.command()
@_forging
@click.option("--out", required=True, help="Wav file to write: 32-bit float, mono, the input's own rate.")
def apply(
    *,
    file: str,
    family: str,
    spans: tuple[str, ...],
    seed: int,
    donor: str | None,
    template: str | None,
    out: str,
) -> None:
    """Forge a file, and print the regions that were forged.

    Outside of them and their crossfades no sample of a mono file changes.
    """
    if Path(out).suffix.lower() != ".wav":
        raise UserError(f"--out {out}: the forgery is written as wav; let the name end in .wav")
    attack = _attack(family, template)
    job = _job(file, spans, seed, donor)
    _write_wav(out, _forged(job, attack), job.sample_rate_hz)
    _print_regions(job, family)


@attacks.command()
@_forging
@click.option("--out", required=True, help="Folder for the pictures and the sound.")
def preview(
    *,
    file: str,
    family: str,
    spans: tuple[str, ...],
    seed: int,
    donor: str | None,
    template: str | None,
    out: str,
) -> None:
    """Forge a file, and write before.wav, after.wav and preview.png.

    With --family all: before.wav, FAMILY.wav for each, and sheet.png.
    """
    from fakesound.attacks.preview import plot_preview, plot_sheet

    if family == ALL and template is None:
        chosen = _all_families(has_donor=donor is not None)
    else:
        chosen = {family: _attack(family, template)}
    job = _job(file, spans, seed, donor)
    forgeries = {name: _forged(job, attack) for name, attack in chosen.items()}
    folder = Path(out)
    _write_wav(folder / "before.wav", job.samples, job.sample_rate_hz)
    for name, samples in forgeries.items():
        _write_wav(folder / f"{name if family == ALL else 'after'}.wav", samples, job.sample_rate_hz)
    if family == ALL:
        with writing(folder / "sheet.png") as path:
            plot_sheet(path, job.samples, forgeries, regions=job.regions, sample_rate_hz=job.sample_rate_hz)
    else:
        with writing(folder / "preview.png") as path:
            plot_preview(
                path,
                job.samples,
                forgeries[family],
                regions=job.regions,
                sample_rate_hz=job.sample_rate_hz,
                family=family,
            )
    _print_regions(job, family)


def _attack(family: str, template: str | None) -> "Attack":
    from fakesound.attacks.command import CommandConfig
    from fakesound.attacks.registry import get_attack, require_new

    if template is None:
        return get_attack(family)
    config = CommandConfig.parse({"family": family, "mechanism": COMMAND_MECHANISM, "command": template})
    require_new([config])
    return get_attack(family, [config])


def _all_families(*, has_donor: bool) -> "dict[str, Attack]":
    from fakesound.attacks.registry import known_attacks
    from fakesound.attacks.splice import SPLICE

    families = {name: attack for name, (attack, _) in known_attacks().items()}
    if not has_donor:
        del families[SPLICE.family]
        click.echo(f"{SPLICE.family} is left out: it needs --donor", err=True)
    return families


def _job(file: str, spans: tuple[str, ...], seed: int, donor: str | None) -> _Job:
    from fakesound.core.audio import resample

    samples, rate_hz = _read(file)
    given = sorted(_parse_region(span, len(samples) / rate_hz) for span in spans)
    regions = to_samples(given, rate_hz) if given else _draw_regions(samples, rate_hz, seed)
    other = None
    if donor is not None:
        donor_samples, donor_rate_hz = _read(donor)
        other = resample(donor_samples, donor_rate_hz, rate_hz)
    return _Job(samples, rate_hz, regions, other, seed)


def _read(file: str) -> "tuple[FloatArray, int]":
    from fakesound.core.audio import AudioError, probe, read_mono

    try:
        if probe(file).num_channels > 1:
            click.echo(f"{file}: its channels are mixed down to one", err=True)
        return read_mono(file)
    except AudioError as error:
        raise UserError(f"{file} cannot be used: {error}") from None


def _parse_region(text: str, duration_s: float) -> Region:
    try:
        onset, offset = text.split("-")
        region = Region(float(onset), float(offset))
    except ValueError:
        raise UserError(f"--region {text}: give onset and offset in seconds, like 1.2-2.5") from None
    if not 0 <= region.onset_s < region.offset_s <= duration_s + 5e-4:
        raise UserError(f"--region {text}: must lie within the recording, 0-{duration_s:.3f} s, onset first")
    return Region(region.onset_s, min(region.offset_s, duration_s))


def _draw_regions(samples: "FloatArray", rate_hz: int, seed: int) -> list[SampleRegion]:
    import numpy as np

    from fakesound.corpora.masks import draw_audible_mask

    rng = np.random.default_rng([seed, _REGION_STREAM])
    mask = draw_audible_mask(samples, rate_hz, "train", rng.random(), rng)
    if mask is None:
        raise UserError("the recording is nearly silent: no audible region could be drawn; give --region")
    return list(mask.regions)


def _forged(job: _Job, attack: "Attack") -> "FloatArray":
    import numpy as np

    from fakesound.attacks.forge import forge

    rng = np.random.default_rng(job.seed)
    return forge(
        job.samples, job.regions, attack, sample_rate_hz=job.sample_rate_hz, rng=rng, donor=job.donor
    )


def _write_wav(target: str | Path, samples: "FloatArray", rate_hz: int) -> None:
    from fakesound.core.audio import write_wav

    with writing(target) as path:
        write_wav(path, samples, rate_hz)


def _print_regions(job: _Job, family: str) -> None:
    for region in job.regions:
        onset_s, offset_s = (border / job.sample_rate_hz for border in region)
        click.echo(f"{onset_s:9.3f} - {offset_s:9.3f} s  {family}")
