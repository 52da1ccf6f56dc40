"""What training minimises: a clip loss and a frame loss over the frames that belong to clips.

Shape legend: B clips of this process's batch, F frames, G groups of clips.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fakesound.models.detector import DetectorOutput
from fakesound.training.config import LossConfig


class GroupCounts(NamedTuple):
    """Which groups the clips of a batch are of, and how much of each the step has over all processes.

    Attributes:
        groups_B: number of each clip's group.
        clips_G: clips of each group in the step.
        frames_G: their valid frames.
    """

    groups_B: Tensor
    clips_G: Tensor
    frames_G: Tensor


class Targets(NamedTuple):
    """What a batch should have been judged as.

    Attributes:
        labels_B: 1 = forged; in between where clips are mixed.
        frame_labels_BF: 1 = forged; in between where clips are mixed.
        mask_BF: True for frames of the clip.
        weights_B: 1, or 0 for a clip that only fills up a process's batch.
        num_clips: weighted clips of the whole step, over all processes.
        num_frames: valid frames of the whole step, over all processes.
        groups: for `GroupWeights`; None where groups do not matter.
    """

    labels_B: Tensor
    frame_labels_BF: Tensor
    mask_BF: Tensor
    weights_B: Tensor
    num_clips: int
    num_frames: int
    groups: GroupCounts | None = None


class Losses(NamedTuple):
    """This process's share of the step's losses; summed over processes they are the step's means.

    `total` is what is minimised.
    """

    total: Tensor
    clip: Tensor
    frame: Tensor


class _Terms(NamedTuple):
    """Losses of clips and of frames; 0 for padding, be it frames or a clip."""

    clip_B: Tensor
    frame_BF: Tensor


def detection_loss(output: DetectorOutput, targets: Targets, config: LossConfig) -> Losses:
    """alpha * clip + (1 - alpha) * frame.

    clip  = (1/N) sum_i BCE(y_i, p_i), N clips of the step over all processes;
    frame = (1/T) sum_i sum_t w_it l(y_it, p_it), T valid frames of the step, l as `frame_terms`, w as
            `edge_weights` (1 unless asked for).

    Labels y are smoothed, see `smoothed`. Dividing by the counts of the whole step, not of this process,
    makes the gradient that of the step however its clips are dealt to processes.
    """
    return _mean(_loss_terms(output, targets, config), targets, config)


class GroupWeights:
    """Group DRO: minimise the worst group's loss (Sagawa et al., ICLR 2020, algorithm 1).

    total = sum_g q_g L_g, with L_g = alpha * mean clip loss of the group's clips in the step
            + (1 - alpha) * mean frame loss of their frames;
    after the step, q_g <- q_g exp(step * L_g), scaled to sum to 1.

    As in the authors' code all groups of a step count at once, and one that the step lacks has loss 0. Unlike
    in their algorithm a step's losses move the weights of the next step and not its own, so that a step
    computed in several pieces has one set of weights. Their adjustment for the size of groups is left out.

    Args:
        config: with a `group_dro_step`.
        num_groups: G.
        device: of the losses.
    """

    def __init__(self, config: LossConfig, num_groups: int, device: torch.device) -> None:
        self.config = config
        self.weights_G = torch.full((num_groups,), 1 / max(1, num_groups), device=device)
        self._losses_G = torch.zeros(num_groups, device=device)

    def __call__(self, output: DetectorOutput, targets: Targets) -> Losses:
        """As `detection_loss`, but for the total. Remembers this process's shares of the groups' losses.

        Raises:
            ValueError: the targets say nothing of groups.
        """
        if targets.groups is None:
            raise ValueError("group weights need targets with groups")
        terms = _loss_terms(output, targets, self.config)
        group_B, clips_G, frames_G = targets.groups
        alpha = self.config.alpha
        clip_B = terms.clip_B / clips_G[group_B].clamp_min(1)
        frame_B = terms.frame_BF.sum(1) / frames_G[group_B].clamp_min(1)
        losses_G = torch.zeros_like(self._losses_G).index_add(
            0, group_B, alpha * clip_B + (1 - alpha) * frame_B
        )
        self._losses_G += losses_G.detach()
        return _mean(terms, targets, self.config)._replace(total=(self.weights_G * losses_G).sum())

    def finish_step(self, sum_over_processes: Callable[[Tensor], Tensor]) -> None:
        """Move the weights by the losses since the last step; on every process alike."""
        losses_G = sum_over_processes(self._losses_G)
        self.weights_G = torch.softmax(self.weights_G.log() + self.config.group_dro_step * losses_G, 0)
        self._losses_G = torch.zeros_like(losses_G)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs between steps."""
        return {"group_weights": self.weights_G}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self.weights_G = tensors["group_weights"].to(self.weights_G.device)


