"""What training minimises: a clip loss and a frame loss over the frames that belong to clips.

Shape legend: B clips of this process's batch, F frames.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fakesound.models.detector import DetectorOutput
from fakesound.training.config import LossConfig


class Targets(NamedTuple):
    """What a batch should have been judged as.

    Attributes:
        labels_B: 1 = forged.
        frame_labels_BF: 1 = forged.
        mask_BF: True for frames of the clip.
        weights_B: 1, or 0 for a clip that only fills up a process's batch.
        num_clips: weighted clips of the whole step, over all processes.
        num_frames: valid frames of the whole step, over all processes.
    """

    labels_B: Tensor
    frame_labels_BF: Tensor
    mask_BF: Tensor
    weights_B: Tensor
    num_clips: int
    num_frames: int


class Losses(NamedTuple):
    """This process's share of the step's losses; summed over processes they are the step's means."""

    total: Tensor
    clip: Tensor
    frame: Tensor


def detection_loss(output: DetectorOutput, targets: Targets, config: LossConfig) -> Losses:
    """alpha * clip + (1 - alpha) * frame.

    clip  = (1/N) sum_i BCE(y_i, p_i), N clips of the step over all processes;
    frame = (1/T) sum_i sum_t l(y_it, p_it), T valid frames of the step, l as `frame_terms`.

    Dividing by the counts of the whole step, not of this process, makes the gradient that of the step
    however its clips are dealt to processes.
    """
    clip_terms_B = functional.binary_cross_entropy_with_logits(
        output.clip_logits_B.float(), targets.labels_B, reduction="none"
    )
    clip = (clip_terms_B * targets.weights_B).sum() / targets.num_clips
    # Logits of padding may be anything, NaN included: replaced before the loss, lest NaN reach the gradient.
    logits_BF = torch.where(targets.mask_BF, output.frame_logits_BF.float(), 0.0)
    terms_BF = frame_terms(logits_BF, targets.frame_labels_BF, config) * targets.mask_BF
    frame = (terms_BF * targets.weights_B[:, None]).sum() / targets.num_frames
    return Losses(config.alpha * clip + (1 - config.alpha) * frame, clip, frame)


def frame_terms(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """The loss of each frame, with p = sigmoid(logit).

    bce:   -pos_weight * y ln p - (1 - y) ln(1 - p)
    focal: -a_y (1 - p_y)^gamma ln p_y, p_1 = p, p_0 = 1 - p, a_1 = focal_alpha, a_0 = 1 - focal_alpha
           (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017).
    """
    if config.frame_loss == "bce":
        return functional.binary_cross_entropy_with_logits(
            logits, labels, reduction="none", pos_weight=logits.new_tensor(config.pos_weight)
        )
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    missed = 1 - torch.exp(-cross_entropy)
    balance = config.focal_alpha * labels + (1 - config.focal_alpha) * (1 - labels)
    return balance * missed**config.focal_gamma * cross_entropy
