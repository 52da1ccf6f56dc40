import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.schemas import PREDICTIONS, check_schema
from fakesound.evaluation.predict import ClipFeatures, predict_clips, read_predictions, write_predictions
from fakesound.models.detector import Detector, DetectorOutput

MELS = 4


class MeanNetwork(nn.Module):
    """Frame logit = mean of the frame's mels; clip logit = mean over the valid frames."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, image_BFM, mask_BF):
        assert not self.training and torch.is_inference_mode_enabled()
        self.batches.append(mask_BF.sum(1).tolist())
        frame_logits = image_BFM.mean(-1)
        return DetectorOutput((frame_logits * mask_BF).sum(1) / mask_BF.sum(1), frame_logits)


def clip_of(index, num_frames):
    random = np.random.default_rng(index)
    return ClipFeatures(
        clip_id=f"c{index}",
        features=random.normal(size=(num_frames, MELS)).astype(np.float16),
        frame_labels=np.full(num_frames, index % 2, np.uint8),
        metadata={
            "label": index % 2,
            "family": "granular" if index % 2 else "genuine",
            "source_component": "s",
            "hop_s": 0.01,
        },
    )


def test_a_row_for_each_view_scored_once_and_as_if_alone():
    clips = [clip_of(i, n) for i, n in enumerate([30, 5, 17, 90, 1, 44, 6])]
    network = MeanNetwork()
    views = {"hard": ["c0", "c1", "c3", "c4"], "easy": ["c1", "c5"], "zeroshot": ["c6"]}
    table = predict_clips(Detector(network, MELS), iter(clips), views=views, batch_clips=2)
    check_schema(table.schema, PREDICTIONS, "predictions")
    assert sorted(n for batch in network.batches for n in batch) == [1, 5, 6, 30, 44, 90]  # c2 is in no view
    assert all(batch == sorted(batch) for batch in network.batches)
    rows = {(r["clip_id"], r["split"]): r for r in table.to_pylist()}
    assert set(rows) == {(clip_id, view) for view, ids in views.items() for clip_id in ids}
    for (clip_id, _), row in rows.items():
        clip = clips[int(clip_id[1:])]
        logits = clip.features.astype(np.float32).mean(1)
        np.testing.assert_allclose(row["frame_scores"], 1 / (1 + np.exp(-logits)), rtol=1e-5)
        assert row["score"] == pytest.approx(1 / (1 + np.exp(-logits.mean())), rel=1e-5)
        assert row["frame_labels"] == clip.frame_labels.tolist() and row["label"] == clip.metadata["label"]
        assert (row["family"], row["source"], row["hop_s"]) == (clip.metadata["family"], "s", 0.01)


def test_what_cannot_be_scored_is_an_error():
    with pytest.raises(UserError, match="c9"):
        predict_clips(Detector(MeanNetwork(), MELS), [clip_of(0, 5)], views={"hard": ["c0", "c9"]})
    broken = Detector(MeanNetwork(), MELS)
    broken.input_mean_M.fill_(float("nan"))
    with pytest.raises(UserError, match="not a number"):
        predict_clips(broken, [clip_of(0, 5)], views={"hard": ["c0"]})


def test_predictions_survive_a_file(tmp_path):
    table = predict_clips(Detector(MeanNetwork(), MELS), [clip_of(1, 5)], views={"hard": ["c1"]})
    write_predictions(tmp_path / "p.parquet", table)
    assert read_predictions(tmp_path / "p.parquet").equals(table)
    pq.write_table(table.select(["clip_id"]), tmp_path / "other.parquet")
    with pytest.raises(IntegrityError):
        read_predictions(tmp_path / "other.parquet")
