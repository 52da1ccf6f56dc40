"""Scoring validation clips during training: dealt to processes, gathered, never augmented.

Shape legend: N clips of a partition, T frames of all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fakesound.metrics.clip import average_precision, log_loss, roc_auc
from fakesound.metrics.errors import MetricError
from fakesound.training.data import ClipBank, collate, plan_validation
from fakesound.training.ranks import Ranks

PARTITIONS = ("validation", "validation_unseen")
SCORE_PARTS = ("clip_auc", "frame_auc")


@dataclass(frozen=True)
class Scores:
    """Logits of a partition.

    Attributes:
        clips_N: one a clip.
        frames_T: clip after clip.
    """

    clips_N: Tensor
    frames_T: Tensor


def score_partition(
    detector: nn.Module,
    bank: ClipBank,
    *,
    batch_clips: int,
    ranks: Ranks,
    device: torch.device,
    gives_up: Callable[[], bool] = lambda: False,
) -> Scores:
    """Logits of every clip and frame, on every process. The detector is left in evaluation mode.

    Args:
        detector: of whose weights every process has the same.
        bank: the clips.
        batch_clips: of one process.
        ranks: this process among the others.
        device: where the detector is.
        gives_up: asked before every batch: whether this process may leave its other clips unscored, because
            nobody will use the scores.
    """
    clips_N = torch.zeros(len(bank), device=device)
    frames_T = torch.zeros(len(bank.frame_labels), device=device)
    detector.eval()
    with torch.inference_mode():
        plan = plan_validation(bank.num_frames, batch_clips, rank=ranks.rank, world_size=ranks.world_size)
        for step in bank.at_hand(plan):
            if gives_up():
                break
            batch = collate(bank, step).to(device)
            output = detector(batch.features_BFM, batch.mask_BF)
            clips_N[torch.from_numpy(step.clips).to(device)] = output.clip_logits_B.float()
            for place, index in enumerate(step.clips):
                start, stop = bank.starts[index], bank.starts[index + 1]
                frames_T[start:stop] = output.frame_logits_BF[place, : stop - start].float()
    # Every slot was filled by one process and is zero on the others: their sum is the whole.
    return Scores(ranks.sum(clips_N), ranks.sum(frames_T))


def partition_metrics(bank: ClipBank, scores: Scores) -> dict[str, float]:
    """Clip AUC and log-loss, frame AUC and average precision; none that one class leaves undefined."""
    clips = torch.sigmoid(scores.clips_N.double()).cpu().numpy()
    frames = torch.sigmoid(scores.frames_T.double()).cpu().numpy()
    figures: dict[str, tuple[Callable[..., float], np.ndarray, np.ndarray]] = {
        "clip_auc": (roc_auc, bank.labels, clips),
        "clip_log_loss": (log_loss, bank.labels, clips),
        "frame_auc": (roc_auc, bank.frame_labels, frames),
        "frame_ap": (average_precision, bank.frame_labels, frames),
    }
    found = {}
    for name, (metric, labels, values) in figures.items():
        try:
            found[name] = metric(labels, values)
        except MetricError:
            continue
    return found


def validation_score(metrics: dict[str, float], train_loss: float, alpha: float) -> float:
    """What the best checkpoint is best at: the mean of clip AUC and frame AUC over both partitions.

    AUC, because it needs no threshold, does not move with prevalence and is steady with few clips; both heads
    and both partitions alike, because clips of unseen families are what the detector is for and clips of seen
    ones steady the choice. A head that is not trained (alpha 0 or 1) is left out, and so are figures that
    could not be computed; with none at all (a corpus too small to validate on) the score is minus the
    training loss.

    Args:
        metrics: `partition/figure` -> value.
        train_loss: mean of the epoch.
        alpha: see `LossConfig`.
    """
    untrained = {0.0: "clip_auc", 1.0: "frame_auc"}.get(alpha)
    scored = {part for part in SCORE_PARTS if part != untrained}
    parts = [value for name, value in metrics.items() if name.split("/")[1] in scored]
    return float(np.mean(parts)) if parts else -train_loss
