import json
import os

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fakesound.core.errors import UserError
from fakesound.evaluation.config import DetectionConfig
from fakesound.evaluation.detect import cross_fade, detect_file, find_regions
from fakesound.evaluation.result import OperatingPoint
from fakesound.evaluation.show import plot_detection, render_audacity, render_json, render_text
from fakesound.features.config import FeatureConfig
from fakesound.models.bundle import Bundle
from fakesound.models.config import FCNResNetConfig, VisionMambaConfig
from fakesound.models.detector import Detector, DetectorOutput

RATE_HZ = 32_000
FRONT_END = FeatureConfig(num_mels=16, f_min_hz=100)
POINT = {"clip": 0.5, "frame": 0.5}
CONFIG = DetectionConfig(window_s=2.0, overlap_s=0.5)


class LoudNetwork(nn.Module):
    """Calls loud frames forged, and clips that hold one."""

    longest = 0

    def forward(self, image_BFM, mask_BF):
        LoudNetwork.longest = max(LoudNetwork.longest, image_BFM.shape[1])
        frame_logits = 4 * (image_BFM.amax(-1) - np.log(1e-3))
        return DetectorOutput(frame_logits.masked_fill(~mask_BF, -9).amax(1), frame_logits)


@pytest.fixture
def bundle():
    detector = Detector(LoudNetwork(), FRONT_END.num_mels).eval()
    facts = {"operating_point": POINT}
    return Bundle(detector, FCNResNetConfig(), FRONT_END.num_mels, FRONT_END.model_dump(mode="json"), facts)


def write(path, duration_s, bursts=(), rate_hz=RATE_HZ):
    """Faint noise with loud tones at `bursts` (onset, offset)."""
    samples = np.random.default_rng(0).normal(scale=1e-3, size=int(duration_s * rate_hz))
    for onset_s, offset_s in bursts:
        span = np.arange(int(onset_s * rate_hz), int(offset_s * rate_hz))
        samples[span] += 0.5 * np.sin(2 * np.pi * 1000 * span / rate_hz)
    soundfile.write(str(path), samples, rate_hz, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("duration_s", "rate_hz"), [(1.5, RATE_HZ), (9.3, RATE_HZ), (7.1, 44_100), (6.01, 22_255)]
)
def test_finds_the_stretches(tmp_path, bundle, duration_s, rate_hz):
    bursts = [(0.4, 0.7), (1.0, 1.3)] if duration_s < 2 else [(0.4, 0.7), (1.6, 2.1), (4.9, 5.4)]
    path = write(tmp_path / "a.wav", duration_s, bursts, rate_hz)
    found = detect_file(path, bundle, config=CONFIG)
    assert found.forged and found.probability > 0.9
    assert found.duration_s == pytest.approx(duration_s, abs=0.02)
    assert len(found.frame_scores) == pytest.approx(duration_s * 100, abs=2)
    for region, (onset_s, offset_s) in zip(found.regions, bursts, strict=True):
        assert region.onset_s == pytest.approx(onset_s, abs=0.05)  # the analysis window is 64 ms long
        assert region.offset_s == pytest.approx(offset_s, abs=0.05)
        assert 0.5 < region.probability <= 1
    assert len(found.windows) == (1 if duration_s <= 2 else np.ceil((duration_s - 2) / 1.5) + 1)


def test_windows_give_what_one_pass_gives(tmp_path, bundle):
    path = write(tmp_path / "a.wav", 7.7, [(1.2, 2.4), (5.0, 5.1)])
    whole = detect_file(path, bundle, config=DetectionConfig(window_s=10, overlap_s=0.5))
    windowed = detect_file(path, bundle, config=CONFIG)
    assert len(whole.windows) == 1 and len(windowed.windows) == 5
    np.testing.assert_allclose(windowed.frame_scores, whole.frame_scores, atol=0.05)
    assert [r[:2] for r in windowed.regions] == [r[:2] for r in whole.regions]


def test_genuine_sound_has_no_regions(tmp_path, bundle):
    found = detect_file(write(tmp_path / "a.wav", 3.0), bundle, config=CONFIG)
    assert not found.forged and found.regions == ()
    assert "nothing found" in render_text(found, "m") and render_audacity(found) == ""


