"""An imported dataset is judged on the views that its protocol names: its test partition among them."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile

from fakesound.core.store import Store
from fakesound.corpora.adapters.base import Roots
from fakesound.corpora.convert import convert_manifest
from fakesound.corpora.importing import import_dataset
from fakesound.corpora.views import VIEWS as BUILT_HERE
from fakesound.evaluation.predict import predict_views
from fakesound.evaluation.trivial import trivial_detectors
from fakesound.evaluation.views import splits_of
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features
from fakesound.features.reader import FeatureSet
from fakesound.models.build import build_detector
from fakesound.models.config import FCNResNetConfig

VIEWS = ["validation", "test", "test_seen", "test_unseen"]
FRONT_END = FeatureConfig(num_mels=8, n_fft=512)


def make_dataset(folder: Path) -> Path:
    """Three sources a partition, genuine and forged by a family; test is forged by another family, too."""
    folder.mkdir()
    families = {"train": ["old"], "validation": ["old"], "test": ["old", "new"]}
    rows = [["path", "label", "family", "regions", "source", "partition"]]
    rng = np.random.default_rng(0)
    for partition, forgers in families.items():
        for source in range(3):
            for family in ("", *forgers):
                name = f"{partition}{source}{family}.wav"
                soundfile.write(folder / name, 0.1 * rng.standard_normal(8_000), 16_000)
                label, regions = ("forged", "0.1-0.3") if family else ("genuine", "")
                rows.append([name, label, family, regions, f"{partition}{source}", partition])
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder / "labels.csv"


def test_splits_are_listed_in_the_order_of_the_views() -> None:
    usual = [*BUILT_HERE, "test", "test_seen", "test_unseen"]
    table = pa.table({"split": ["another", *sorted(usual, reverse=True)] * 2})
    assert splits_of(table) == [*usual, "another"]


def test_predictions_and_trivial_detectors_know_the_views_of_the_protocol(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    import_dataset("table", Roots(make_dataset(tmp_path / "own")), tmp_path / "m.parquet", jobs=1)
    corpus = convert_manifest(tmp_path / "m.parquet", store, jobs=1)
    features = FeatureSet.open(extract_features(corpus, FRONT_END, store), expected=FRONT_END)
    roles = features.metadata["protocol"]
    model = FCNResNetConfig(widths=(4,), depths=(1,), time_strides=(1,))
    rows = predict_views(build_detector(model, FRONT_END.num_mels), features, roles).to_pylist()
    found = {view: sorted(row["family"] for row in rows if row["split"] == view) for view in VIEWS}
    assert {row["split"] for row in rows} == set(VIEWS)
    assert found == {
        "validation": ["genuine"] * 3 + ["old"] * 3,
        "test": ["genuine"] * 3 + ["new"] * 3 + ["old"] * 3,
        "test_seen": ["genuine"] * 3 + ["old"] * 3,
        "test_unseen": ["genuine"] * 3 + ["new"] * 3,
    }
    assert all(sum(row["frame_labels"]) == 20 * row["label"] for row in rows)
    assert {row.view for row in trivial_detectors(corpus.open(), roles, jobs=1)} == set(VIEWS)
