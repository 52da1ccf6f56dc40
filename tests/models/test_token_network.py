"""What models over patches share: the default network, the study's grids, class token, pooling, heads."""

import pytest
import torch

from fakesound.core.errors import UserError
from fakesound.models.build import build_detector
from fakesound.models.config import VisionMambaConfig
from fakesound.models.detector import count_parameters
from fakesound.models.token_network import PooledPatches, drop_clips, insert_at, remove_at

NUM_MELS = 20


def make(num_mels=NUM_MELS, **values):
    torch.manual_seed(0)
    config = {"embed_dim": 16, "depth": 2, "d_state": 4, "patch_mels": 8, "patch_frames": 6}
    return build_detector(VisionMambaConfig(**config | values), num_mels)


def whole(num_clips, num_frames):
    return torch.ones(num_clips, num_frames, dtype=torch.bool)


def test_the_default_network_is_what_it_was_before_it_had_options():
    """Recorded at commit 2024f5f: bundles written then must score as they did."""
    torch.manual_seed(0)
    detector = build_detector(VisionMambaConfig(), 40).eval()
    features = torch.sin(torch.arange(2 * 70 * 40) % 997 * 0.37).view(2, 70, 40)
    with torch.no_grad():
        clips, frames = detector(features, torch.arange(70) < torch.tensor([[70], [41]]))
    assert count_parameters(detector) == 518_210
    torch.testing.assert_close(clips, torch.tensor([-0.4334794, -0.2033215]), atol=2e-6, rtol=0)
    want = torch.tensor([[-0.4267569, 0.0726639, 0.2247738], [0.1978797, 0.3578940, 0.3954006]])
    have = torch.stack([frames[0, [0, 33, 69]], frames[1, [0, 20, 40]]])
    torch.testing.assert_close(have, want, atol=2e-6, rtol=0)
    outside_blocks = {name for name, _ in detector.network.named_parameters() if "blocks" not in name}
    assert outside_blocks == {
        *("class_token_E", "norm.weight"),
        *(f"embedding.{name}" for name in ("time_TE", "frequency_HE", "class_E", "proj.weight", "proj.bias")),
        *(f"{head}_head.{name}" for head in ("clip", "frame") for name in ("weight", "bias")),
    }


