"""The one trainer, for every model: from features to a detector bundle, in any number of processes.

    checkpoints/    see `fakesound.training.checkpoint`
    epochs.jsonl    what was reported of each epoch
    diverged.json   on what the last attempt diverged, if it did
    detector/       bundle of the best checkpoint

Interrupted at any moment and started again with as many processes, it ends with the weights it would have
had: the order of clips and augmentation follow from (seed, epoch, clip), the learning rate from the step, and
the rest (weights, optimiser, generators of every process, sums of the epoch so far) from the last checkpoint.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.progress import say
from fakesound.core.store import Place, Store
from fakesound.corpora.protocol import held_out
from fakesound.features.reader import FeatureSet
from fakesound.models.build import build_detector
from fakesound.models.bundle import save_bundle
from fakesound.models.detector import count_parameters
from fakesound.training.augment import Augmentation
from fakesound.training.checkpoint import Checkpoint, TrainingState, load_checkpoint, load_latest
from fakesound.training.config import TrainingConfig
from fakesound.training.data import Batch, ClipBank, StepPlan, collate, plan_epoch, steps_per_epoch
from fakesound.training.divergence import (
    DIVERGED_NAME,
    LOWER_IT,
    DivergedError,
    DivergenceWatch,
    write_diverged,
)
from fakesound.training.ema import WeightAverage
from fakesound.training.execution import prepare
from fakesound.training.interruption import Agreement, InterruptedTrainingError, Interruption
from fakesound.training.optimizer import build_optimizer, load_optimizer, optimizer_tensors
from fakesound.training.progress import EpochProgress, Means, StepWindow, mean_of_steps
from fakesound.training.randomness import random_states, restore_generators, seed_generators
from fakesound.training.ranks import Ranks
from fakesound.training.reports import EpochRecord, Quiet, Reports, StepRecord
from fakesound.training.request import TrainingRequest, training_place
from fakesound.training.schedule import lr_at
from fakesound.training.step import Stepper
from fakesound.training.upload import CheckpointWriter
from fakesound.training.validate import (
    PARTITIONS,
    SCORE_PARTS,
    partition_metrics,
    score_partition,
    validation_score,
)

DETECTOR_FOLDER = "detector"
PROGRESS_EVERY_S = 10.0


def train(
    request: TrainingRequest,
    ranks: Ranks,
    reports: Reports | None = None,
    interruption: Interruption | None = None,
) -> None:
    """Train until done, from the last checkpoint if there is one; return at once if already done.

    Every process of the training calls this. The first one writes, speaks and reports.

    Args:
        request: what to train on what.
        ranks: this process among the others.
        reports: is told of steps and epochs; None tells nobody.
        interruption: may ask to stop, on any process; None never does.

    Raises:
        UserError: unusable features, none to train on, or a store that takes no checkpoints.
        DivergedError: the loss or its gradient became NaN or infinite.
        InterruptedTrainingError: asked to stop, on every process; a checkpoint is written.
    """
    place = training_place(Store(request.store_url), request)
    if place.is_complete():
        return
    keep = request.training.keep_checkpoints
    with ranks.connected(), CheckpointWriter(place, keep) as writer:
        training = _Training(request, ranks, place, writer, interruption or Interruption())
        is_done = training.run(reports or Quiet())
        stopped_at = training.step
        # Freed after the process group, its reducer would join gloo's threads while it holds the GIL that one
        # of them may be waiting for: a rank that never ends.
        del training
    if not is_done:
        raise InterruptedTrainingError(f"asked to stop: did so after step {stopped_at}, with a checkpoint")


class _AskedToStopError(Exception):
    """All processes have agreed to stop, and written a checkpoint."""


class _Training:
    """One process's part of a training."""

    def __init__(
        self,
        request: TrainingRequest,
        ranks: Ranks,
        place: Place,
        writer: CheckpointWriter,
        interruption: Interruption,
    ) -> None:
        self.request, self.ranks, self.place, self.writer = request, ranks, place, writer
        self.config: TrainingConfig = request.training
        self.agreement = Agreement(interruption, ranks, self.config.notice_s)
        self.device = ranks.device()
        self.features = FeatureSet.open(request.features)
        roles = held_out(self.features.metadata["protocol"], request.unseen, self.features.table)
        self.train_clips = ClipBank.read(self.features, "train", roles)
        self.validation_clips = {name: ClipBank.read(self.features, name, roles) for name in PARTITIONS}
        mean_M, std_M = self.train_clips.statistics()
        front_end = self.features.config
        self.augmentation = Augmentation(
            config=self.config.augment,
            scale=front_end.scale,
            mean_M=mean_M,
            std_M=std_M,
            seed=self.config.seed,
        )
        torch.manual_seed(self.config.seed)  # the same initial weights on every process
        self.detector = build_detector(request.model, front_end.num_mels)
        self.detector.set_normalisation(torch.from_numpy(mean_M), torch.from_numpy(std_M))
        self.detector.to(self.device)
        self.optimizer = build_optimizer(self.detector, self.config)
        self.average = self._average()
        self.stepper = Stepper(
            model=prepare(self.detector, self.config, ranks, self.device),
            detector=self.detector,
            optimizer=self.optimizer,
            config=self.config,
            total_steps=self.total_steps,
            ranks=ranks,
            device=self.device,
            make_batch=self._make_batch,
        )
        self.step = 0
        self.progress = EpochProgress(self.device)
        self.state = TrainingState(
            request_key=request.key(),
            step=0,
            epoch=0,
            epoch_so_far=None,
            score=None,
            best_step=0,
            best_score=None,
            random_states=[],
            records=[],
        )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        steps = self.config.epochs * self._steps_per_epoch
        return min(steps, self.config.max_steps or steps)

    @property
    def _steps_per_epoch(self) -> int:
        return steps_per_epoch(len(self.train_clips), self.config.batch_clips)

    @property
    def _steps_in_epoch(self) -> int:
        """Of this epoch, which the end of the training may cut short."""
        return min(self._steps_per_epoch, self.total_steps - self.state.epoch * self._steps_per_epoch)

    def run(self, reports: Reports) -> bool:
        """Train to the end, and write it; False if asked to stop before."""
        self._resume()
        try:
            # A state without a score is that of an epoch that was not validated, be all its steps done.
            while self.state.step < self.total_steps or self.state.score is None:
                record = self._run_epoch(reports)
                if self.ranks.is_first:
                    reports.on_epoch(record)
        except _AskedToStopError:
            return False
        if self.ranks.is_first:
            self._finish()
        return True

    def _average(self) -> WeightAverage | None:
        decay = self.config.ema_decay
        return None if decay is None else WeightAverage(self.detector, decay)

    def _make_batch(self, plan: StepPlan) -> Batch:
        return collate(self.train_clips, plan, self.augmentation, self.state.epoch)

    def _resume(self) -> None:
        """Take up the newest whole checkpoint; the first process chooses it for all."""
        found = load_latest(self.place, self.state.request_key) if self.ranks.is_first else None
        step = self.ranks.from_first(found.state.step if found else 0)
        if self.ranks.is_first:
            self.place.remove(DIVERGED_NAME)
        if not step:
            self._take_initial_weights()
            seed_generators(self.config.seed, self.ranks.rank, 0)
            if self.ranks.is_first:
                self._announce()
            return
        checkpoint = found or load_checkpoint(self.place, step, self.state.request_key)
        self.detector.load_state_dict(checkpoint.part("model"))
        load_optimizer(self.optimizer, self.detector, checkpoint.part("optimizer"))
        if self.average is not None:
            self.average.load(checkpoint.part("ema"))
        self.state, self.step = checkpoint.state, checkpoint.state.step
        if self.state.epoch_so_far is not None:
            self.progress.restore(self.state.epoch_so_far, self.ranks)
        if len(self.state.random_states) == self.ranks.world_size:
            restore_generators(self.state.random_states[self.ranks.rank], self.device)
        else:  # another number of processes: nobody's state is anybody's
            seed_generators(self.config.seed, self.ranks.rank, step)
        if self.ranks.is_first:
            self._forget_a_lost_best()
            say(f"training goes on from step {step} of {self.total_steps}")

    def _take_initial_weights(self) -> None:
        """On every process alike; what they do not fill stays as it was drawn."""
        given = self.config.initial_weights
        if given is None:
            return
        from fakesound.models.imagenet import load_vim_imagenet
        from fakesound.models.vim import VisionMamba

        network = self.detector.network
        if not isinstance(network, VisionMamba):
            raise UserError(
                f"training.initial_weights are for models of kind vim, not {self.request.model.kind}"
            )
        start = load_vim_imagenet(given.path, network, sha256=given.sha256)
        self.average = self._average()
        if self.ranks.is_first:
            say(
                f"starting from {given.path}; drawn anew: {', '.join(start.untouched)}; position embeddings "
                f"keep {start.position_variance_kept:.0%} of their variance"
            )

    def _run_epoch(self, reports: Reports) -> EpochRecord:
        """Train for the rest of the epoch, validate, write a checkpoint."""
        self._train_epoch(reports)
        means = mean_of_steps(self.progress.sums, self.progress.steps, self.ranks)
        started_s = time.monotonic()
        validation = self._validate()
        score = validation_score(validation, means.loss)
        best_score = self.state.best_score
        record = EpochRecord(
            epoch=self.state.epoch + 1,
            step=self.step,
            learning_rate=lr_at(self.step - 1, self.total_steps, self.config.schedule),
            **means._asdict(),
            validation=validation,
            score=score,
            is_best=best_score is None or score > best_score,
            seconds=self.progress.seconds + time.monotonic() - started_s,
            loader_seconds=self.progress.loader_seconds,
        )
        self.state = replace(
            self.state,
            epoch=record.epoch,
            epoch_so_far=None,
            score=score,
            best_step=record.step if record.is_best else self.state.best_step,
            best_score=score if record.is_best else best_score,
            records=[*self.state.records, asdict(record)],
        )
        self.progress = EpochProgress(self.device)
        self._checkpoint()
        if self.ranks.is_first:
            say(_summary(record, self.config.epochs))
        return record

    def _train_epoch(self, reports: Reports) -> None:
        """The steps of the epoch that are not done yet."""
        self.stepper.model.train()
        watch, window = DivergenceWatch(self.device), StepWindow(self.device)
        before_s = time.perf_counter()
        for plan in self._with_progress(self._steps_to_do()):
            waited_s = time.perf_counter() - before_s
            values, loader_s = self.stepper.take(self.step, plan)
            if self.average is not None:
                self.average.update(self.step)
            self.step += 1
            step_s = time.perf_counter() - before_s
            self.progress.add(values, step_s, waited_s + loader_s)
            window.add(values, step_s, waited_s + loader_s, plan.num_clips)
            watch.see(self.step, values)
            before_s = time.perf_counter()
            self._after_step(watch, window, reports)

    def _after_step(self, watch: DivergenceWatch, window: StepWindow, reports: Reports) -> None:
        """What does not happen at every step: every process decides alike."""
        is_last = self.progress.steps == self._steps_in_epoch
        is_told = is_last or self.step % self.config.log_every_steps == 0
        every = self.config.checkpoint_every_steps
        is_saved = every is not None and self.step % every == 0 and not is_last  # the epoch's end is anyway
        diverged_at = watch.first_bad_step(may_wait=is_told or is_saved)
        if diverged_at is not None:
            steps = range(diverged_at, diverged_at + 1)
            self._stop_diverged(steps, mean_of_steps(watch.values, 1, self.ranks))
        if is_told:
            self._report_steps(window, reports)
        if is_saved:
            self._checkpoint_within_epoch()
        if self.agreement.now() if is_last else self.agreement.after_step():
            self._stop_asked()

    def _steps_to_do(self) -> list[StepPlan]:
        return self._plan(self.ranks.rank)[self.progress.steps : self._steps_in_epoch]

    def _plan(self, rank: int) -> list[StepPlan]:
        """The steps of this epoch as process `rank` sees them."""
        return plan_epoch(
            self.train_clips.num_frames,
            self.train_clips.row_groups,
            batch_clips=self.config.batch_clips,
            seed=self.config.seed,
            epoch=self.state.epoch,
            rank=rank,
            world_size=self.ranks.world_size,
        )

    def _with_progress(self, steps: list[StepPlan]) -> Iterator[StepPlan]:
        last_s = time.monotonic()
        for done, step in enumerate(self.train_clips.at_hand(steps)):
            if self.ranks.is_first and time.monotonic() - last_s >= PROGRESS_EVERY_S:
                say(f"epoch {self.state.epoch + 1}/{self.config.epochs}: step {done} of {len(steps)}")
                last_s = time.monotonic()
            yield step

    def _report_steps(self, window: StepWindow, reports: Reports) -> None:
        means = mean_of_steps(window.sums, window.steps, self.ranks)
        if not all(np.isfinite(means)):
            self._stop_diverged(range(self.step - window.steps + 1, self.step + 1), means)
        if self.ranks.is_first:
            reports.on_step(
                StepRecord(
                    epoch=self.state.epoch + 1,
                    step=self.step,
                    total_steps=self.total_steps,
                    step_in_epoch=self.progress.steps,
                    steps_in_epoch=self._steps_in_epoch,
                    learning_rate=lr_at(self.step - 1, self.total_steps, self.config.schedule),
                    **means._asdict(),
                    clips_per_s=window.clips / window.seconds,
                    loader_share=window.loader_seconds / window.seconds,
                )
            )
        window.clear()

    def _stop_diverged(self, steps: range, means: Means) -> NoReturn:
        """Every process must come here; nothing of these steps is saved but what they were."""
        where = f"step {steps[-1]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
        if self.ranks.is_first:
            before = self.state.epoch * self._steps_per_epoch
            plans = [self._plan(rank) for rank in range(self.ranks.world_size)]
            chosen = [plan[step - 1 - before] for step in steps for plan in plans]
            clips = np.concatenate([plan.clips[~plan.is_padding] for plan in chosen])
            ids = self.features.table["clip_id"].take(self.train_clips.rows[clips]).to_pylist()
            write_diverged(
                self.place, epoch=self.state.epoch + 1, steps=steps, clip_ids=ids, figures=means._asdict()
            )
        raise DivergedError(
            f"epoch {self.state.epoch + 1}: loss or gradient is not finite at {where} ({means}); its clips "
            f"are in {self.place.uri}/{DIVERGED_NAME}; {LOWER_IT}"
        )

    def _stop_asked(self) -> NoReturn:
        """Every process must come here, after the same step."""
        if self.state.step != self.step:
            self._checkpoint_within_epoch()
        if self.ranks.is_first:
            self.writer.finish()
        raise _AskedToStopError

    def _validate(self) -> dict[str, float]:
        self.ranks.share_buffers(self.detector)
        metrics = {}
        for name, bank in self.validation_clips.items():
            with self.average.in_place_of_weights() if self.average else nullcontext():
                scores = score_partition(
                    self.detector,
                    bank,
                    batch_clips=max(1, self.config.batch_clips // self.ranks.world_size),
                    ranks=self.ranks,
                    device=self.device,
                    gives_up=lambda: self.agreement.is_asked_here,
                )
            if self.agreement.now():
                self._stop_asked()
            if not (scores.clips_N.isfinite().all() and scores.frames_T.isfinite().all()):
                raise DivergedError(f"scores of {name} clips are not finite; {LOWER_IT}")
            figures = partition_metrics(bank, scores)
            metrics |= {f"{name}/{figure}": value for figure, value in figures.items()}
        return metrics

    def _checkpoint_within_epoch(self) -> None:
        self.state = replace(self.state, epoch_so_far=self.progress.state(self.ranks), score=None)
        self._checkpoint()

    def _checkpoint(self) -> None:
        self.state = replace(self.state, step=self.step, random_states=random_states(self.ranks, self.device))
        if not self.ranks.is_first:
            return
        parts = {
            "model": self.detector.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.detector),
            "ema": self.average.tensors() if self.average else {},
        }
        tensors = {f"{part}.{name}": value for part, named in parts.items() for name, value in named.items()}
        self.writer.write(Checkpoint(tensors, self.state))

    def _finish(self) -> None:
        """Write the best detector as a bundle and declare the place whole."""
        self.writer.finish()
        state = self.state
        best = load_checkpoint(self.place, state.best_step, state.request_key)
        self.detector.load_state_dict(best.part("model") | best.part("ema"))
        facts = {
            "score": state.best_score,
            "step": state.best_step,
            "epoch": best.state.epoch,
            "num_parameters": count_parameters(self.detector),
            "features_digest": self.request.features.digest,
            "corpus_digest": self.features.metadata["corpus"]["digest"],
            "training": self.config.model_dump(mode="json"),
            "unseen": list(self.request.unseen),
            "world_size": self.ranks.world_size,
        }
        with tempfile.TemporaryDirectory() as folder:
            save_bundle(
                Path(folder),
                detector=self.detector,
                config=self.request.model,
                num_mels=self.features.config.num_mels,
                front_end=self.features.config.model_dump(mode="json"),
                facts=facts,
            )
            for path in sorted(Path(folder).iterdir()):
                self.place.write_bytes(f"{DETECTOR_FOLDER}/{path.name}", path.read_bytes())
        self.place.complete({**facts, "model": self.request.model.model_dump(mode="json")})

    def _announce(self) -> None:
        clips = {"train": self.train_clips, **self.validation_clips}
        counts = ", ".join(f"{len(bank)} {name}" for name, bank in clips.items())
        say(
            f"training {self.request.model.kind}: {count_parameters(self.detector):,} parameters; "
            f"clips: {counts}; {self.total_steps} steps in {self.config.epochs} epochs; "
            f"{self.ranks.world_size} process(es) on {self.device.type}"
        )
        if self.config.precision == "bf16" and not self.stepper.uses_bf16:
            say("precision bf16 needs a CUDA device: training in float32")

    def _forget_a_lost_best(self) -> None:
        """Where the best checkpoint was damaged, the one just loaded is the best there is."""
        state = self.state
        if not state.best_step:
            return
        try:
            load_checkpoint(self.place, state.best_step, state.request_key)
        except IntegrityError as error:
            say(f"warning: best checkpoint lost ({error}); that of step {state.step} takes its place")
            self.state = replace(state, best_step=state.step, best_score=state.score)


def _summary(record: EpochRecord, epochs: int) -> str:
    figures = "".join(
        f", {name} {record.validation[name]:.3f}"
        for name in (f"{partition}/{part}" for partition in PARTITIONS for part in SCORE_PARTS)
        if name in record.validation
    )
    best = " (best)" if record.is_best else ""
    return (
        f"epoch {record.epoch}/{epochs}: loss {record.loss:.4f} (clip {record.clip_loss:.4f}, frame "
        f"{record.frame_loss:.4f}){figures}, "
        f"validation_score={record.score:.6f}{best}, {record.seconds:.1f} s"
    )
