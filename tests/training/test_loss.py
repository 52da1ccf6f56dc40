import math

import pytest
import torch

from fakesound.models.detector import DetectorOutput
from fakesound.training.config import LossConfig
from fakesound.training.loss import Targets, detection_loss, frame_terms


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


CLIP_LOGITS = [0.7, -1.2]
FRAME_LOGITS = [[0.5, -0.3, 2.0], [-1.0, 0.1, float("nan")]]
LABELS = [1.0, 0.0]
FRAME_LABELS = [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
VALID = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def output(requires_grad=False):
    return DetectorOutput(
        torch.tensor(CLIP_LOGITS, requires_grad=requires_grad),
        torch.tensor(FRAME_LOGITS, requires_grad=requires_grad),
    )


def targets(**changes):
    whole = Targets(
        labels_B=torch.tensor(LABELS),
        frame_labels_BF=torch.tensor(FRAME_LABELS),
        mask_BF=torch.tensor([[True, True, True], [True, True, False]]),
        weights_B=torch.ones(2),
        num_clips=2,
        num_frames=5,
    )
    return whole._replace(**changes)


def test_equals_the_formula_by_hand():
    config = LossConfig(alpha=0.3, pos_weight=4.0)
    clip = (-math.log(sigmoid(0.7)) - math.log(1 - sigmoid(-1.2))) / 2
    frame = 0.0
    for i, t in VALID:
        p, y = sigmoid(FRAME_LOGITS[i][t]), FRAME_LABELS[i][t]
        frame += -4.0 * y * math.log(p) - (1 - y) * math.log(1 - p)
    frame /= 5
    losses = detection_loss(output(), targets(), config)
    assert losses.clip.item() == pytest.approx(clip, rel=1e-5)
    assert losses.frame.item() == pytest.approx(frame, rel=1e-5)
    assert losses.total.item() == pytest.approx(0.3 * clip + 0.7 * frame, rel=1e-5)


def test_focal_equals_the_formula_by_hand():
    config = LossConfig(frame_loss="focal", focal_gamma=1.5, focal_alpha=0.25)
    frame = 0.0
    for i, t in VALID:
        p, y = sigmoid(FRAME_LOGITS[i][t]), FRAME_LABELS[i][t]
        p_y, a_y = (p, 0.25) if y else (1 - p, 0.75)
        frame += -a_y * (1 - p_y) ** 1.5 * math.log(p_y)
    assert detection_loss(output(), targets(), config).frame.item() == pytest.approx(frame / 5, rel=1e-5)


def test_focal_without_focus_is_half_the_cross_entropy():
    logits, labels = torch.linspace(-5, 5, 11), torch.arange(11) % 2 * 1.0
    focal = frame_terms(logits, labels, LossConfig(frame_loss="focal", focal_gamma=0, focal_alpha=0.5))
    plain = frame_terms(logits, labels, LossConfig(pos_weight=1))
    torch.testing.assert_close(2 * focal, plain)


@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_padding_touches_neither_loss_nor_gradient(kind):
    judged = output(requires_grad=True)
    detection_loss(judged, targets(), LossConfig(frame_loss=kind)).total.backward()
    assert judged.frame_logits_BF.grad is not None
    assert torch.isfinite(judged.frame_logits_BF.grad).all()
    assert judged.frame_logits_BF.grad[1, 2] == 0


def test_a_padding_clip_does_not_count():
    one = targets(weights_B=torch.tensor([1.0, 0.0]), num_clips=1, num_frames=3)
    losses = detection_loss(output(), one, LossConfig(pos_weight=1))
    assert losses.clip.item() == pytest.approx(-math.log(sigmoid(0.7)), rel=1e-5)
    expected = -math.log(1 - sigmoid(0.5)) - math.log(sigmoid(-0.3)) - math.log(sigmoid(2.0))
    assert losses.frame.item() == pytest.approx(expected / 3, rel=1e-5)


@pytest.mark.parametrize(("alpha", "silent"), [(1.0, "frame"), (0.0, "clip")])
def test_alpha_at_its_ends_trains_one_head_and_keeps_both_in_the_graph(alpha, silent):
    judged = output(requires_grad=True)
    detection_loss(judged, targets(), LossConfig(alpha=alpha)).total.backward()
    grads = {"clip": judged.clip_logits_B.grad, "frame": judged.frame_logits_BF.grad}
    assert (grads.pop(silent) == 0).all()
    assert (next(iter(grads.values())) != 0).any()
