import math
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakesound.models.detector import DetectorOutput
from fakesound.training.config import LossConfig
from fakesound.training.loss import (
    GroupCounts,
    GroupWeights,
    Targets,
    detection_loss,
    edge_weights,
    frame_terms,
)


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


def test_smoothed_labels_equal_the_formula_by_hand():
    config = LossConfig(clip_label_smoothing=0.1, frame_label_smoothing=0.2, pos_weight=2.0)
    losses = detection_loss(output(), targets(), config)
    p_0, p_1 = sigmoid(0.7), sigmoid(-1.2)
    clip = -(
        0.95 * math.log(p_0) + 0.05 * math.log(1 - p_0) + 0.05 * math.log(p_1) + 0.95 * math.log(1 - p_1)
    )
    assert losses.clip.item() == pytest.approx(clip / 2, rel=1e-5)
    frame = 0.0
    for i, t in VALID:
        p, y = sigmoid(FRAME_LOGITS[i][t]), 0.9 if FRAME_LABELS[i][t] else 0.1
        frame += -2.0 * y * math.log(p) - (1 - y) * math.log(1 - p)
    assert losses.frame.item() == pytest.approx(frame / 5, rel=1e-5)


@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_the_loss_of_a_mixed_label_is_the_mixture_of_losses(kind):
    config = LossConfig(frame_loss=kind, focal_alpha=0.3, focal_gamma=1.5)
    logits = torch.linspace(-20, 20, 9)
    forged, genuine, mixed = (
        frame_terms(logits, torch.full_like(logits, label), config) for label in (1.0, 0.0, 0.3)
    )
    torch.testing.assert_close(mixed, 0.3 * forged + 0.7 * genuine)


def test_focal_has_a_finite_gradient_where_a_frame_is_judged_for_sure():
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    config = LossConfig(frame_loss="focal", focal_gamma=0.5)
    frame_terms(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]), config).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def slow_edge_weights(labels, length, weight, sigma):
    """U-Net's border term, an edge and a frame at a time."""
    edges = [t for t in range(1, length) if labels[t] != labels[t - 1]]
    found = []
    for t in range(len(labels)):
        distance = min((abs(t + 0.5 - edge) for edge in edges), default=math.inf)
        found.append(1 + weight * math.exp(-(distance**2) / (2 * sigma**2)))
    return found


@given(
    st.integers(1, 30).flatmap(
        lambda width: st.lists(
            st.tuples(
                st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=width, max_size=width),
                st.integers(1, width),
            ),
            min_size=1,
            max_size=4,
        )
    ),
    st.floats(0.1, 9),
    st.floats(0.5, 9),
)
def test_edge_weights_equal_the_slow_reference(clips, weight, sigma):
    labels_BF = torch.tensor([labels for labels, _ in clips])
    mask_BF = torch.arange(labels_BF.shape[1]) < torch.tensor([length for _, length in clips])[:, None]
    found_BF = edge_weights(labels_BF, mask_BF, LossConfig(edge_weight=weight, edge_sigma_frames=sigma))
    for found_F, (labels, length) in zip(found_BF, clips, strict=True):
        expected = slow_edge_weights(labels, length, weight, sigma)[:length]
        assert found_F[:length].tolist() == pytest.approx(expected, rel=1e-4)


def test_frames_at_an_edge_count_more_and_clips_of_one_class_as_before():
    plain, weighted = LossConfig(alpha=0), LossConfig(alpha=0, edge_weight=2.0, edge_sigma_frames=1.0)
    both = [output(requires_grad=True) for _ in range(2)]
    for judged, config in zip(both, (plain, weighted), strict=True):
        detection_loss(judged, targets(), config).total.backward()
    before_BF, after_BF = (judged.frame_logits_BF.grad for judged in both)
    assert before_BF is not None
    assert after_BF is not None
    near, far = 1 + 2 * math.exp(-0.125), 1 + 2 * math.exp(-1.125)  # the edge lies between frames 0 and 1
    assert (after_BF[0] / before_BF[0]).tolist() == pytest.approx([near, near, far], rel=1e-5)
    assert torch.equal(after_BF[1, :2], before_BF[1, :2])


def grouped(first=slice(None)):
    """Three clips of groups 0, 2, 0 out of three, or some of them as one process's share."""
    generator = torch.Generator().manual_seed(0)
    judged = DetectorOutput(torch.randn(3, generator=generator), torch.randn(3, 4, generator=generator))
    mask_BF = torch.arange(4) < torch.tensor([4, 3, 2])[:, None]
    labels_B, groups_B = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0, 2, 0])
    frame_labels_BF = labels_B[:, None] * (torch.arange(4) % 2)
    counts = GroupCounts(groups_B[first], torch.tensor([2, 0, 1]), torch.tensor([6, 0, 3]))
    wanted = Targets(
        labels_B[first], frame_labels_BF[first], mask_BF[first], torch.ones(3)[first], 3, 9, counts
    )
    return DetectorOutput(*(part[first] for part in judged)), wanted


