"""The one trainer, for every model: from features to a detector bundle, in any number of processes.

    checkpoints/    see `fakesound.training.checkpoint`
    epochs.jsonl    what was reported of each epoch
    diverged.json   on what the last attempt diverged, if it did
    detector/       bundle of the best checkpoint

Interrupted at any moment and started again with as many processes, it ends with the weights it would have
had: the order of clips and augmentation follow from (seed, epoch, clip), the learning rate from the step, and
the rest (weights, optimiser, generators of every process, sums of the epoch so far) from the last checkpoint.

This file is the road from start to end; `loop` has the steps of an epoch, `step` a single one, `resume` what
checkpoints hold.
"""

import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

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
from fakesound.training.checkpoint import load_checkpoint, load_latest
from fakesound.training.config import TrainingConfig
from fakesound.training.data import ClipBank, steps_per_epoch
from fakesound.training.divergence import DIVERGED_NAME, LOWER_IT, DivergedError
from fakesound.training.execution import prepare
from fakesound.training.interruption import Agreement, InterruptedTrainingError, Interruption
from fakesound.training.loop import AskedToStopError, EpochLoop
from fakesound.training.progress import Extent, mean_of_steps
from fakesound.training.ranks import Ranks
from fakesound.training.reports import EpochRecord, Quiet, Reports
from fakesound.training.request import TrainingRequest, training_place
from fakesound.training.resume import LiveState
from fakesound.training.samples import Sample, samples_of
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
        agreement = Agreement(interruption or Interruption(), ranks, request.training.notice_s)
        training = _Training(
            request, ranks, place, writer=writer, agreement=agreement, reports=reports or Quiet()
        )
        is_done = training.run()
        stopped_at = training.live.step
        # Freed after the process group, its reducer would join gloo's threads while it holds the GIL that one
        # of them may be waiting for: a rank that never ends.
        del training
    if not is_done:
        raise InterruptedTrainingError(f"asked to stop: did so after step {stopped_at}, with a checkpoint")


