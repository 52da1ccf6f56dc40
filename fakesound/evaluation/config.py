"""Parameters of evaluation and detection. Light: the CLI loads this without torch."""

from typing import Self

from pydantic import Field, model_validator

from fakesound.core.config import Config


class EvaluationConfig(Config):
    """How figures are made from predictions.

    Attributes:
        seed: of the bootstrap.
        bootstrap_draws: resamples of the sources.
        interval_level: of the intervals, 0.95 for 95%.
        batch_clips: clips scored at once.
    """

    seed: int = Field(default=0, ge=0)
    bootstrap_draws: int = Field(default=1000, ge=100, le=100_000)
    interval_level: float = Field(default=0.95, gt=0, lt=1)
    batch_clips: int = Field(default=16, ge=1)


class DetectionConfig(Config):
    """How one file is judged.

    Attributes:
        window_s: longest stretch that the model sees at once, at most the length of its training clips.
        overlap_s: of neighbouring windows; frame scores are cross-faded over it.
        min_region_s: shorter regions are dropped.
        merge_gap_s: regions closer than this become one.
    """

    window_s: float = Field(default=10.0, ge=1.0, le=60.0)
    overlap_s: float = Field(default=1.0, ge=0.1)
    min_region_s: float = Field(default=0.04, ge=0)
    merge_gap_s: float = Field(default=0.05, ge=0)

    @model_validator(mode="after")
    def _windows_advance(self) -> Self:
        if self.overlap_s > self.window_s / 2:
            raise ValueError("overlap_s must not exceed half of window_s")
        return self
