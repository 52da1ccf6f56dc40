"""Both models behind one interface: shapes, invariance to padding, ViM's block, learning, weight decay."""

import pytest
import torch

from fakesound.core.errors import UserError
from fakesound.models.build import build_detector
from fakesound.models.config import (
    VISION_MAMBA_SIZES,
    FCNResNetConfig,
    VisionMambaConfig,
    parse_model_config,
)
from fakesound.models.detector import count_parameters, no_weight_decay
from fakesound.models.patches import read_at_frames, to_patches
from fakesound.models.scan import ScanInputs, causal_conv_silu, selective_scan
from fakesound.models.token_network import drop_clips, insert_at, remove_at
from fakesound.models.vim import BidirectionalMixer

NUM_MELS = 20
SMALL_VIM = VisionMambaConfig(embed_dim=16, depth=2, d_state=4, patch_mels=8, patch_frames=6)
SMALL_FCN = FCNResNetConfig(widths=(4, 6), depths=(1, 1), time_strides=(1, 2))
both = pytest.mark.parametrize("config", [SMALL_VIM, SMALL_FCN], ids=["vim", "fcn_resnet"])


def make(config, seed=0):
    torch.manual_seed(seed)
    return build_detector(config, NUM_MELS)


def whole(num_clips, num_frames):
    return torch.ones(num_clips, num_frames, dtype=torch.bool)


@both
@pytest.mark.parametrize("num_frames", [1, 4, 5, 6, 7, 13, 48, 999, 1000])
def test_every_length_gets_one_logit_a_clip_and_a_frame(config, num_frames):
    detector = make(config).eval()
    with torch.no_grad():
        clip_logits, frame_logits = detector(torch.randn(2, num_frames, NUM_MELS), whole(2, num_frames))
    assert clip_logits.shape == (2,)
    assert frame_logits.shape == (2, num_frames)
    assert torch.isfinite(clip_logits).all()
    assert torch.isfinite(frame_logits).all()


@both
def test_a_clip_scores_the_same_alone_and_padded_in_a_batch(config):
    detector = make(config).eval()
    detector.set_normalisation(torch.full((NUM_MELS,), -3.0), torch.full((NUM_MELS,), 2.0))
    lengths = [47, 1, 5, 30, 31, 36]
    mask = torch.arange(47) < torch.tensor(lengths)[:, None]
    features = torch.randn(len(lengths), 47, NUM_MELS)
    features[~mask] = float("nan")
    with torch.no_grad():
        together = detector(features, mask)
        for index, length in enumerate(lengths):
            alone = detector(features[index : index + 1, :length], whole(1, length))
            torch.testing.assert_close(
                together.clip_logits_B[index], alone.clip_logits_B[0], atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(
                together.frame_logits_BF[index, :length], alone.frame_logits_BF[0], atol=1e-5, rtol=1e-5
            )


@both
def test_padding_changes_no_gradient_in_training(config):
    detector = make(config.model_copy(update={"dropout": 0.0}))
    features = torch.randn(3, 12, NUM_MELS)
    gradients = []
    for extra in (0, 13):
        detector.zero_grad()
        detector.train()
        mask = torch.arange(12 + extra) < 12
        padded = torch.nn.functional.pad(features, (0, 0, 0, extra), value=float("nan"))
        torch.manual_seed(0)  # the same clips are dropped by stochastic depth
        clip_logits, frame_logits = detector(padded, mask.expand(3, -1))
        (clip_logits.sum() + frame_logits[:, :12].square().sum()).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in detector.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=2e-5, rtol=1e-4, msg=name)


