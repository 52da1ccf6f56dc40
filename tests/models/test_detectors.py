"""All models behind one interface: shapes, invariance to padding, learning, weight decay."""

import pytest
import torch

from fakesound.core.errors import UserError
from fakesound.models.build import build_detector
from fakesound.models.config import (
    MAMBA2_SIZES,
    TRANSFORMER_SIZES,
    VISION_MAMBA_SIZES,
    DeepLabMobileNetConfig,
    FCNResNetConfig,
    LCNNConfig,
    Mamba2Config,
    TransformerConfig,
    VisionMambaConfig,
    parse_model_config,
)
from fakesound.models.detector import count_parameters, no_weight_decay

NUM_MELS = 20
PATCH = {"patch_mels": 8, "patch_frames": 6}
OVERLAP = PATCH | {"stride_mels": 5, "stride_frames": 4}
SMALL_VIM = VisionMambaConfig(embed_dim=16, depth=2, d_state=4, **PATCH)
SMALL_FCN = FCNResNetConfig(widths=(4, 6), depths=(1, 1), time_strides=(1, 2))
SMALL_DEEPLAB = DeepLabMobileNetConfig(width_multiplier=0.1, aspp_dropout=0)
SMALL_LCNN = LCNNConfig(width_multiplier=0.2)
SMALL_TRANSFORMER = TransformerConfig(embed_dim=16, depth=2, num_heads=2, **PATCH)
SMALL_MAMBA2 = Mamba2Config(embed_dim=16, depth=2, num_heads=4, d_state=8, **PATCH)
MODELS = {
    "vim": SMALL_VIM,
    "fcn_resnet": SMALL_FCN,
    "fcn_resnet bottleneck": SMALL_FCN.model_copy(update={"block": "bottleneck"}),
    "deeplab_mobilenet": SMALL_DEEPLAB,
    "lcnn": SMALL_LCNN,
    "transformer": SMALL_TRANSFORMER,
    "mamba2": SMALL_MAMBA2,
    "vim overlap": SMALL_VIM.model_copy(update=OVERLAP),
    "transformer overlap mean": SMALL_TRANSFORMER.model_copy(update=OVERLAP | {"clip_pooling": "mean"}),
    "mamba2 max": SMALL_MAMBA2.model_copy(update={"clip_pooling": "max"}),
    "vim attention": SMALL_VIM.model_copy(update={"clip_pooling": "attention"}),
    "vim sequence head": SMALL_VIM.model_copy(update={"sequence_head_depth": 2}),
    "vim sequence head residual": SMALL_VIM.model_copy(
        update=OVERLAP | {"sequence_head_depth": 1, "sequence_head_residual": True}
    ),
}
every = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())


def make(config, seed=0):
    torch.manual_seed(seed)
    return build_detector(config, NUM_MELS)


def whole(num_clips, num_frames):
    return torch.ones(num_clips, num_frames, dtype=torch.bool)


@every
@pytest.mark.parametrize("num_frames", [1, 4, 5, 6, 7, 13, 48, 999, 1000])
def test_every_length_gets_one_logit_a_clip_and_a_frame(config, num_frames):
    detector = make(config).eval()
    with torch.no_grad():
        clip_logits, frame_logits = detector(torch.randn(2, num_frames, NUM_MELS), whole(2, num_frames))
    assert clip_logits.shape == (2,)
    assert frame_logits.shape == (2, num_frames)
    assert torch.isfinite(clip_logits).all()
    assert torch.isfinite(frame_logits).all()


def settle(detector):
    """Statistics of its own for every batch normalisation: with the initial ones DeepLabV3 scores almost the
    same whatever it hears.
    """
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    detector.train()(torch.randn(4, 96, NUM_MELS), whole(4, 96))
    return detector.eval()


@every
def test_a_clip_scores_the_same_alone_and_padded_in_a_batch(config):
    detector = make(config)
    detector.set_normalisation(torch.full((NUM_MELS,), -3.0), torch.full((NUM_MELS,), 2.0))
    settle(detector)
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


@every
def test_padding_changes_no_gradient_in_training(config):
    # Many normalisations over few values, as in DeepLabV3, magnify the rounding of single precision.
    dtype = torch.float64 if config.kind == "deeplab_mobilenet" else torch.float32
    detector = make(config.model_copy(update={"dropout": 0.0})).to(dtype)
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


@every
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


DECAYED_BY_MIXERS = {
    "vim": {"in_proj.weight", "out_proj.weight", "conv_weight_SDK", "x_proj_SXD", "step_proj_SDR"},
    "vim attention": {"pool.score.weight"},
    "transformer": {"in_proj.weight", "out_proj.weight", "up.weight", "down.weight"},
    "mamba2": {"in_proj.weight", "out_proj.weight", "conv_weight_SXK"},
}