def smoothed(labels: Tensor, smoothing: float) -> Tensor:
    """(1 - s) y + s/2: a share of the label is both classes' alike (Szegedy et al., CVPR 2016, section 7)."""
    return labels * (1 - smoothing) + smoothing / 2


def frame_terms(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """The loss of each frame, with p = sigmoid(logit) and labels within 0..1.

    bce:   -pos_weight * y ln p - (1 - y) ln(1 - p)
    focal: -a_1 y (1 - p)^gamma ln p - a_0 (1 - y) p^gamma ln(1 - p), a_1 = focal_alpha, a_0 = 1 - focal_alpha
           (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017).
    """
    if config.frame_loss == "bce":
        return functional.binary_cross_entropy_with_logits(
            logits, labels, reduction="none", pos_weight=logits.new_tensor(config.pos_weight)
        )
    log_p, log_not_p = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    forged = config.focal_alpha * labels * torch.exp(config.focal_gamma * log_not_p) * log_p
    genuine = (1 - config.focal_alpha) * (1 - labels) * torch.exp(config.focal_gamma * log_p) * log_not_p
    return -(forged + genuine)


def edge_weights(frame_labels_BF: Tensor, mask_BF: Tensor, config: LossConfig) -> Tensor:
    """(B, F) 1 + edge_weight * exp(-d^2 / (2 sigma^2)), d frames from a frame's middle to the nearest edge.

    The border term of U-Net's weight map (Ronneberger et al., MICCAI 2015, equation 2) on a line and for the
    nearest border alone. An edge lies between two valid frames of different labels: where a clip begins or
    ends there is none, and a clip of one class has weights of 1.
    """
    frames_F = torch.arange(frame_labels_BF.shape[1], device=frame_labels_BF.device, dtype=torch.float32)
    differs_BF = (frame_labels_BF[:, 1:] != frame_labels_BF[:, :-1]) & mask_BF[:, 1:]
    is_edge_BF = functional.pad(differs_BF, (1, 0))  # between this frame and the one before it
    last_BF = torch.where(is_edge_BF, frames_F, -torch.inf).cummax(1).values
    is_edge_BF = functional.pad(differs_BF, (0, 1))  # between this frame and the one after it
    next_BF = torch.where(is_edge_BF, frames_F + 1, torch.inf).flip(1).cummin(1).values.flip(1)
    middle_F = frames_F + 0.5
    distance_BF = torch.minimum(middle_F - last_BF, next_BF - middle_F)
    return 1 + config.edge_weight * torch.exp(-0.5 * (distance_BF / config.edge_sigma_frames) ** 2)


def _loss_terms(output: DetectorOutput, targets: Targets, config: LossConfig) -> _Terms:
    clip_B = functional.binary_cross_entropy_with_logits(
        output.clip_logits_B.float(),
        smoothed(targets.labels_B, config.clip_label_smoothing),
        reduction="none",
    )
    # Logits of padding may be anything, NaN included: replaced before the loss, lest NaN reach the gradient.
    logits_BF = torch.where(targets.mask_BF, output.frame_logits_BF.float(), 0.0)
    labels_BF = smoothed(targets.frame_labels_BF, config.frame_label_smoothing)
    terms_BF = frame_terms(logits_BF, labels_BF, config) * targets.mask_BF
    if config.edge_weight:
        terms_BF = terms_BF * edge_weights(targets.frame_labels_BF, targets.mask_BF, config)
    return _Terms(clip_B * targets.weights_B, terms_BF * targets.weights_B[:, None])


def _mean(terms: _Terms, targets: Targets, config: LossConfig) -> Losses:
    clip = terms.clip_B.sum() / targets.num_clips
    frame = terms.frame_BF.sum() / targets.num_frames
    return Losses(config.alpha * clip + (1 - config.alpha) * frame, clip, frame)
