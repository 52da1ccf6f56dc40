"""DeepLabV3-MobileNetV3 against torchvision's own network: its weights, and what it computes with them."""

import pytest
import torch
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from fakesound.models.build import build_detector
from fakesound.models.config import DeepLabMobileNetConfig
from fakesound.models.deeplab_mobilenet import DeepLabMobileNet
from fakesound.models.detector import count_parameters

CONFIG = DeepLabMobileNetConfig()


def torchvisions():
    return deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1, aux_loss=False)


def test_parameters_are_torchvisions_but_for_the_stem_and_the_clip_head():
    with torch.device("meta"):
        ours = count_parameters(build_detector(CONFIG, 128))
        theirs = count_parameters(torchvisions())
    two_colours_of_the_stem = 2 * 16 * 3 * 3
    clip_head = 2 * 256 + 1
    assert theirs == 11_020_337  # 11.0 M in torchvision's table, which counts 21 classes and a second head
    assert ours == theirs - two_colours_of_the_stem + clip_head


def test_with_torchvisions_weights_frames_score_as_its_decoder_does():
    """On whole clips, as grey images; the decoder's logits averaged over mels, at the frames of its steps."""
    torch.manual_seed(0)
    ours, theirs = DeepLabMobileNet(CONFIG).eval(), torchvisions()
    image = torch.randn(2, 65, 48)
    grey = image[:, None].expand(-1, 3, -1, -1)
    theirs.train()(grey)  # gives the running statistics values of their own
    theirs.eval()
    weights = theirs.state_dict()
    decoder_weight, decoder_bias = weights.pop("classifier.4.weight"), weights.pop("classifier.4.bias")
    state = ours.state_dict()
    trunk = [name for name in state if not name.startswith(("frame_head", "clip_head"))]
    state |= dict(zip(trunk, weights.values(), strict=True))
    state["backbone.0.0.weight"] = state["backbone.0.0.weight"].sum(1, keepdim=True)
    state |= {"frame_head.weight": decoder_weight[..., 0], "frame_head.bias": decoder_bias}
    ours.load_state_dict(state)
    with torch.no_grad():
        have = ours(image, torch.ones(2, 65, dtype=torch.bool)).frame_logits_BF[:, ::16]
        want = theirs.classifier(theirs.backbone(grey)["out"]).mean(3)[:, 0]
    assert want.std() > 1e-3
    torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-4)


def test_a_single_clip_trains():
    network = DeepLabMobileNet(DeepLabMobileNetConfig(width_multiplier=0.1))
    clip_logits, frame_logits = network(torch.randn(1, 33, 20), torch.ones(1, 33, dtype=torch.bool))
    (clip_logits.sum() + frame_logits.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(("multiplier", "least", "most"), [(0.1, 0.08e6, 0.13e6), (1.0, 10e6, 12e6)])
def test_width_multiplier_reaches_small_and_large(multiplier, least, most):
    with torch.device("meta"):
        network = DeepLabMobileNet(DeepLabMobileNetConfig(width_multiplier=multiplier))
    assert least < count_parameters(network) < most
