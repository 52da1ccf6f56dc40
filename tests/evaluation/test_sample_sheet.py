import numpy as np
import pytest
from matplotlib.image import imread

from fakesound.evaluation.sample_sheet import SampleClip, plot_samples


def clip(title="clip", num_frames=300):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(num_frames, 40))
    labels = np.zeros(num_frames, bool)
    labels[100:160] = True
    return SampleClip(
        title=title,
        features_FM=features,
        frame_labels_F=labels,
        frame_probabilities_F=np.linspace(0, 1, num_frames),
        hop_s=0.01,
    )


@pytest.mark.parametrize(("num_clips", "pixels"), [(1, (260, 600)), (2, (260, 1200)), (5, (780, 1200))])
def test_a_picture_has_room_for_every_clip(tmp_path, num_clips, pixels):
    plot_samples([clip() for _ in range(num_clips)], tmp_path / "sheet.png")
    assert imread(tmp_path / "sheet.png").shape[:2] == pixels


def test_forged_stretches_are_coloured_and_names_are_no_formulas(tmp_path):
    plot_samples([clip(title=r"$\nonsense$ 50 $")], tmp_path / "sheet.png")
    red, green, blue = (imread(tmp_path / "sheet.png")[170:225, :, channel] for channel in range(3))
    share = ((red > 0.9) & (green < 0.85) & (green > 0.7) & (blue < 0.85)).mean()
    assert 0.05 < share < 0.25  # a fifth of the axes' width