@pytest.mark.parametrize("name", ["vim", "transformer", "mamba2", "vim attention", "vim sequence head"])
def test_weight_decay_spares_what_it_would_spoil(name):
    detector = make(MODELS[name])
    spared = no_weight_decay(detector)
    names = {name for name, _ in detector.named_parameters()}
    assert spared <= names
    decayed = {name.removeprefix("network.").split(".layer.")[-1] for name in names - spared}
    heads = {"embedding.proj.weight", "clip_head.weight", "frame_head.weight"}
    assert decayed == heads | DECAYED_BY_MIXERS[name.split()[0]] | DECAYED_BY_MIXERS.get(name, set())


@pytest.mark.parametrize("config", [SMALL_FCN, SMALL_DEEPLAB, SMALL_LCNN], ids=lambda config: config.kind)
def test_weight_decay_spares_vectors_only_in_a_convolutional_network(config):
    network = make(config)
    assert no_weight_decay(network) == {name for name, value in network.named_parameters() if value.ndim <= 1}


def test_presets_have_the_published_sizes():
    def millions(config):
        with torch.device("meta"):
            return count_parameters(build_detector(config, 128)) / 1e6

    vim = {size: millions(VisionMambaConfig.of_size(size)) for size in VISION_MAMBA_SIZES}
    assert 0.3 < vim["micro"] < 1
    assert 6.5 < vim["tiny"] < 7.5  # Vim-Ti: 7 M
    assert 24 < vim["small"] < 27  # Vim-S: 26 M
    assert 5 < millions(TransformerConfig.of_size("tiny")) < 6  # DeiT-Ti: 5.7 M with a head of 1,000 classes
    assert 21 < millions(TransformerConfig.of_size("small")) < 22.5  # DeiT-S: 22 M
    for rival, sizes in ((TransformerConfig, TRANSFORMER_SIZES), (Mamba2Config, MAMBA2_SIZES)):
        assert set(sizes) == {"micro", "tiny", "small"}
        assert rival() == rival.of_size("micro")
        for size in sizes:
            assert 0.75 < millions(rival.of_size(size)) / vim[size] < 1.25
    assert 0.75 < millions(FCNResNetConfig()) / vim["micro"] < 1.25


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "oracle"}, "oracle"),
        ({"kind": "vim", "embed_dims": 3}, "embed_dims"),
        ({"kind": "vim", "dropout": 1.5}, "dropout"),
        ({"kind": "vim", "patch_mels": 8, "stride_mels": 9}, "would leave gaps"),
        ({"kind": "vim", "patch_frames": 8, "stride_frames": 9}, "would leave gaps"),
        ({"kind": "vim", "stride_frames": 0}, "stride_frames"),
        ({"kind": "vim", "clip_pooling": "median"}, "clip_pooling"),
        ({"kind": "vim", "sequence_head_residual": True}, "set sequence_head_depth"),
        ({"kind": "transformer", "embed_dim": 20}, "make it a multiple of num_heads"),
        ({"kind": "mamba2", "num_heads": 7}, "make it a multiple of num_heads"),
        ({"kind": "fcn_resnet", "widths": [4], "depths": [1, 1]}, "one value a stage"),
        ({"kind": "fcn_resnet", "widths": [4], "depths": [1], "time_strides": [3]}, "time stride"),
        ({"kind": "fcn_resnet", "block": "dense"}, "block.*'basic' or 'bottleneck'"),
        ({"kind": "fcn_resnet", "width_multiplier": 0}, "width_multiplier.*greater than or equal to 0.05"),
        ({"kind": "deeplab_mobilenet", "aspp_dropout": 1}, "aspp_dropout.*less than 1"),
        ({"kind": "deeplab_mobilenet", "widths": [4]}, "widths"),
        ({"kind": "lcnn", "time_strides": [2, 2]}, "time_strides"),
        ({"kind": "lcnn", "time_strides": [3, 1, 1, 1]}, "time_strides"),
        ({"kind": "lcnn", "depths": [1]}, "depths"),
    ],
)
def test_bad_configurations_are_named(values, message):
    with pytest.raises(UserError, match=message):
        parse_model_config(values)


def test_configurations_survive_a_round_trip():
    for config in (*MODELS.values(), VisionMambaConfig.of_size("base", dropout=0.3)):
        assert parse_model_config(config.model_dump(mode="json")) == config
    with pytest.raises(UserError, match="no size 'huge' of vim; known: micro, tiny, small, base"):
        VisionMambaConfig.of_size("huge")
