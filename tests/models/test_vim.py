"""ViM's block: against two explicit passes, as it is initialised, and as torch's compilers see it."""

import subprocess
import sys

import torch

from fakesound.models.build import build_detector
from fakesound.models.config import VisionMambaConfig
from fakesound.models.scan import ScanInputs, causal_conv_silu, selective_scan
from fakesound.models.vim import BidirectionalMixer


def test_mixer_equals_two_explicit_passes_with_flips():
    """ViM's v2 forward, written out: the backward branch runs on the flipped sequence, gate flipped too."""
    torch.manual_seed(0)
    mixer = BidirectionalMixer(VisionMambaConfig(embed_dim=16, depth=2, d_state=4))
    hidden = torch.randn(2, 11, 16)

    def branch(s, x, z):
        u = causal_conv_silu(x, mixer.conv_weight_SDK[s : s + 1], mixer.conv_bias_SD[s : s + 1])
        step, B, C = (u @ mixer.x_proj_SXD[s].T).split(mixer.split_sizes, dim=-1)
        delta = step @ mixer.step_proj_SDR[s].T
        own = [parameter[s : s + 1] for parameter in (mixer.D_SD, mixer.step_bias_SD)]
        inputs = ScanInputs(u, delta, -mixer.A_log_SDN[s : s + 1].exp(), B, C, *own)
        return selective_scan(inputs, z, torch.ones(2, x.shape[1], dtype=torch.bool), backend="reference")

    x, z = mixer.in_proj(hidden).chunk(2, dim=-1)
    forward = branch(0, x, z)
    backward = branch(1, x.flip(1), z.flip(1)).flip(1)
    want = mixer.out_proj((forward + backward) / 2)
    torch.testing.assert_close(mixer(hidden, torch.ones(2, 11, dtype=torch.bool)), want, atol=1e-5, rtol=1e-4)


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


def small_detector_and_batch():
    torch.manual_seed(0)
    config = VisionMambaConfig(embed_dim=16, depth=2, d_state=4, dropout=0.0, drop_path=0.0)
    mask = torch.arange(40) < torch.tensor([[40], [25]])
    return build_detector(config, 20), torch.randn(2, 40, 20), mask


def gradients(detector, outputs):
    loss = outputs.clip_logits_B.sum() + outputs.frame_logits_BF.square().sum()
    return torch.autograd.grad(loss, list(detector.parameters()), allow_unused=True)


def test_a_backend_for_another_device_does_not_hinder_building(monkeypatch):
    monkeypatch.setenv("FAKESOUND_SCAN_BACKEND", "cuda")
    assert small_detector_and_batch()[0] is not None


def test_torch_compile_sees_one_graph_forwards_and_backwards():
    detector, features, mask = small_detector_and_batch()
    compiled = torch.compile(detector, backend="aot_eager", fullgraph=True)
    want, have = detector(features, mask), compiled(features, mask)
    torch.testing.assert_close(have.frame_logits_BF, want.frame_logits_BF)
    for one, other in zip(gradients(detector, want), gradients(detector, have), strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


def test_torch_export_takes_the_whole_detector():
    detector, features, mask = small_detector_and_batch()
    exported = torch.export.export(detector.eval(), (features, mask)).module()
    torch.testing.assert_close(exported(features, mask)[1], detector(features, mask).frame_logits_BF)


def test_torch_export_leaves_numbers_of_clips_and_frames_open():
    detector, features, mask = small_detector_and_batch()
    auto = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    exported = torch.export.export(detector.eval(), (features, mask), dynamic_shapes=(auto, auto)).module()
    more, all_valid = torch.randn(3, 70, 20), torch.ones(3, 70, dtype=torch.bool)
    torch.testing.assert_close(exported(more, all_valid)[1], detector(more, all_valid).frame_logits_BF)


def test_a_detector_is_exported_before_it_has_scanned_anything():
    script = (
        "import torch\n"
        "from fakesound.models.build import build_detector\n"
        "from fakesound.models.config import VisionMambaConfig\n"
        "detector = build_detector(VisionMambaConfig(embed_dim=16, depth=1, d_state=4), 20).eval()\n"
        "batch = (torch.zeros(2, 40, 20), torch.ones(2, 40, dtype=torch.bool))\n"
        "print(len(torch.export.export(detector, batch).graph.nodes) > 10)\n"
    )
    # In a process of its own: numba, once loaded, would not be loaded while torch traces.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_autocast_leaves_the_scan_in_single_precision():
    detector, features, mask = small_detector_and_batch()
    want = detector(features, mask).frame_logits_BF
    with torch.autocast("cpu", torch.bfloat16):
        have = detector(features, mask)
    assert have.frame_logits_BF.dtype == torch.float32
    torch.testing.assert_close(have.frame_logits_BF, want, atol=0.02, rtol=0.1)
    assert all(torch.isfinite(grad).all() for grad in gradients(detector, have) if grad is not None)