def test_group_weights_equal_the_algorithm_by_hand():
    config = LossConfig(alpha=0.4, pos_weight=1.0, group_dro_step=0.5)
    groups = GroupWeights(config, 3, torch.device("cpu"))
    judged, wanted = grouped()
    weights = [1 / 3] * 3
    for _ in range(3):
        group_losses = []
        for members in ([0, 2], [], [1]):
            clip = [bce(judged.clip_logits_B[i], wanted.labels_B[i]) for i in members]
            frame = [
                bce(judged.frame_logits_BF[i, t], wanted.frame_labels_BF[i, t])
                for i in members
                for t in range(int(wanted.mask_BF[i].sum()))
            ]
            group_losses.append(0.4 * mean(clip) + 0.6 * mean(frame) if members else 0.0)
        losses = groups(judged, wanted)
        assert losses.total.item() == pytest.approx(
            sum(q * loss for q, loss in zip(weights, group_losses, strict=True)), rel=1e-5
        )
        plain = detection_loss(judged, wanted, config)
        assert (losses.clip, losses.frame) == (plain.clip, plain.frame)
        groups.finish_step(lambda values: values)
        weights = [q * math.exp(0.5 * loss) for q, loss in zip(weights, group_losses, strict=True)]
        weights = [q / sum(weights) for q in weights]
        assert groups.weights_G.tolist() == pytest.approx(weights, rel=1e-5)


def bce(logit, label):
    p = sigmoid(logit.item())
    return -label.item() * math.log(p) - (1 - label.item()) * math.log(1 - p)


def test_group_losses_of_processes_add_up():
    config = LossConfig(group_dro_step=1.0)
    alone, *ranks = (GroupWeights(config, 3, torch.device("cpu")) for _ in range(3))
    total = alone(*grouped()).total
    shares = [
        groups(*grouped(part)).total for groups, part in zip(ranks, (slice(0, 2), slice(2, 3)), strict=True)
    ]
    torch.testing.assert_close(sum(shares), total)
    told = []
    ranks[1].finish_step(lambda values: told.append(values) or values)
    ranks[0].finish_step(lambda values: values + told[0])
    alone.finish_step(lambda values: values)
    torch.testing.assert_close(ranks[0].weights_G, alone.weights_G)


def test_group_weights_are_taken_up_where_they_were_and_need_groups():
    groups = GroupWeights(LossConfig(group_dro_step=1.0), 3, torch.device("cpu"))
    groups(*grouped())
    groups.finish_step(lambda values: values)
    other = GroupWeights(groups.config, 3, torch.device("cpu"))
    other.load(groups.tensors())
    assert torch.equal(other.weights_G, groups.weights_G)
    with pytest.raises(ValueError, match="targets with groups"):
        groups(output(), targets())


def test_the_worst_group_fares_better_than_under_the_mean():
    """Sagawa's case: nine clips follow a cue that misleads on the tenth, and only a little else tells."""
    cue_B = torch.tensor([1.0] * 5 + [-1.0] * 4 + [1.0])
    groups_B = torch.tensor([0] * 9 + [1])
    wanted = Targets(
        labels_B=torch.tensor([1.0] * 5 + [0.0] * 5),
        frame_labels_BF=torch.zeros(10, 1),
        mask_BF=torch.ones(10, 1, dtype=torch.bool),
        weights_B=torch.ones(10),
        num_clips=10,
        num_frames=10,
        groups=GroupCounts(groups_B, torch.tensor([9, 1]), torch.tensor([9, 1])),
    )
    worst = {}
    for step in (0.0, 0.1):
        config = LossConfig(alpha=1.0, group_dro_step=step)
        weight = torch.zeros(1, requires_grad=True)
        groups = GroupWeights(config, 2, torch.device("cpu"))
        for _ in range(300):
            judged = DetectorOutput(cue_B * weight, torch.zeros(10, 1))
            losses = groups(judged, wanted) if step else detection_loss(judged, wanted, config)
            (gradient,) = torch.autograd.grad(losses.total, weight)
            groups.finish_step(lambda values: values)
            weight = (weight - 0.1 * gradient).detach().requires_grad_()
        terms = torch.nn.functional.softplus(-cue_B * weight * (2 * wanted.labels_B - 1))
        worst[step] = max(terms[:9].mean().item(), terms[9].item())
    assert worst[0.0] > 1.5
    assert worst[0.1] < 0.8
