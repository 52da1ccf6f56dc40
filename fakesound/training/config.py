"""Parameters of training. Light: the CLI loads this without torch."""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fakesound.core.config import Config


class LossConfig(Config):
    """alpha * clip loss + (1 - alpha) * frame loss.

    Attributes:
        alpha: weight of the clip loss (the study: 0.3). At 1 the clip head alone is trained, at 0 the frame
            head alone: the single-task ablation. The other head only decays from where it was drawn; what it
            says means nothing, and the validation score leaves it out.
        frame_loss: `bce` (weighted by pos_weight) or `focal`.
        pos_weight: how much more a forged frame counts than a genuine one (`bce`).
        focal_gamma: how strongly well-judged frames are discounted (`focal`).
        focal_alpha: weight of forged frames, 1 - focal_alpha of genuine ones (`focal`).
        clip_label_smoothing: share of each clip's label that is spread evenly over both classes; 0 is none.
        frame_label_smoothing: the same for the labels of frames.
        edge_weight: how much more a frame on the edge of a forged region counts in the frame loss; 0 is none.
        edge_sigma_frames: how far from an edge, in frames, that weight has fallen to 0.61 of itself.
        group_dro_step: step size of the weights of groups, where the worst group of clips (a family of
            forgery, or the genuine ones) is minimised instead of the mean (`loss.GroupWeights`); 0 minimises
            the mean. Its authors: 0.01.
    """

    alpha: float = Field(default=0.3, ge=0, le=1)
    frame_loss: Literal["bce", "focal"] = "bce"
    pos_weight: float = Field(default=3.0, gt=0)
    focal_gamma: float = Field(default=2.0, ge=0)
    focal_alpha: float = Field(default=0.5, gt=0, lt=1)
    clip_label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    frame_label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    edge_weight: float = Field(default=0.0, ge=0, le=100)
    edge_sigma_frames: float = Field(default=5.0, gt=0)
    group_dro_step: float = Field(default=0.0, ge=0, le=10)


class ScheduleConfig(Config):
    """Learning rate by step: linear warm-up, cosine, constant cool-down, as shares of all steps
    (`schedule.lr_at` has the formula).

    The study's 50 + 300 + 50 epochs are the shares 1/8, 3/4, 1/8.

    Attributes:
        peak_lr: reached at the end of warm-up.
        warmup_start_lr: at step 0.
        floor_lr: where the cosine ends; cool-down stays there.
        warmup_share: of all steps.
        cooldown_share: of all steps.
        cosine_cycles: how often the cosine runs from the peak to the floor: all but one are warm restarts.
    """

    peak_lr: float = Field(default=5e-4, gt=0)
    warmup_start_lr: float = Field(default=1e-6, ge=0)
    floor_lr: float = Field(default=1e-5, ge=0)
    warmup_share: float = Field(default=0.125, ge=0, le=1)
    cooldown_share: float = Field(default=0.125, ge=0, le=1)
    cosine_cycles: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _shares_and_rates_fit(self) -> Self:
        if self.warmup_share + self.cooldown_share > 1:
            raise ValueError("warmup_share + cooldown_share must not exceed 1")
        if max(self.floor_lr, self.warmup_start_lr) > self.peak_lr:
            raise ValueError("floor_lr and warmup_start_lr must not exceed peak_lr")
        return self


class AugmentConfig(Config):
    """Augmentation of training clips; strengths are those of a draw's upper end. All zero is none.

    Attributes:
        frequency_masks: how many bands are blanked per clip.
        frequency_mask_share: widest band, share of all mels.
        time_masks: how many stretches are blanked per clip.
        time_mask_share: widest stretch, share of the clip's frames.
        keep_share: share of the clip, and of every forged region, that time masks always leave visible.
        gain_db: level change of the whole clip, drawn from +-gain_db.
        noise: standard deviation of noise added to features, in standard deviations of the training features.
        filter_db: gain of a random filter, the same for the whole clip, drawn from +-filter_db at the ends of
            some bands and joined by straight lines (`augment.filter_gains_db`).
        band_limit_share: widest top band, share of all mels, that is silenced as by a low-pass filter.
        mixup_probability: of a clip being mixed with another of the same step (`augment.mixup`).
        mixup_alpha: the clip's own share is drawn from Beta(alpha, alpha).
        cutmix_probability: of a stretch of another clip of the same step taking the place of this clip's
            (`augment.cutmix`). No clip is mixed in both ways.
        cutmix_alpha: the share that the clip keeps is drawn from Beta(alpha, alpha).
    """

    frequency_masks: int = Field(default=2, ge=0, le=16)
    frequency_mask_share: float = Field(default=0.15, ge=0, le=1)
    time_masks: int = Field(default=2, ge=0, le=16)
    time_mask_share: float = Field(default=0.08, ge=0, le=1)
    keep_share: float = Field(default=0.5, gt=0, le=1)
    gain_db: float = Field(default=6.0, ge=0, le=60)
    noise: float = Field(default=0.1, ge=0, le=10)
    filter_db: float = Field(default=0.0, ge=0, le=60)
    band_limit_share: float = Field(default=0.0, ge=0, lt=1)
    mixup_probability: float = Field(default=0.0, ge=0, le=1)
    mixup_alpha: float = Field(default=0.2, gt=0)
    cutmix_probability: float = Field(default=0.0, ge=0, le=1)
    cutmix_alpha: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _mixed_in_one_way(self) -> Self:
        if self.mixed_probability > 1:
            raise ValueError("mixup_probability + cutmix_probability must not exceed 1")
        return self

    @property
    def mixed_probability(self) -> float:
        """Of a clip being mixed with another, in either way."""
        return self.mixup_probability + self.cutmix_probability