class _Training:
    """One process's part of a training."""

    def __init__(
        self,
        request: TrainingRequest,
        ranks: Ranks,
        place: Place,
        *,
        writer: CheckpointWriter,
        agreement: Agreement,
        reports: Reports,
    ) -> None:
        self.request, self.ranks, self.place, self.writer = request, ranks, place, writer
        self.agreement, self.reports = agreement, reports
        self.config: TrainingConfig = request.training
        self.device = ranks.device()
        self.features = FeatureSet.open(request.features)
        roles = held_out(self.features.metadata["protocol"], request.unseen, self.features.table)
        self.train_clips = ClipBank.read(self.features, "train", roles)
        self.validation_clips = {name: ClipBank.read(self.features, name, roles) for name in PARTITIONS}
        self.extent = self._extent()
        mean_M, std_M = self.train_clips.statistics()
        front_end = self.features.config
        self.augmentation = Augmentation(
            config=self.config.augment,
            scale=front_end.scale,
            silence=front_end.silence,
            mean_M=mean_M,
            std_M=std_M,
            seed=self.config.seed,
        )
        torch.manual_seed(self.config.seed)  # the same initial weights on every process
        self.detector = build_detector(request.model, front_end.num_mels)
        self.detector.set_normalisation(torch.from_numpy(mean_M), torch.from_numpy(std_M))
        self.detector.to(self.device)
        self.live = LiveState(
            self.detector,
            self.config,
            request.key(),
            ranks=ranks,
            device=self.device,
            num_groups=self.train_clips.num_groups,
        )
        self.loop = self._loop()

    def run(self) -> bool:
        """Train to the end, and write it; False if asked to stop before."""
        self._resume()
        try:
            # A state without a score is that of an epoch that was not validated, be all its steps done.
            while self.live.state.step < self.extent.total or self.live.state.score is None:
                record, samples = self._run_epoch()
                if self.ranks.is_first:
                    self.reports.on_epoch(record)
                if samples:
                    self.reports.on_samples(record.epoch, samples)
        except AskedToStopError:
            return False
        if self.ranks.is_first:
            self._finish()
        return True

    def _extent(self) -> Extent:
        per_epoch = steps_per_epoch(len(self.train_clips), self.config.batch_clips)
        total = self.config.epochs * per_epoch
        return Extent(per_epoch, min(total, self.config.max_steps or total))

    def _loop(self) -> EpochLoop:
        stepper = Stepper(
            model=prepare(self.detector, self.config, self.ranks, self.device),
            detector=self.detector,
            optimizer=self.live.optimizer,
            config=self.config,
            total_steps=self.extent.total,
            ranks=self.ranks,
            device=self.device,
            clips=self.train_clips,
            augmentation=self.augmentation,
            groups=self.live.groups,
        )
        return EpochLoop(
            config=self.config,
            clips=self.train_clips,
            extent=self.extent,
            live=self.live,
            stepper=stepper,
            agreement=self.agreement,
            writer=self.writer,
            place=self.place,
            ranks=self.ranks,
            reports=self.reports,
        )

    def _resume(self) -> None:
        """Take up the newest whole checkpoint; the first process chooses it for all."""
        key = self.live.state.request_key
        found = load_latest(self.place, key) if self.ranks.is_first else None
        step = self.ranks.from_first(found.state.step if found else 0)
        if self.ranks.is_first:
            self.place.remove(DIVERGED_NAME)
        if not step:
            self._take_initial_weights()
            self.live.start()
            if self.ranks.is_first:
                self._announce()
            return
        self.live.take_up(found or load_checkpoint(self.place, step, key))
        if self.ranks.is_first:
            self._forget_a_lost_best()
            say(f"training goes on from step {step} of {self.extent.total}")

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
        if self.ranks.is_first:
            say(
                f"starting from {given.path}; drawn anew: {', '.join(start.untouched)}; position embeddings "
                f"keep {start.position_variance_kept:.0%} of their variance"
            )

    def _run_epoch(self) -> tuple[EpochRecord, list[Sample]]:
        """Train for the rest of the epoch, validate, write a checkpoint; clips to look at, if it is time."""
        self.loop.run()
        live, progress = self.live, self.live.progress
        means = mean_of_steps(progress.sums, progress.steps, self.ranks)
        started_s = time.monotonic()
        validation, samples = self._validate()
        score = validation_score(validation, means.loss, self.config.loss.alpha)
        best_score = live.state.best_score
        record = EpochRecord(
            epoch=live.state.epoch + 1,
            step=live.step,
            learning_rate=lr_at(live.step - 1, self.extent.total, self.config.schedule),
            **means._asdict(),
            validation=validation,
            score=score,
            is_best=best_score is None or score > best_score,
            seconds=progress.seconds + time.monotonic() - started_s,
            loader_seconds=progress.loader_seconds,
        )
        live.save_epoch(self.writer, record)
        if self.ranks.is_first:
            say(_summary(record, self.config.epochs))
        return record, samples

    def _validate(self) -> tuple[dict[str, float], list[Sample]]:
        self.ranks.share_buffers(self.detector)
        metrics, average = {}, self.live.average
        samples: list[Sample] = []
        for name, bank in self.validation_clips.items():
            with average.in_place_of_weights() if average else nullcontext():
                scores = score_partition(
                    self.detector,
                    bank,
                    batch_clips=max(1, self.config.batch_clips // self.ranks.world_size),
                    ranks=self.ranks,
                    device=self.device,
                    gives_up=lambda: self.agreement.is_asked_here,
                )
            if self.agreement.now():
                self.loop.stop_asked()
            if not (scores.clips_N.isfinite().all() and scores.frames_T.isfinite().all()):
                raise DivergedError(f"scores of {name} clips are not finite; {LOWER_IT}")
            figures = partition_metrics(bank, scores)
            metrics |= {f"{name}/{figure}": value for figure, value in figures.items()}
            if self._shows_samples:
                samples += samples_of(bank, scores)
        return metrics, samples

    @property
    def _shows_samples(self) -> bool:
        every, epoch = self.config.samples_every_epochs, self.live.state.epoch + 1
        is_time = every is not None and (epoch % every == 0 or epoch == self.config.epochs)
        return is_time and self.ranks.is_first

    def _finish(self) -> None:
        """Write the best detector as a bundle and declare the place whole."""
        self.writer.finish()
        state = self.live.state
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
            f"clips: {counts}; {self.extent.total} steps in {self.config.epochs} epochs; "
            f"{self.ranks.world_size} process(es) on {self.device.type}"
        )
        if self.config.precision == "bf16" and not self.loop.stepper.uses_bf16:
            say("precision bf16 needs a CUDA device: training in float32")

    def _forget_a_lost_best(self) -> None:
        """Where the best checkpoint was damaged, the one just loaded is the best there is."""
        state = self.live.state
        if not state.best_step:
            return
        try:
            load_checkpoint(self.place, state.best_step, state.request_key)
        except IntegrityError as error:
            say(f"warning: best checkpoint lost ({error}); that of step {state.step} takes its place")
            self.live.state = replace(state, best_step=state.step, best_score=state.score)


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
