"""A training's progress on a terminal: ranks write marked lines, the launcher turns them into a bar.

Ranks have no terminal of their own; PROGRESS_LINES in their environment asks for the marked lines.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fakesound.core.progress import say
from fakesound.training.reports import EpochRecord, Reports, StepRecord
from fakesound.training.samples import Sample

PROGRESS_LINES = "FAKESOUND_PROGRESS_LINES"
PROGRESS_MARK = "fakesound~ "


class WithProgressLines:
    """Writes every report of steps as a marked line, and passes all reports on."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def on_step(self, record: StepRecord) -> None:
        """See `Reports.on_step`."""
        say(PROGRESS_MARK + json.dumps(asdict(record)))
        self._reports.on_step(record)

    def on_epoch(self, record: EpochRecord) -> None:
        """See `Reports.on_epoch`."""
        self._reports.on_epoch(record)

    def on_samples(self, epoch: int, samples: Sequence[Sample]) -> None:
        """See `Reports.on_samples`."""
        self._reports.on_samples(epoch, samples)


@contextmanager
def training_bar(show: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """For the time of the block, what to do with a line of a rank: move the bar, or show the line above it.

    Off a terminal there is no bar, nor are marked lines asked for, and every line goes to `show`.

    Args:
        show: writes a line to stdout or stderr.
    """
    if not sys.stdout.isatty():
        yield show
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    os.environ[PROGRESS_LINES] = "1"
    try:
        with Progress(*columns, console=Console(file=sys.stdout)) as bar:
            yield _Bar(bar, show).take
    finally:
        del os.environ[PROGRESS_LINES]


class _Bar:
    def __init__(self, bar: Progress, show: Callable[[str], None]) -> None:
        self._bar, self._show = bar, show
        self._task: TaskID | None = None

    def take(self, line: str) -> None:
        """Move the bar, or show the line."""
        _, found, text = line.partition(PROGRESS_MARK)
        if not found:
            self._show(line)  # rich puts what is written to stdout or stderr above the bar
            return
        record = json.loads(text)
        if self._task is None:
            self._task = self._bar.add_task("", total=record["total_steps"], figures="")
        self._bar.update(
            self._task,
            description=f"epoch {record['epoch']}",
            completed=record["step"],
            figures=_figures(record),
        )


def _figures(record: dict[str, Any]) -> str:
    return (
        f"{record['clips_per_s']:.1f} clips/s, loss {record['loss']:.3f} (clip {record['clip_loss']:.3f}, "
        f"frame {record['frame_loss']:.3f})"
    )
