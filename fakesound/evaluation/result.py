"""What an evaluation found, as one typed object that goes to JSON and back, and to a tidy CSV."""

import csv
import io
import math
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import JsonValue

from fakesound.core.config import Config
from fakesound.evaluation.trivial import WHOLE, TrivialRow
from fakesound.metrics.bootstrap import Estimate

ALL_REAL = "all_real"
ALL_FAKE = "all_fake"
ORACLE = "oracle_step"
INSIDE = "lengths of training"
OUTSIDE = "other lengths"

RESOLUTIONS_S = {"10ms": 0.01, "20ms": 0.02, "1s": 1.0}

CSV_COLUMNS = (
    *("model", "split", "part", "metric", "value", "low", "high"),
    *("num_clips", "num_forged", "num_sources"),
)


class Metric(Config):
    """A figure and its interval; None where it has no value or no interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """From a bootstrap estimate, NaN becoming None."""
        value, low, high = (x if math.isfinite(x) else None for x in estimate)
        return cls(value=value, low=low, high=high)


class Group(Config):
    """Figures of a set of clips: a whole view, or some of its forged clips with all of its genuine ones."""

    num_clips: int
    num_forged: int
    num_sources: int
    metrics: dict[str, Metric]


class OperatingPoint(Config):
    """Probabilities at and above which a clip, or a frame, is called forged."""

    clip: float
    frame: float


class ModelResult(Config):
    """One model: figures by view, and by view and part: an attack family, INSIDE or OUTSIDE."""

    operating_point: OperatingPoint
    splits: dict[str, Group]
    parts: dict[str, dict[str, Group]]


class TrivialFigure(Config):
    """AUC of a detector that knows only level, bandwidth, length and the like; near 0.5 if all is well."""

    view: str
    part: str = WHOLE
    level: Literal["clip", "frame"]
    fit: Literal["train", "cross"]
    auc: Metric

    @classmethod
    def of(cls, row: TrivialRow) -> Self:
        """From what a trivial detector reports."""
        auc = Metric.of(Estimate(row.auc, row.low, row.high))
        return cls(view=row.view, part=row.part, level=row.level, fit=row.fit, auc=auc)


class Method(Config):
    """How values and intervals were computed."""

    interval: str
    draws: int
    level: float
    seed: int
    step_frames: int
    hop_s: float
    operating_point: str
    pooling: str


class EvaluationResult(Config):
    """Everything an evaluation found.

    Attributes:
        models: by name, in the order in which they are shown.
        references: view -> `all_real`, `all_fake` or `oracle_step` -> figures that need no model.
        trivial: trivial detectors, by view, part and level.
        method: how the figures were made.
        facts: what was evaluated: digests, versions, commit, configuration (JSON values).
    """

    schema_version: Literal[3] = 3
    models: dict[str, ModelResult]
    references: dict[str, dict[str, Group]]
    trivial: tuple[TrivialFigure, ...]
    method: Method
    facts: dict[str, JsonValue]

    @property
    def splits(self) -> list[str]:
        """The views, in order."""
        return list(self.references)

    def to_json(self) -> str:
        """Indented JSON; `EvaluationResult.model_validate_json` reads it back."""
        return self.model_dump_json(indent=1) + "\n"

    def to_csv(self) -> str:
        """One row a model (or reference), view, part and metric."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for name, split, part, group in self._groups():
            sizes = (group.num_clips, group.num_forged, group.num_sources)
            for metric, figure in group.metrics.items():
                numbers = (figure.value, figure.low, figure.high)
                cells = ("" if number is None else f"{number:.6g}" for number in numbers)
                writer.writerow((name, split, part, metric, *cells, *sizes))
        return buffer.getvalue()

    def _groups(self) -> Iterator[tuple[str, str, str, Group]]:
        for name, model in self.models.items():
            for split, group in model.splits.items():
                yield name, split, WHOLE, group
                for part, members in model.parts[split].items():
                    yield name, split, part, members
        for split, references in self.references.items():
            for name, group in references.items():
                yield name, split, WHOLE, group