@both
def test_loss_falls_when_fitting_one_batch(config):
    detector = make(config.model_copy(update={"dropout": 0.0}))
    features = torch.randn(4, 24, NUM_MELS)
    labels = torch.zeros(4, 24)
    labels[:2, 6:18] = 1
    features[:2, 6:18, :8] += 2
    optimiser = torch.optim.AdamW(detector.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        clip_logits, frame_logits = detector(features, whole(4, 24))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(clip_logits, labels.amax(1))
        loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(frame_logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.2
    assert sum(losses[-5:]) / 5 < 0.3 * losses[0]


def test_mixer_equals_two_explicit_passes_with_flips():
    """ViM's v2 forward, written out: the backward branch runs on the flipped sequence, gate flipped too."""
    torch.manual_seed(0)
    mixer = BidirectionalMixer(SMALL_VIM)
    hidden = torch.randn(2, 11, 16)

    def branch(s, x, z):
        u = causal_conv_silu(x, mixer.conv_weight_SDK[s : s + 1], mixer.conv_bias_SD[s : s + 1])
        step, B, C = (u @ mixer.x_proj_SXD[s].T).split(mixer.split_sizes, dim=-1)
        delta = step @ mixer.step_proj_SDR[s].T
        own = [parameter[s : s + 1] for parameter in (mixer.D_SD, mixer.step_bias_SD)]
        inputs = ScanInputs(u, delta, -mixer.A_log_SDN[s : s + 1].exp(), B, C, *own)
        return selective_scan(inputs, z, whole(2, x.shape[1]), backend="reference")

    x, z = mixer.in_proj(hidden).chunk(2, dim=-1)
    forward = branch(0, x, z)
    backward = branch(1, x.flip(1), z.flip(1)).flip(1)
    want = mixer.out_proj((forward + backward) / 2)
    torch.testing.assert_close(mixer(hidden, whole(2, 11)), want, atol=1e-5, rtol=1e-4)


def test_both_directions_reach_the_class_token():
    detector = make(SMALL_VIM).eval()
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


def test_patches_run_along_frequency_first_and_frames_read_their_own_patch():
    image = torch.arange(7.0)[None, :, None] * 100 + torch.arange(5.0)
    grid = to_patches(image, patch_frames=4, patch_mels=3)
    assert grid.shape == (1, 2, 2, 12)
    assert grid[0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102, 200, 201, 202, 300, 301, 302]
    assert grid[0, 1, 1].tolist() == [403, 404, 0, 503, 504, 0, 603, 604, 0, 0, 0, 0]


def test_interpolation_is_linear_and_constant_beyond_the_last_valid_step():
    values = torch.tensor([[0.0, 10.0, 20.0, 99.0]])
    position = torch.tensor([-0.4, 0.0, 0.5, 1.75, 2.0, 2.6, 3.0])
    have = read_at_frames(values, torch.tensor([3]), position)
    torch.testing.assert_close(have, torch.tensor([[0.0, 0.0, 5.0, 17.5, 20.0, 20.0, 20.0]]))


def test_interpolation_equals_torch_interpolate_on_whole_patches():
    values = torch.randn(2, 5)
    position = (torch.arange(40) + 0.5) / 8 - 0.5
    want = torch.nn.functional.interpolate(values[:, None], size=40, mode="linear", align_corners=False)
    torch.testing.assert_close(read_at_frames(values, torch.tensor([5, 5]), position), want[:, 0])


def test_initial_values_are_those_of_mamba():
    torch.manual_seed(0)
    mixer = BidirectionalMixer(VisionMambaConfig(embed_dim=64, depth=16))
    torch.testing.assert_close(mixer.A_log_SDN.exp(), torch.arange(1.0, 17.0).expand(2, 128, 16))
    assert torch.equal(mixer.D_SD, torch.ones(2, 128))
    steps = torch.nn.functional.softplus(mixer.step_bias_SD)
    assert steps.min() > 0.99e-3
    assert steps.max() < 0.101
    bound = 128**-0.5 / 16**0.5
    assert 0.9 * bound < mixer.out_proj.weight.abs().max() <= bound


def test_stochastic_depth_drops_whole_clips_and_keeps_the_mean():
    torch.manual_seed(0)
    kept = drop_clips(torch.ones(4000, 3, 2), 0.25, training=True)
    per_clip = kept[:, 0, 0]
    assert torch.equal(kept, per_clip[:, None, None].expand_as(kept))
    assert sorted(per_clip.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert per_clip.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop_clips(kept, 0.25, training=False), kept)


def test_weight_decay_spares_what_it_would_spoil():
    detector = make(SMALL_VIM)
    spared = no_weight_decay(detector)
    names = {name for name, _ in detector.named_parameters()}
    assert spared <= names
    decayed = {".".join(name.split(".")[-2:]) for name in names - spared}
    assert decayed == {
        *("in_proj.weight", "out_proj.weight"),
        *(f"layer.{name}" for name in ("conv_weight_SDK", "x_proj_SXD", "step_proj_SDR")),
        *("proj.weight", "clip_head.weight", "frame_head.weight"),
    }
    fcn = make(SMALL_FCN)
    assert no_weight_decay(fcn) == {name for name, value in fcn.named_parameters() if value.ndim <= 1}


def test_presets_have_the_published_sizes():
    millions = {
        size: count_parameters(build_detector(VisionMambaConfig.of_size(size), 128)) / 1e6
        for size in ("micro", "tiny")
    }
    assert 0.3 < millions["micro"] < 1
    assert 6.5 < millions["tiny"] < 7.5  # Vim-Ti: 7 M
    fcn = count_parameters(build_detector(FCNResNetConfig(), 128)) / 1e6
    assert 0.75 < fcn / millions["micro"] < 1.25
    assert set(VISION_MAMBA_SIZES) == {"micro", "tiny", "small", "base"}


def test_too_long_a_clip_is_refused_with_advice():
    detector = make(SMALL_VIM.model_copy(update={"max_frames": 10}))
    with pytest.raises(UserError, match="takes 10: cut it into windows"):
        detector(torch.zeros(1, 11, NUM_MELS), whole(1, 11))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "oracle"}, "oracle"),
        ({"kind": "vim", "embed_dims": 3}, "embed_dims"),
        ({"kind": "vim", "dropout": 1.5}, "dropout"),
        ({"kind": "fcn_resnet", "widths": [4], "depths": [1, 1]}, "one value a stage"),
        ({"kind": "fcn_resnet", "widths": [4], "depths": [1], "time_strides": [3]}, "time stride"),
    ],
)
def test_bad_configurations_are_named(values, message):
    with pytest.raises(UserError, match=message):
        parse_model_config(values)


def test_configurations_survive_a_round_trip():
    for config in (SMALL_VIM, SMALL_FCN, VisionMambaConfig.of_size("base", dropout=0.3)):
        assert parse_model_config(config.model_dump(mode="json")) == config
    with pytest.raises(UserError, match="no ViM size 'huge'"):
        VisionMambaConfig.of_size("huge")