@pytest.mark.parametrize("overlap", [False, True], ids=["abutting", "overlapping"])
@pytest.mark.parametrize(
    ("patch", "grid"),
    [
        ((20, 20), (14, 50)),
        ((20, 10), (14, 100)),
        ((30, 5), (10, 200)),
        ((56, 5), (5, 200)),
        ((70, 4), (4, 250)),
        ((280, 1), (1, 1000)),
        ((40, 40), (7, 25)),
    ],
    ids=lambda pair: f"{pair[0]}x{pair[1]}",
)
def test_every_patch_of_the_study_scores_clips_of_any_length(patch, grid, overlap):
    """mels x frames of 280 mels and at most 1000 frames; the study's text gives 14 x 50 for the first."""
    mels, frames = patch
    strides = {"stride_mels": -(-mels // 2), "stride_frames": -(-frames // 2)} if overlap else {}
    detector = make(280, embed_dim=8, depth=1, patch_mels=mels, patch_frames=frames, **strides).eval()
    embedding = detector.network.embedding
    if not overlap:
        assert (embedding.grid_height, len(embedding.time_TE)) == grid
    for num_frames in (1, 39, 40, 41, 333, 1000):
        with torch.no_grad():
            clips, scores = detector(torch.randn(1, num_frames, 280), whole(1, num_frames))
        assert scores.shape == (1, num_frames)
        assert torch.isfinite(scores).all()
        assert torch.isfinite(clips).all()


def test_overlap_multiplies_the_tokens():
    embedding = make(280, patch_mels=20, patch_frames=20, stride_mels=10, stride_frames=10).network.embedding
    assert (embedding.grid_height, len(embedding.time_TE)) == (27, 99)


@pytest.mark.parametrize("stride", [6, 4, 1])
def test_every_frame_of_a_clip_is_seen_and_no_frame_beyond_it(stride):
    detector = make(stride_frames=stride, dropout=0.0).eval()
    features = torch.randn(1, 40, NUM_MELS, requires_grad=True)
    for num_frames in (1, 5, 6, 7, 11, 29):
        clips, _ = detector(features, torch.arange(40)[None] < num_frames)
        (gradient,) = torch.autograd.grad(clips.sum(), features)
        assert gradient[0].abs().amax(1).ne(0).tolist() == [frame < num_frames for frame in range(40)]


def test_pooling_takes_valid_patches_only():
    patches = torch.tensor([[[1.0, -8.0], [3.0, -2.0], [0.0, 0.0]], [[4.0, -1.0], [0.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert PooledPatches("mean", 2)(patches, mask).tolist() == [[2, -5], [4, -1]]
    assert PooledPatches("max", 2)(patches, mask).tolist() == [[3, -2], [4, -1]]
    attention = PooledPatches("attention", 2)
    assert attention(patches, mask).tolist() == [[2, -5], [4, -1]]
    torch.nn.init.constant_(attention.score.weight, 0.5)
    share = torch.sigmoid(torch.tensor(4.0))  # the second patch's score is 0.5, the first one's -3.5
    want = torch.stack([1 + 2 * share, -8 + 6 * share])
    torch.testing.assert_close(attention(patches, mask)[0], want)


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_without_a_class_token_nothing_is_left_of_it(pooling):
    detector = make(clip_pooling=pooling, drop_path=0.0)
    clips, frames = detector(torch.randn(2, 30, NUM_MELS), whole(2, 30))
    (clips.sum() + frames.sum()).backward()
    assert not any("class" in name for name, _ in detector.named_parameters())
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_a_sequence_head_reaches_frames_only_and_the_residual_what_enters_it():
    features, mask = torch.randn(2, 30, NUM_MELS), whole(2, 30)
    plain, head, residual = (
        make(sequence_head_depth=depth, sequence_head_residual=residual).eval()
        for depth, residual in ((0, False), (1, False), (1, True))
    )
    with torch.no_grad():
        scores = [detector(features, mask) for detector in (plain, head, residual)]
    assert len(head.network.sequence_head.blocks) == 1
    assert {*head.state_dict()} == {*residual.state_dict()}
    assert torch.equal(scores[0].clip_logits_B, scores[1].clip_logits_B)
    assert torch.equal(scores[0].clip_logits_B, scores[2].clip_logits_B)
    assert not torch.allclose(scores[0].frame_logits_BF, scores[1].frame_logits_BF, atol=1e-3)
    assert not torch.allclose(scores[1].frame_logits_BF, scores[2].frame_logits_BF, atol=1e-3)

    network = residual.network
    with torch.no_grad():
        entering = []
        network.sequence_head.blocks[0].register_forward_pre_hook(lambda _, args: entering.append(args[0]))
        finals = []
        network.sequence_head.register_forward_pre_hook(lambda _, args: finals.append(args))
        residual(features, mask)
    patches, embedded, _ = finals[0]
    torch.testing.assert_close(entering[0], patches + embedded)
    torch.testing.assert_close(embedded, network.embedding(features))


def test_both_directions_reach_the_class_token():
    detector = make().eval()
    features = torch.randn(1, 48, NUM_MELS)
    with torch.no_grad():
        base = detector(features, whole(1, 48)).clip_logits_B
        for frame in (0, 47):
            changed = features.clone()
            changed[0, frame] += 3
            assert not torch.equal(detector(changed, whole(1, 48)).clip_logits_B, base)


def test_class_token_sits_in_the_middle_of_each_clips_own_tokens():
    tokens = torch.arange(1.0, 7.0).repeat(2, 1)[..., None]
    index = torch.tensor([3, 1])
    with_class = insert_at(tokens, torch.tensor([0.0]), index)
    assert with_class[..., 0].tolist() == [[1, 2, 3, 0, 4, 5, 6], [1, 0, 2, 3, 4, 5, 6]]
    rest, taken = remove_at(with_class, index)
    assert torch.equal(rest, tokens)
    assert taken.flatten().tolist() == [0, 0]


def test_stochastic_depth_drops_whole_clips_and_keeps_the_mean():
    torch.manual_seed(0)
    kept = drop_clips(torch.ones(4000, 3, 2), 0.25, training=True)
    per_clip = kept[:, 0, 0]
    assert torch.equal(kept, per_clip[:, None, None].expand_as(kept))
    assert sorted(per_clip.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert per_clip.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop_clips(kept, 0.25, training=False), kept)


def test_too_long_a_clip_is_refused_with_advice():
    detector = make(max_frames=10)
    with pytest.raises(UserError, match="takes 10: cut it into windows"):
        detector(torch.zeros(1, 11, NUM_MELS), whole(1, 11))
