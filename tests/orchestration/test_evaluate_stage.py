import pytest

from fakesound.models.build import build_detector
from fakesound.models.bundle import Bundle
from fakesound.models.config import FCNResNetConfig, LCNNConfig, VisionMambaConfig
from fakesound.orchestration.stages.evaluate import _step_frames


@pytest.mark.parametrize(
    ("config", "step_frames"),
    [
        (VisionMambaConfig(embed_dim=16, depth=1, patch_frames=10), 10),
        (VisionMambaConfig(embed_dim=16, depth=1, patch_frames=10, stride_frames=5), 5),
        (FCNResNetConfig(widths=(8, 8), depths=(1, 1), time_strides=(1, 2)), 4),
        (LCNNConfig(time_strides=(2, 2, 2, 1)), 8),
    ],
)
def test_the_oracle_decides_as_often_as_the_model(config, step_frames):
    bundle = Bundle(build_detector(config, 64), config, num_mels=64, front_end={}, facts={})
    assert _step_frames(bundle) == step_frames
