"""`fakesound models`: every kind and size of model, and what it costs on this machine."""

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fakesound.core.errors import UserError
from fakesound.core.files import writing

if TYPE_CHECKING:
    from fakesound.models.config import ModelConfig
    from fakesound.models.measure import Cost, Speed

NUM_MELS = 128  # of the default front end
UNKNOWN = "-"
HEADINGS = ("model", "device", "parameters", "GFLOPs", "ms", "forward MiB", "training MiB")
LEFT_HEADINGS = HEADINGS[:2]
WIDTHS = (18, 6, 11, 8, 9, 12, 13)  # of plain columns


def print_models(kinds: tuple[str, ...], json_out: str | None) -> None:
    """Measure each preset of the kinds (of all, if none is given) and print a table as it grows.

    Raises:
        UserError: an unknown kind, or a file that cannot be written.
    """
    from fakesound.models.config import model_presets

    presets = model_presets()
    known = list(dict.fromkeys(config.kind for config in presets.values()))
    if unknown := [kind for kind in kinds if kind not in known]:
        raise UserError(f"no kind of model {', '.join(unknown)}; known: {', '.join(known)}")
    chosen = {name: config for name, config in presets.items() if config.kind in (kinds or known)}
    costs = _shown_on_a_terminal(chosen) if sys.stdout.isatty() else _shown_as_lines(chosen)
    if json_out:
        with writing(json_out) as path:
            path.write_text(json.dumps(_report(chosen, costs), indent=1) + "\n")


def _measured(config: "ModelConfig") -> "Cost | str":
    """What a model costs, or why that cannot be told."""
    from fakesound.models.measure import measure_apart

    try:
        return measure_apart(config, NUM_MELS)
    except UserError as error:
        return str(error)


def _shown_on_a_terminal(presets: "Mapping[str, ModelConfig]") -> "dict[str, Cost | str]":
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    console, costs = Console(highlight=False), {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(presets))
        for name, config in presets.items():
            progress.update(task, description=f"measuring {name}")
            costs[name] = _measured(config)
            progress.advance(task)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(
            heading.replace(" ", "\n"), justify="left" if heading in LEFT_HEADINGS else "right", no_wrap=True
        )
    for name, cost in costs.items():
        for cells in _rows(name, cost):
            table.add_row(*cells)
    console.print(table)
    for name, cost in costs.items():
        if isinstance(cost, str):
            console.print(f"{name}: {cost}")
    console.print(_caption(), style="dim")
    return costs


def _shown_as_lines(presets: "Mapping[str, ModelConfig]") -> "dict[str, Cost | str]":
    """Each line as soon as it is known: a log's reader sees how far it is."""
    costs = {}
    click.echo(_line(HEADINGS))
    for name, config in presets.items():
        costs[name] = cost = _measured(config)
        for cells in _rows(name, cost):
            click.echo(_line(cells) + (f"  {cost}" if isinstance(cost, str) else ""))
    click.echo(_caption())
    return costs


def _line(cells: tuple[str, ...]) -> str:
    aligned = (
        f"{cell:<{width}}" if heading in LEFT_HEADINGS else f"{cell:>{width}}"
        for cell, heading, width in zip(cells, HEADINGS, WIDTHS, strict=True)
    )
    return "".join(aligned)


def _rows(name: str, cost: "Cost | str") -> list[tuple[str, ...]]:
    """The cells of a model, a row a device."""
    if isinstance(cost, str):
        return [(name, *[UNKNOWN] * (len(HEADINGS) - 1))]
    size = (f"{cost.parameters / 1e6:.2f} M", f"{cost.gflops:.2f}")
    speeds = {"cpu": cost.cpu} | ({"gpu": cost.gpu} if cost.gpu else {})
    return [(name, device, *size, *_speed_cells(speed)) for device, speed in speeds.items()]


def _speed_cells(speed: "Speed") -> tuple[str, ...]:
    ms = f"{speed.ms:.1f}" if speed.ms < 100 else f"{speed.ms:,.0f}"
    return ms, f"{speed.forward_mib:,.0f}", f"{speed.training_mib:,.0f}"


def _caption() -> str:
    from fakesound.models.budget import CLIP_FRAMES

    machine = _machine()
    devices = [f"cpu: {machine['cpu']}, {machine['threads']} threads"]
    devices += [f"gpu: {machine['gpu']}"] if machine["gpu"] else []
    return (
        f"One clip of 10 s ({CLIP_FRAMES} frames, {NUM_MELS} mels): milliseconds of a forward pass (median), "
        "and the peak memory of it and of a training step with AdamW, weights included. "
        f"{'; '.join(devices)}."
    )


def _machine() -> dict[str, Any]:
    import torch

    from fakesound.cli.doctor import describe_cpu

    return {
        "cpu": describe_cpu(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _report(presets: "Mapping[str, ModelConfig]", costs: "dict[str, Cost | str]") -> dict[str, Any]:
    from fakesound.models.budget import CLIP_FRAMES

    models = [
        {"model": name, "config": config.model_dump(mode="json")}
        | ({"failure": cost} if isinstance(cost := costs[name], str) else asdict(cost))
        for name, config in presets.items()
    ]
    return {"machine": _machine(), "num_frames": CLIP_FRAMES, "num_mels": NUM_MELS, "models": models}
