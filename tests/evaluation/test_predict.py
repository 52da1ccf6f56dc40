import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.schemas import PREDICTIONS, check_schema
from fakesound.evaluation.predict import (
    ClipFeatures,
    predict_clips,
    predict_views,
    read_predictions,
    write_predictions,
)
from fakesound.features.config import FeatureConfig
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
    )


def rows_of(*indices, source="s"):
    """Manifest rows of clips: those of odd index are forged."""
    values = [
        {
            "clip_id": f"c{i}",
            "label": i % 2,
            "family": "granular" if i % 2 else "genuine",
            "source_component": source,
        }
        for i in indices
    ]
    return pa.Table.from_pylist(values)


def test_a_row_for_each_view_scored_once_and_as_if_alone():
    clips = [clip_of(i, n) for i, n in enumerate([30, 5, 17, 90, 1, 44, 6])]
    network = MeanNetwork()
    listed = {"hard": [0, 1, 3, 4], "easy": [1, 5], "zeroshot": [6]}
    views = {view: rows_of(*indices, source=f"of-{view}") for view, indices in listed.items()}
    table = predict_clips(Detector(network, MELS), iter(clips), views=views, hop_s=0.01, batch_clips=2)
    check_schema(table.schema, PREDICTIONS, "predictions")
    assert sorted(n for batch in network.batches for n in batch) == [1, 5, 6, 30, 44, 90]  # c2 is in no view
    assert all(batch == sorted(batch) for batch in network.batches)
    rows = {(r["clip_id"], r["split"]): r for r in table.to_pylist()}
    assert set(rows) == {(f"c{i}", view) for view, indices in listed.items() for i in indices}
    for (clip_id, view), row in rows.items():
        clip = clips[int(clip_id[1:])]
        logits = clip.features.astype(np.float32).mean(1)
        np.testing.assert_allclose(row["frame_scores"], 1 / (1 + np.exp(-logits)), rtol=1e-5)
        assert row["score"] == pytest.approx(1 / (1 + np.exp(-logits.mean())), rel=1e-5)
        assert row["frame_labels"] == clip.frame_labels.tolist() and row["label"] == int(clip_id[1:]) % 2
        family = "granular" if row["label"] else "genuine"
        assert (row["family"], row["source"], row["hop_s"]) == (family, f"of-{view}", 0.01)


def test_what_cannot_be_scored_is_an_error():
    with pytest.raises(UserError, match="c9"):
        predict_clips(
            Detector(MeanNetwork(), MELS), [clip_of(0, 5)], views={"hard": rows_of(0, 9)}, hop_s=0.01
        )
    broken = Detector(MeanNetwork(), MELS)
    broken.input_mean_M.fill_(float("nan"))
    with pytest.raises(UserError, match="not a number"):
        predict_clips(broken, [clip_of(0, 5)], views={"hard": rows_of(0)}, hop_s=0.01)


def test_predictions_survive_a_file(tmp_path):
    detector = Detector(MeanNetwork(), MELS)
    table = predict_clips(detector, [clip_of(1, 5)], views={"hard": rows_of(1)}, hop_s=0.01)
    write_predictions(tmp_path / "p.parquet", table)
    assert read_predictions(tmp_path / "p.parquet").equals(table)
    pq.write_table(table.select(["clip_id"]), tmp_path / "other.parquet")
    with pytest.raises(IntegrityError):
        read_predictions(tmp_path / "other.parquet")


class StoredFeatures:
    """Stands for a FeatureSet: the manifest's columns with `row`, and features on request."""

    def __init__(self):
        self.clips = [clip_of(i, 5 + i) for i in range(6)]
        regimes = ["train", "train", "wide", "wide", "wide", "wide"]
        rows = [
            row
            | {
                "row": i,
                "partition": "test",
                "length_regime": regimes[i],
                "source_ids": ["s"],
                "mask_id": f"m{i}",
            }
            for i, row in enumerate(rows_of(*range(6)).to_pylist())
        ]
        self.table = pa.Table.from_pylist(rows)
        self.config = FeatureConfig()

    def load(self, rows):
        return [self.clips[row].features for row in rows]

    def frame_labels(self, rows):
        return [self.clips[row].frame_labels for row in rows]


def test_views_of_stored_features():
    features = StoredFeatures()
    detector = Detector(MeanNetwork(), MELS)
    roles = {"seen": ["granular"], "apart": ["splice"], "test_unseen": ["nmf"]}
    table = predict_views(detector, features, roles, views=("easy", "hard", "zeroshot"), batch_clips=2)
    found = sorted((row["split"], row["clip_id"]) for row in table.to_pylist())
    assert found == [
        *[("easy", "c0"), ("easy", "c1"), ("hard", "c2"), ("hard", "c3"), ("hard", "c4"), ("hard", "c5")],
        *[("zeroshot", "c2"), ("zeroshot", "c4")],  # no clip of an unseen family here: the genuine ones
    ]
