from typing import Any

import numpy as np
import pytest

from fakesound.core.audio import write_flac
from fakesound.core.regions import Region
from fakesound.core.store import Place, Store
from fakesound.corpora.config import Protocol
from fakesound.corpora.manifest import MANIFEST_NAME, manifest_table, write_table
from fakesound.corpora.views import VIEWS
from fakesound.evaluation.trivial import FRAME_FEATURES, WHOLE, TrivialRow, clip_cues, trivial_detectors

RATE_HZ = 32_000
PARTS = {
    "train": (("train", "griffin_lim"),),
    "validation": (("train", "griffin_lim"),),
    "validation_unseen": (("wide", "granular"),),
    "test": (
        ("train", "griffin_lim"),
        ("wide", "griffin_lim"),
        ("wide", "noise_vocoder"),
        ("wide", "splice"),
    ),
}


def manifest_row(partition: str, source: int, regime: str, family: str, region: Region) -> dict[str, Any]:
    name, unit = f"{partition}-{source}-{regime}-{family}", f"{partition}{source}"
    forged = family != "genuine"
    return {
        "clip_id": name,
        "path": f"audio/{name}.flac",
        "source_ids": [unit],
        "source_component": unit,
        "group": unit,
        "partition": partition,
        "family": family,
        "mechanism": family,
        "label": int(forged),
        "length_regime": regime,
        "mask_id": f"{unit}-{regime}",
        "regions": [region._asdict()] if forged else [],
        "control_regions": [],
        "duration_s": 0.5,
        "sample_rate_hz": RATE_HZ,
        "native_sample_rate_hz": 16_000,
        "native_bandwidth_hz": 8e3,
        "content_sha256": "",
        "seed": 0,
    }


def make_corpus(
    place: Place, *, sources: int, gain_of_forged: float, gain_of_region: float, silent: tuple[str, ...] = ()
) -> Place:
    """White noise, one a source; forged clips, but of `silent` families, are louder in all or in part."""
    rng = np.random.default_rng(0)
    rows = []
    for partition, made in PARTS.items():
        for source in range(sources):
            onset = 12_000 * source // (sources - 1)  # every position alike
            noise = (0.02 * rng.standard_normal(16_000)).astype(np.float32)
            for regime, family in (*made, ("train", "genuine"), ("wide", "genuine")):
                samples = noise.copy()
                if family not in ("genuine", *silent):
                    samples *= gain_of_forged
                    samples[onset : onset + 4_000] *= gain_of_region
                region = Region(onset / RATE_HZ, (onset + 4_000) / RATE_HZ)
                rows.append(manifest_row(partition, source, regime, family, region))
                with place.writing(rows[-1]["path"]) as path:
                    write_flac(path, samples, RATE_HZ)
    write_table(place, MANIFEST_NAME, manifest_table(rows))
    place.complete({"protocol": Protocol().model_dump(mode="json")})
    return place


def detect(tmp_path, **gains: float) -> dict[tuple[str, str, str], TrivialRow]:
    corpus = make_corpus(Store(str(tmp_path)).place("corpora", "k"), sources=12, **gains)
    return {
        (row.view, row.level, row.fit): row
        for row in trivial_detectors(corpus, corpus.metadata["protocol"], jobs=1)
        if row.part == WHOLE
    }


def test_nothing_is_found_where_nothing_leaks(tmp_path) -> None:
    rows = detect(tmp_path, gain_of_forged=1.0, gain_of_region=1.0)
    assert set(rows) == {
        (v, level, fit) for v in VIEWS for level in ("clip", "frame") for fit in ("train", "cross")
    }
    assert all(row.low <= row.auc <= row.high for row in rows.values())
    found = {key: row.auc for key, row in rows.items() if row.fit == "train" and abs(row.auc - 0.5) >= 0.1}
    assert not found


def test_louder_clips_are_found_at_clip_level(tmp_path) -> None:
    rows = detect(tmp_path, gain_of_forged=1.3, gain_of_region=1.0)
    assert all(row.auc > 0.95 for (_, level, _), row in rows.items() if level == "clip")


def test_louder_regions_are_found_at_frame_level(tmp_path) -> None:
    rows = detect(tmp_path, gain_of_forged=1.0, gain_of_region=1.5)
    assert all(row.auc > 0.85 and row.low > 0.8 for (_, level, _), row in rows.items() if level == "frame")


def test_a_family_that_leaks_is_found_by_name(tmp_path) -> None:
    gains = {"gain_of_forged": 1.0, "gain_of_region": 1.5, "silent": ("noise_vocoder",)}
    corpus = make_corpus(Store(str(tmp_path)).place("corpora", "k"), sources=12, **gains)
    roles = corpus.metadata["protocol"] | {"test_unseen": ["noise_vocoder", "griffin_lim"]}
    rows = [row for row in trivial_detectors(corpus, roles, jobs=1) if row.view == "zeroshot"]
    assert {row.part for row in rows} == {WHOLE, "noise_vocoder", "griffin_lim"}
    found = {row.part: row.auc for row in rows if (row.level, row.fit) == ("frame", "train")}
    assert found["griffin_lim"] > 0.85 and abs(found["noise_vocoder"] - 0.5) < 0.1


def test_without_training_clips_detectors_are_fitted_within_each_view_alone(tmp_path) -> None:
    corpus = make_corpus(
        Store(str(tmp_path)).place("corpora", "k"), sources=6, gain_of_forged=1.0, gain_of_region=1.0
    )
    roles = corpus.metadata["protocol"] | {"seen": ["nmf"], "validation_unseen": ["nmf"]}
    rows = trivial_detectors(corpus, roles, jobs=1)
    assert {row.fit for row in rows} == {"cross"}
    assert {row.view for row in rows} == {"zeroshot", "splice"}  # the others hold no forged clip


@pytest.mark.parametrize("num_samples", [1, 319, 320, 9_700, 32_000])
def test_cues_of_any_length_are_finite_with_one_label_a_frame(num_samples: int) -> None:
    samples = (0.1 * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)
    cues = clip_cues(samples, RATE_HZ, 8_000, [Region(0.0, 0.1)])
    assert cues.frames.shape == (max(1, num_samples // 320), len(FRAME_FEATURES))
    assert cues.frame_labels.shape == cues.frames.shape[:1] and cues.frame_labels[0] == 1
    assert np.isfinite(cues.frames).all() and np.isfinite(cues.clip).all()
