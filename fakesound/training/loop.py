"""The steps of an epoch, and what happens between them: figures told, checkpoints, two ways to stop early."""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from fakesound.core.progress import say
from fakesound.core.store import Place
from fakesound.training.config import TrainingConfig
from fakesound.training.data import Batch, ClipBank, StepPlan, plan_training
from fakesound.training.divergence import (
    DIVERGED_NAME,
    LOWER_IT,
    DivergedError,
    DivergenceWatch,
    write_diverged,
)
from fakesound.training.interruption import Agreement
from fakesound.training.prefetch import prefetched
from fakesound.training.progress import Extent, Means, StepWindow, mean_of_steps
from fakesound.training.ranks import Ranks
from fakesound.training.reports import Reports, StepRecord
from fakesound.training.resume import LiveState
from fakesound.training.schedule import lr_at
from fakesound.training.step import Stepper
from fakesound.training.upload import CheckpointWriter

PROGRESS_EVERY_S = 10.0
STEPS_AHEAD = 2  # whose batches are made while a step is taken

Prepared = tuple[StepPlan, list[Batch]]


class AskedToStopError(Exception):
    """All processes have agreed to stop, and the checkpoint is written."""


@dataclass(frozen=True, kw_only=True)
class EpochLoop:
    """One process's part of the steps of each epoch.

    Attributes:
        config: of the training.
        clips: to train on.
        extent: how many steps there are.
        live: what the steps change.
        stepper: takes them.
        agreement: whether to stop.
        writer: of checkpoints.
        place: of the training.
        ranks: this process among the others.
        reports: is told of steps.
    """

    config: TrainingConfig
    clips: ClipBank
    extent: Extent
    live: LiveState
    stepper: Stepper
    agreement: Agreement
    writer: CheckpointWriter
    place: Place
    ranks: Ranks
    reports: Reports

    @property
    def _steps_in_epoch(self) -> int:
        return self.extent.in_epoch(self.live.state.epoch)

    def run(self) -> None:
        """The steps of the epoch that are not done yet."""
        self.stepper.model.train()
        watch, window = DivergenceWatch(self.live.device), StepWindow(self.live.device)
        before_s = time.perf_counter()
        plans = self._plan(self.ranks.rank)[self.live.progress.steps : self._steps_in_epoch]
        with closing(prefetched(self._with_batches(plans), STEPS_AHEAD)) as prepared:
            for plan, batches in self._with_progress(prepared, len(plans)):
                waited_s = time.perf_counter() - before_s
                values = self.stepper.take(self.live.step, batches)
                self.live.count_step()
                step_s = time.perf_counter() - before_s
                self.live.progress.add(values, step_s, waited_s)
                window.add(values, step_s, waited_s, plan.num_clips)
                watch.see(self.live.step, values)
                before_s = time.perf_counter()
                self._after_step(watch, window)

    def _with_batches(self, plans: list[StepPlan]) -> Generator[Prepared, None, None]:
        epoch = self.live.state.epoch
        for plan in self.clips.at_hand(plans):
            yield plan, self.stepper.make_batches(plan, epoch)

    def _after_step(self, watch: DivergenceWatch, window: StepWindow) -> None:
        """What does not happen at every step: every process decides alike."""
        is_last = self.live.progress.steps == self._steps_in_epoch
        is_told = is_last or self.live.step % self.config.log_every_steps == 0
        every = self.config.checkpoint_every_steps
        # The last step of an epoch is saved with its score, after validation.
        is_saved = every is not None and self.live.step % every == 0 and not is_last
        self._stop_if_diverged(watch, may_wait=is_told or is_saved)
        if is_told:
            self._report_steps(window)
        if is_saved:
            self.live.save_within_epoch(self.writer)
        if self.agreement.now() if is_last else self.agreement.after_step():
            self._stop_if_diverged(watch, may_wait=True)
            self.stop_asked()

    def stop_asked(self) -> NoReturn:
        """Stop as was asked; every process must come here after the same step."""
        if self.live.state.step != self.live.step:
            self.live.save_within_epoch(self.writer)
        if self.ranks.is_first:
            self.writer.finish()
        raise AskedToStopError

    def _report_steps(self, window: StepWindow) -> None:
        means = mean_of_steps(window.sums, window.steps, self.ranks)
        if not all(np.isfinite(means)):
            self._stop_diverged(range(self.live.step - window.steps + 1, self.live.step + 1), means)
        if self.ranks.is_first:
            self.reports.on_step(
                StepRecord(
                    epoch=self.live.state.epoch + 1,
                    step=self.live.step,
                    total_steps=self.extent.total,
                    step_in_epoch=self.live.progress.steps,
                    steps_in_epoch=self._steps_in_epoch,
                    learning_rate=lr_at(self.live.step - 1, self.extent.total, self.config.schedule),
                    **means._asdict(),
                    clips_per_s=window.clips / window.seconds,
                    loader_share=window.loader_seconds / window.seconds,
                )
            )
        window.clear()

    def _stop_if_diverged(self, watch: DivergenceWatch, *, may_wait: bool) -> None:
        step = watch.first_bad_step(may_wait=may_wait)
        if step is not None:
            self._stop_diverged(range(step, step + 1), mean_of_steps(watch.values, 1, self.ranks))

    def _stop_diverged(self, steps: range, means: Means) -> NoReturn:
        """Every process must come here; nothing of these steps is saved but what they were."""
        where = f"step {steps[-1]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
        epoch = self.live.state.epoch + 1
        if self.ranks.is_first:
            before = (epoch - 1) * self.extent.per_epoch
            plans = [self._plan(rank) for rank in range(self.ranks.world_size)]
            chosen = [plan[step - 1 - before] for step in steps for plan in plans]
            clips = np.concatenate([plan.clips[~plan.is_padding] for plan in chosen])
            ids = self.clips.features.table["clip_id"].take(self.clips.rows[clips]).to_pylist()
            write_diverged(self.place, epoch=epoch, steps=steps, clip_ids=ids, figures=means._asdict())
        raise DivergedError(
            f"epoch {epoch}: loss or gradient is not finite at {where} ({means}); its clips are named in "
            f"{self.place.uri}/{DIVERGED_NAME}; {LOWER_IT}"
        )

    def _plan(self, rank: int) -> list[StepPlan]:
        """The steps of this epoch as process `rank` sees them."""
        return plan_training(
            self.clips,
            self.config,
            epoch=self.live.state.epoch,
            rank=rank,
            world_size=self.ranks.world_size,
        )

    def _with_progress(self, steps: Iterable[Prepared], num_steps: int) -> Iterator[Prepared]:
        last_s = time.monotonic()
        for done, step in enumerate(steps):
            if self.ranks.is_first and time.monotonic() - last_s >= PROGRESS_EVERY_S:
                say(f"epoch {self.live.state.epoch + 1}/{self.config.epochs}: step {done} of {num_steps}")
                last_s = time.monotonic()
            yield step
