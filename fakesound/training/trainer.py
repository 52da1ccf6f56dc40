"""The one trainer, for every model: from features to a detector bundle, in any number of processes.

    checkpoints/    see `fakesound.training.checkpoint`
    epochs.jsonl    what was reported of each epoch
    detector/       bundle of the best checkpoint

Interrupted at any moment and started again with as many processes, it ends with the weights it would have
had: the order of clips and augmentation follow from (seed, epoch, clip), the learning rate from the step, and
the rest (weights, optimiser, generators of every process) from the checkpoint at the end of each epoch.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.progress import say
from fakesound.core.store import Place, Store
from fakesound.corpora.protocol import held_out
from fakesound.features.reader import FeatureSet
from fakesound.models.build import build_detector
from fakesound.models.bundle import save_bundle
from fakesound.models.detector import count_parameters
from fakesound.training.augment import Augmentation
from fakesound.training.checkpoint import (
    Checkpoint,
    TrainingState,
    decode_random_state,
    encode_random_state,
    encode_records,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)
from fakesound.training.config import TrainingConfig
from fakesound.training.data import Batch, ClipBank, StepPlan, collate, plan_training, steps_per_epoch
from fakesound.training.loss import GroupWeights, detection_loss
from fakesound.training.optimizer import build_optimizer, load_optimizer, optimizer_tensors
from fakesound.training.ranks import Ranks
from fakesound.training.request import TrainingRequest, training_place
from fakesound.training.schedule import lr_at
from fakesound.training.validate import (
    PARTITIONS,
    SCORE_PARTS,
    partition_metrics,
    score_partition,
    validation_score,
)

EPOCHS_NAME = "epochs.jsonl"
DETECTOR_FOLDER = "detector"
PROGRESS_EVERY_S = 10.0
LOWER_IT = "lower training.schedule.peak_lr. The last checkpoint is from before that"


class DivergedError(UserError):
    """The loss or its gradient is no longer a finite number."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What is told of an epoch.

    Attributes:
        epoch: 1 for the first.
        step: optimiser steps done at its end.
        learning_rate: of its last step.
        loss: mean over steps.
        clip_loss: mean over steps.
        frame_loss: mean over steps.
        gradient_norm: mean over steps, before clipping.
        validation: `partition/figure` -> value, see `validate.partition_metrics`.
        score: see `validate.validation_score`.
        is_best: whether no earlier epoch scored as high.
        seconds: wall time, validation included.
        loader_seconds: of these, spent on making batches (first process).
    """

    epoch: int
    step: int
    learning_rate: float
    loss: float
    clip_loss: float
    frame_loss: float
    gradient_norm: float
    validation: dict[str, float] = field(default_factory=dict)
    score: float
    is_best: bool
    seconds: float
    loader_seconds: float


Report = Callable[[EpochRecord], None]


class _Means(NamedTuple):
    loss: float
    clip_loss: float
    frame_loss: float
    gradient_norm: float


def train(request: TrainingRequest, ranks: Ranks, report: Report = lambda record: None) -> None:
    """Train until done, from the last checkpoint if there is one; return at once if already done.

    Every process of the training calls this. The first one writes, speaks and reports.

    Args:
        request: what to train on what.
        ranks: this process among the others.
        report: called after each epoch's checkpoint. What it raises ends the training, which can be resumed.
            Epochs that an interrupted run had reported are not reported again: `epochs.jsonl` has them all.

    Raises:
        UserError: unusable features, or none to train on.
        DivergedError: the loss or its gradient became NaN or infinite.
    """
    place = training_place(Store(request.store_url), request)
    if place.is_complete():
        return
    with ranks.connected():
        training = _Training(request, ranks, place)
        training.resume()
        while training.state.step < training.total_steps:
            record = training.run_epoch()
            if ranks.is_first:
                report(record)
        if ranks.is_first:
            training.finish()
        # Freed after the process group, its reducer would join gloo's threads while it holds the GIL that one
        # of them may be waiting for: a rank that never ends.
        del training


class _Training:
    """One process's part of a training."""

    def __init__(self, request: TrainingRequest, ranks: Ranks, place: Place) -> None:
        self.request, self.ranks, self.place = request, ranks, place
        self.config: TrainingConfig = request.training
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
            silence=front_end.silence,
            mean_M=mean_M,
            std_M=std_M,
            seed=self.config.seed,
        )
        torch.manual_seed(self.config.seed)  # the same initial weights on every process
        self.detector = build_detector(request.model, front_end.num_mels)
        self.detector.set_normalisation(torch.from_numpy(mean_M), torch.from_numpy(std_M))
        self.detector.to(self.device)
        self.optimizer = build_optimizer(self.detector, self.config)
        self.model = self._distributed()
        self.groups = self._group_weights()
        self.state = TrainingState(
            request_key=request.key(),
            step=0,
            epoch=0,
            step_in_epoch=0,
            score=-np.inf,
            best_step=0,
            best_score=-np.inf,
            random_states=[],
            records=[],
        )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        steps = self.config.epochs * steps_per_epoch(len(self.train_clips), self.config.batch_clips)
        return min(steps, self.config.max_steps or steps)

    def resume(self) -> None:
        """Take up the newest whole checkpoint; the first process chooses it for all."""
        found = load_latest(self.place, self.state.request_key) if self.ranks.is_first else None
        step = self.ranks.from_first(found.state.step if found else 0)
        if not step:
            self._take_initial_weights()
            self._seed_generators()
            if self.ranks.is_first:
                self._announce()
            return
        checkpoint = found or load_checkpoint(self.place, step, self.state.request_key)
        self.detector.load_state_dict(_with_prefix("model.", checkpoint.tensors))
        load_optimizer(self.optimizer, self.detector, _with_prefix("optimizer.", checkpoint.tensors))
        if self.groups is not None:
            self.groups.load(_with_prefix("loss.", checkpoint.tensors))
        self.state = checkpoint.state
        self._restore_generators()
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
        if self.ranks.is_first:
            say(
                f"starting from {given.path}; drawn anew: {', '.join(start.untouched)}; position embeddings "
                f"keep {start.position_variance_kept:.0%} of their variance"
            )

    def run_epoch(self) -> EpochRecord:
        """Train for the rest of the epoch, validate, write a checkpoint."""
        started_s = time.monotonic()
        means, loader_s = self._train_epoch()
        validation = self._validate()
        score = validation_score(validation, means.loss, self.config.loss.alpha)
        step = self.state.step + self._steps_left_in_epoch()
        record = EpochRecord(
            epoch=self.state.epoch + 1,
            step=step,
            learning_rate=lr_at(step - 1, self.total_steps, self.config.schedule),
            **means._asdict(),
            validation=validation,
            score=score,
            is_best=score > self.state.best_score,
            seconds=time.monotonic() - started_s,
            loader_seconds=loader_s,
        )
        self._checkpoint(record)
        if self.ranks.is_first:
            say(_summary(record, self.config.epochs))
        return record

    def finish(self) -> None:
        """Write the best detector as a bundle and declare the place whole."""
        state = self.state
        best = load_checkpoint(self.place, state.best_step, state.request_key)
        self.detector.load_state_dict(_with_prefix("model.", best.tensors))
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
        self.place.write_bytes(EPOCHS_NAME, encode_records(state.records))
        self.place.complete({**facts, "model": self.request.model.model_dump(mode="json")})

    def _distributed(self) -> nn.Module:
        if self.ranks.world_size == 1:
            return self.detector
        # Buffers are shared once an epoch, before anything reads them, not at every step.
        return DistributedDataParallel(
            self.detector,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )

    def _group_weights(self) -> GroupWeights | None:
        loss = self.config.loss
        return GroupWeights(loss, self.train_clips.num_groups, self.device) if loss.group_dro_step else None

    def _announce(self) -> None:
        clips = {"train": self.train_clips, **self.validation_clips}
        counts = ", ".join(f"{len(bank)} {name}" for name, bank in clips.items())
        say(
            f"training {self.request.model.kind}: {count_parameters(self.detector):,} parameters; "
            f"clips: {counts}; {self.total_steps} steps in {self.config.epochs} epochs; "
            f"{self.ranks.world_size} process(es) on {self.device.type}"
        )
        if self.config.precision == "bf16" and not self._uses_bf16:
            say("precision bf16 needs a CUDA device: training in float32")

    @property
    def _uses_bf16(self) -> bool:
        return self.config.precision == "bf16" and self.device.type == "cuda"

    def _steps_left_in_epoch(self) -> int:
        steps = steps_per_epoch(len(self.train_clips), self.config.batch_clips)
        return min(steps - self.state.step_in_epoch, self.total_steps - self.state.step)

    def _train_epoch(self) -> tuple[_Means, float]:
        self.model.train()
        plan = plan_training(
            self.train_clips,
            self.config,
            epoch=self.state.epoch,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        first = self.state.step_in_epoch
        steps = plan[first : first + self._steps_left_in_epoch()]
        sums = torch.zeros(len(_Means._fields), dtype=torch.float64, device=self.device)
        loader_s = 0.0
        at_hand = self.train_clips.at_hand(steps)
        before_s = time.perf_counter()
        for number, step_plan in enumerate(self._with_progress(at_hand, len(steps)), start=self.state.step):
            batch = collate(self.train_clips, step_plan, self.augmentation, self.state.epoch).to(self.device)
            loader_s += time.perf_counter() - before_s
            sums += self._step(number, batch)
            before_s = time.perf_counter()
        # Losses are shares that add up over processes; every process has the same gradient norm.
        sums[3] /= self.ranks.world_size
        means = _Means(*(self.ranks.sum(sums) / len(steps)).tolist())
        if not all(np.isfinite(means)):
            raise DivergedError(
                f"epoch {self.state.epoch + 1}: loss or gradient is not finite ({means}); {LOWER_IT}"
            )
        return means, loader_s

    def _step(self, number: int, batch: Batch) -> Tensor:
        """One optimiser step; returns (loss, clip loss, frame loss, gradient norm), still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(number, self.total_steps, self.config.schedule)
        with torch.autocast("cuda", torch.bfloat16, enabled=self._uses_bf16):
            output = self.model(batch.features_BFM, batch.mask_BF)
        if self.groups is None:
            losses = detection_loss(output, batch.targets, self.config.loss)
        else:
            losses = self.groups(output, batch.targets)
        # Gradients are averaged over processes, but the losses are shares that add up.
        (losses.total * self.ranks.world_size).backward()
        norm = nn.utils.clip_grad_norm_(self.detector.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if self.groups is not None:
            self.groups.finish_step(self.ranks.sum)
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack([*(loss.detach() for loss in losses), norm])

    def _with_progress(self, steps: Iterator[StepPlan], num_steps: int) -> Iterator[StepPlan]:
        last_s = time.monotonic()
        for done, step in enumerate(steps):
            if self.ranks.is_first and time.monotonic() - last_s >= PROGRESS_EVERY_S:
                say(f"epoch {self.state.epoch + 1}/{self.config.epochs}: step {done} of {num_steps}")
                last_s = time.monotonic()
            yield step

    def _validate(self) -> dict[str, float]:
        self.ranks.share_buffers(self.detector)
        metrics = {}
        for name, bank in self.validation_clips.items():
            scores = score_partition(
                self.detector,
                bank,
                batch_clips=max(1, self.config.batch_clips // self.ranks.world_size),
                ranks=self.ranks,
                device=self.device,
            )
            if not (scores.clips_N.isfinite().all() and scores.frames_T.isfinite().all()):
                raise DivergedError(f"scores of {name} clips are not finite; {LOWER_IT}")
            figures = partition_metrics(bank, scores)
            metrics |= {f"{name}/{figure}": value for figure, value in figures.items()}
        return metrics

    def _checkpoint(self, record: EpochRecord) -> None:
        random_states = self._random_states()
        old = self.state
        self.state = replace(
            old,
            step=record.step,
            epoch=old.epoch + 1,
            step_in_epoch=0,
            score=record.score,
            best_step=record.step if record.is_best else old.best_step,
            best_score=record.score if record.is_best else old.best_score,
            random_states=random_states,
            records=[*old.records, asdict(record)],
        )
        if not self.ranks.is_first:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.detector.state_dict().items()}
        optimizer = optimizer_tensors(self.optimizer, self.detector)
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.items()}
        if self.groups is not None:
            tensors |= {f"loss.{name}": tensor for name, tensor in self.groups.tensors().items()}
        save_checkpoint(self.place, Checkpoint(tensors, self.state), keep=self.config.keep_checkpoints)
        self.place.write_bytes(EPOCHS_NAME, encode_records(self.state.records))

    def _random_states(self) -> list[dict[str, str | None]]:
        """State of torch's generators on every process."""
        on_cpu = self.ranks.gather(torch.get_rng_state().to(self.device))
        states = [{"cpu": encode_random_state(state), "cuda": None} for state in on_cpu]
        if self.device.type == "cuda":
            on_cuda = self.ranks.gather(torch.cuda.get_rng_state(self.device).to(self.device))
            for state, bytes_ in zip(states, on_cuda, strict=True):
                state["cuda"] = encode_random_state(bytes_)
        return states

    def _restore_generators(self) -> None:
        if len(self.state.random_states) != self.ranks.world_size:
            self._seed_generators()  # another number of processes: nobody's state is anybody's
            return
        mine = self.state.random_states[self.ranks.rank]
        if mine["cpu"]:
            torch.set_rng_state(decode_random_state(mine["cpu"]))
        if mine["cuda"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(decode_random_state(mine["cuda"]), self.device)

    def _seed_generators(self) -> None:
        """Dropout draws differ between processes, and between where a training was taken up."""
        entropy = [self.config.seed, self.ranks.rank, self.state.step]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))

    def _forget_a_lost_best(self) -> None:
        """Where the best checkpoint was damaged, the one just loaded is the best there is."""
        state = self.state
        try:
            load_checkpoint(self.place, state.best_step, state.request_key)
        except IntegrityError as error:
            say(f"warning: best checkpoint lost ({error}); that of step {state.step} takes its place")
            self.state = replace(state, best_step=state.step, best_score=state.score)


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose name has the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


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