def test_model_limits_bound_the_window(tmp_path, bundle):
    LoudNetwork.longest = 0
    path = write(tmp_path / "a.wav", 5.0)
    detect_file(
        path, Bundle(bundle.detector, VisionMambaConfig(max_frames=150), 16, bundle.front_end, bundle.facts)
    )
    assert LoudNetwork.longest == 150
    LoudNetwork.longest = 0
    detect_file(
        path, Bundle(bundle.detector, bundle.config, 16, bundle.front_end, bundle.facts | {"clip_s": 1.2})
    )
    assert LoudNetwork.longest == 120


def test_renderers(tmp_path, bundle):
    path = write(tmp_path / "a\x1b[2J.wav", 3.0, [(0.5, 1.0)])
    found = detect_file(path, bundle, config=CONFIG)
    text = render_text(found, "models:/m")
    assert "forged" in text and "models:/m" in text and "\x1b" not in text
    value = json.loads(render_json(found, "models:/m"))
    assert value["forged"] is True and value["operating_point"] == POINT
    assert value["regions"][0]["onset_s"] == pytest.approx(0.5, abs=0.05)
    onset, offset, label = render_audacity(found).rstrip("\n").split("\t")
    assert float(onset) < float(offset) and label.startswith("forged")
    plot_detection(found, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_overview_is_bounded(tmp_path, bundle, monkeypatch):
    monkeypatch.setattr("fakesound.evaluation.detect.OVERVIEW_COLUMNS", 50)
    found = detect_file(write(tmp_path / "a.wav", 7.0, [(3.0, 3.5)]), bundle, config=CONFIG)
    assert found.overview_CM.shape == (50, 16) and found.overview_hop_s == pytest.approx(0.14)
    loudest = found.overview_CM.max(1).argmax() * found.overview_hop_s
    assert 2.8 <= loudest <= 3.5


def test_what_cannot_be_judged_says_why(tmp_path, bundle):
    silent, text, short = (tmp_path / name for name in ("silent.wav", "text.wav", "short.wav"))
    soundfile.write(str(silent), np.zeros(RATE_HZ), RATE_HZ)
    text.write_text("hello")
    write(short, 0.1)
    reasons = {
        silent: "silence",
        text: "not audio",
        short: "too short",
        tmp_path / "none.wav": os.strerror(2),
    }
    for path, reason in reasons.items():
        with pytest.raises(UserError, match=f"could not be judged: .*{reason}"):
            detect_file(path, bundle)
    bare = Bundle(bundle.detector, bundle.config, 16, bundle.front_end, {})
    with pytest.raises(UserError, match="without thresholds"):
        detect_file(write(tmp_path / "a.wav", 1.0), bare)
    given = detect_file(tmp_path / "a.wav", bare, operating_point=OperatingPoint(clip=0.0, frame=2.0))
    assert given.forged and given.regions == () and "no single stretch" in render_text(given, "m")


def test_a_detector_of_nan_is_refused(tmp_path, bundle):
    bundle.detector.input_mean_M.copy_(torch.full((16,), float("nan")))
    with pytest.raises(UserError, match="not a number"):
        detect_file(write(tmp_path / "a.wav", 1.0), bundle)


def test_merging_and_dropping():
    scores = np.zeros(100, np.float32)
    scores[10:20] = scores[23:30] = 0.9  # 30 ms apart: one region
    scores[50:52] = 0.9  # 20 ms: too short
    scores[70:80] = 0.9  # outside the windows judged forged
    is_judged = np.arange(100) < 60
    found = find_regions(scores, is_judged, threshold=0.5, hop_s=0.01, config=DetectionConfig())
    assert [(r.onset_s, r.offset_s) for r in found] == [(0.1, 0.3)]
    assert found[0].probability == pytest.approx(17 * 0.9 / 20)


@given(st.integers(1, 6), st.integers(2, 10), st.integers(1, 30), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_cross_fading_equal_scores_changes_nothing(num_windows, overlap, last, value):
    step = 2 * overlap
    windows = [(i * step, np.full(step + overlap, value, np.float32)) for i in range(num_windows)]
    windows.append((num_windows * step, np.full(overlap + last, value, np.float32)))
    joined = cross_fade(windows, overlap)
    assert len(joined) == num_windows * step + overlap + last
    np.testing.assert_allclose(joined, value, atol=1e-6)