class SamplingConfig(Config):
    """Which clips an epoch has; always as many as there are training clips.

    Attributes:
        balance: `none`: each clip once. `family`: half of the clips genuine and half forged, the forged ones
            shared out evenly among families; clips of a rare family then come several times an epoch, of
            a frequent one only some, none of a family twice before all of it have come once.
    """

    balance: Literal["none", "family"] = "none"


class InitialWeights(Config):
    """Published ImageNet weights of ViM to start from (`models.imagenet`), instead of drawn ones.

    Given as a path alone, it is completed with the file's digest: what a run started from is part of its
    configuration.

    Attributes:
        path: of a file that every process of the training can read.
        sha256: of the file's content.
    """

    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _digest_of_file(cls, values: Any) -> Any:
        if not isinstance(values, str):
            return values
        try:
            path = Path(values).expanduser().absolute()
            with path.open("rb") as stream:
                return {"path": str(path), "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
        except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home
            raise ValueError(f"{values} cannot be read: {getattr(error, 'strerror', error)}") from None


# Values of a TrainingConfig that change nothing about what comes out.
WITHOUT_EFFECT = {
    "keep_checkpoints",
    "checkpoint_every_steps",
    "notice_s",
    "log_every_steps",
    "samples_every_epochs",
}


class TrainingConfig(Config):
    """Everything about training that is not the model or the features.

    Attributes:
        seed: of initial weights, order and augmentation.
        epochs: passes over the training clips.
        max_steps: stop after so many optimiser steps even within an epoch; None is no limit.
        batch_clips: clips per step, over all processes together.
        weight_decay: of AdamW; A_log, D, norms, biases and embeddings are exempt.
        beta1: AdamW's.
        beta2: AdamW's.
        clip_norm: largest norm of the gradient.
        initial_weights: path of a ViM ImageNet checkpoint to start from; None draws all weights.
        precision: `bf16` is autocast with float32 master weights on CUDA; a CPU trains in float32 either way.
            It has float32's range, so that gradients need no loss scaler and checkpoints hold none.
        accumulate_steps: each process computes the gradient of its part of a step in so many pieces, for less
            memory. It is the gradient of the whole; only batch normalisation sees the pieces.
        activation_checkpointing: compute the blocks' activations again for the gradient instead of keeping
            them: the same gradient, less memory, more time. For models over patches.
        compile: run the blocks through torch.compile: a start of a minute, then perhaps faster steps;
            on a CPU they were slower. For models over patches, not together with activation_checkpointing.
        ema_decay: validate and keep an exponential moving average of the weights (`ema.WeightAverage`) and
            not the last ones; None does not.
        keep_checkpoints: how many of the latest are kept.
        checkpoint_every_steps: write checkpoints also within an epoch; None only at its end.
        notice_s: how long a process may still run after it was asked to stop (SIGTERM, SIGUSR1).
        log_every_steps: how often figures of steps are reported.
        samples_every_epochs: how often some validation clips are shown; None never does.
        loss: see `LossConfig`.
        schedule: see `ScheduleConfig`.
        augment: see `AugmentConfig`.
        sampling: see `SamplingConfig`.
    """

    seed: int = Field(default=0, ge=0, lt=2**31)
    epochs: int = Field(default=20, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    batch_clips: int = Field(default=16, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0)
    initial_weights: InitialWeights | None = None
    precision: Literal["float32", "bf16"] = "float32"
    accumulate_steps: int = Field(default=1, ge=1)
    activation_checkpointing: bool = False
    compile: bool = False
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    checkpoint_every_steps: int | None = Field(default=None, gt=0)
    notice_s: float = Field(default=30.0, gt=0)
    log_every_steps: int = Field(default=10, ge=1)
    samples_every_epochs: int | None = Field(default=5, ge=1)
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    augment: AugmentConfig = AugmentConfig()
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _clips_are_of_one_group(self) -> Self:
        if self.loss.group_dro_step and self.augment.mixed_probability:
            raise ValueError(
                "loss.group_dro_step needs clips of one group each: set augment.mixup_probability and "
                "augment.cutmix_probability to 0"
            )
        return self

    @model_validator(mode="after")
    def _blocks_run_one_way(self) -> Self:
        if self.compile and self.activation_checkpointing:
            raise ValueError("choose one of compile and activation_checkpointing")
        return self

    def identity(self) -> dict[str, Any]:
        """What determines a training, as JSON values: of initial weights the content, not where they lie, and
        nothing of when it is saved or told of."""
        values = self.model_dump(mode="json", exclude=WITHOUT_EFFECT)
        start = values.pop("initial_weights")
        return values if start is None else values | {"initial_weights_sha256": start["sha256"]}
