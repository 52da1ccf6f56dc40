import hashlib
import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.regions import Region, frame_labels
from fakesound.core.store import Store
from fakesound.features import extract
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import (
    extract_features,
    features_place,
    finish_features,
    plan_shards,
    shard_name,
    write_shard,
)
from fakesound.features.logmel import LogMel
from fakesound.features.reader import FeatureSet

CONFIG = FeatureConfig(sample_rate_hz=8000, n_fft=256, hop_samples=80, num_mels=20)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, make_corpus):
    """A store with a corpus of 70 clips and its features."""
    store = Store(str(tmp_path_factory.mktemp("store")))
    corpus = make_corpus(store, num_clips=70)
    return store, corpus, extract_features(corpus, CONFIG, store)


def shard_hashes(place):
    return {
        name: hashlib.sha256(place.local_path(name).read_bytes()).hexdigest()
        for name in place.names()
        if name.startswith("shard")
    }


def test_every_manifest_column_and_clip_is_there(shared):
    _, corpus, pointer = shared
    features = FeatureSet.open(pointer, CONFIG)
    manifest = pq.read_table(corpus.open().checked_path("manifest.parquet"))
    assert features.table.select(manifest.column_names).equals(manifest)
    assert len(features) == features.metadata["num_clips"] == 70
    assert features.metadata["corpus"] == {"uri": corpus.uri, "digest": corpus.digest}
    assert features.metadata["protocol"] == corpus.open().metadata["protocol"]


def test_random_access_gives_the_clip_asked_for(shared):
    _, corpus, pointer = shared
    features = FeatureSet.open(pointer)
    extractor = LogMel(CONFIG)
    rows = [69, 3, 3, 41, 0, 17]
    for row, loaded in zip(rows, features.load(rows), strict=True):
        clip = features.table.slice(row, 1).to_pylist()[0]
        samples, _ = extract.soundfile.read(corpus.open().checked_path(clip["path"]), dtype="float32")
        expected = extractor(torch.from_numpy(samples)[None])[0].numpy().astype(np.float16)
        assert loaded.dtype == np.float16
        np.testing.assert_array_equal(loaded, expected)
        regions = [Region(**region) for region in clip["regions"]]
        np.testing.assert_array_equal(
            features.frame_labels([row])[0], frame_labels(regions, len(expected), 80, 8000)
        )
        assert features.num_frames[row] == len(expected) == CONFIG.num_frames(len(samples))


def test_reading_on_keeps_few_row_groups_in_memory(shared, monkeypatch):
    monkeypatch.setattr("fakesound.features.reader.CACHED_ROW_GROUPS", 1)
    features = FeatureSet.open(shared[2])
    whole = features.load(range(len(features)))
    assert len(features._cache) == 1
    np.testing.assert_array_equal(features.load([2])[0], whole[2])
    with pytest.raises(IndexError):
        features.load([70])


def test_rows_filter_by_columns_and_clip_ids(shared):
    features = FeatureSet.open(shared[2])
    train = features.rows(partition="train", label=1)
    assert 0 < train.num_rows < 70
    assert set(train["partition"].to_pylist()) == {"train"}
    assert set(train["label"].to_pylist()) == {1}
    ids = features.table["clip_id"].to_pylist()
    assert features.rows(clip_ids=[ids[5], ids[2], "unknown"])["row"].to_pylist() == [2, 5]
    both = features.rows(partition=["train", "test"])
    assert set(both["partition"].to_pylist()) == {"train", "test"}
    assert features.rows(clip_ids=[]).num_rows == 0
    with pytest.raises(UserError, match="no column"):
        features.rows(colour="red")


def test_shards_are_the_same_bytes_however_they_are_made(shared, tmp_path):
    store, corpus, _ = shared
    other = Store(str(tmp_path / "other"))
    for shard in reversed(range(plan_shards(corpus, CONFIG, other))):
        write_shard(corpus, CONFIG, other, shard)
    finish_features(corpus, CONFIG, other)
    ours = shard_hashes(features_place(corpus, CONFIG, other))
    assert ours == shard_hashes(features_place(corpus, CONFIG, store))
    assert len(ours) == 4


def test_two_processes_write_the_same_bytes(shared, tmp_path, monkeypatch):
    store, corpus, pointer = shared
    monkeypatch.setattr(extract, "CLIPS_WORTH_A_PROCESS", 1)
    other = Store(str(tmp_path))
    assert extract_features(corpus, CONFIG, other, num_processes=2).digest == pointer.digest
    ours = shard_hashes(features_place(corpus, CONFIG, other))
    assert ours == shard_hashes(features_place(corpus, CONFIG, store))


def test_only_what_is_missing_is_done(shared, tmp_path, monkeypatch):
    _, corpus, _ = shared
    store = Store(str(tmp_path))
    write_shard(corpus, CONFIG, store, 1)
    with pytest.raises(IntegrityError, match="lacks shard-00000"):
        finish_features(corpus, CONFIG, store)
    written = []
    monkeypatch.setattr(
        extract,
        "_with_features",
        lambda rows, *rest, real=extract._with_features: (
            written.append(rows["clip_id"][0].as_py()),
            real(rows, *rest),
        )[1],
    )
    pointer = extract_features(corpus, CONFIG, store)
    assert len(written) == 3
    assert extract_features(corpus, CONFIG, store) == pointer
    assert len(written) == 3


def test_a_damaged_unfinished_shard_is_written_again(shared, tmp_path):
    _, corpus, _ = shared
    store = Store(str(tmp_path))
    place = features_place(corpus, CONFIG, store)
    write_shard(corpus, CONFIG, store, 0)
    whole = place.read_bytes(shard_name(0, 4))
    place.write_bytes(shard_name(0, 4), whole[: len(whole) // 2])
    write_shard(corpus, CONFIG, store, 0)
    assert place.read_bytes(shard_name(0, 4)) == whole


def test_another_front_end_is_refused_by_name_of_the_command(shared):
    _, _, pointer = shared
    with pytest.raises(UserError, match=r"num_mels: 20, wanted 32.*fakesound features"):
        FeatureSet.open(pointer, CONFIG.model_copy(update={"num_mels": 32}))


@pytest.mark.parametrize("key", [b"features_digest", b"schema_version", b"features_version", b"table"])
def test_a_file_of_another_digest_or_version_is_refused(shared, tmp_path, key):
    _, corpus, _ = shared
    store = Store(str(tmp_path))
    extract_features(corpus, CONFIG, store)
    place = features_place(corpus, CONFIG, store)
    table = pq.read_table(place.local_path(shard_name(2, 4)))
    changed = table.replace_schema_metadata({**table.schema.metadata, key: b"99"})
    with place.writing(shard_name(2, 4)) as path:
        pq.write_table(changed, path)
    pointer = place.complete(place.metadata)
    with pytest.raises(UserError, match="fakesound features"):
        FeatureSet.open(pointer)


def test_altered_bytes_are_refused(shared, tmp_path):
    _, corpus, _ = shared
    store = Store(str(tmp_path))
    pointer = extract_features(corpus, CONFIG, store)
    path = Path(pointer.open().local_path(shard_name(0, 4)))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="altered"):
        FeatureSet.open(pointer)


def test_clips_of_another_rate_are_refused(shared):
    store, corpus, _ = shared
    with pytest.raises(UserError, match="the front end takes mono at 16000 Hz"):
        write_shard(corpus, CONFIG.model_copy(update={"sample_rate_hz": 16_000}), store, 0)
    with pytest.raises(UserError, match="no such shard"):
        write_shard(corpus, CONFIG, store, 4)


def test_an_empty_corpus_is_refused(tmp_path, make_corpus):
    store = Store(str(tmp_path))
    with pytest.raises(UserError, match="no clips"):
        plan_shards(make_corpus(store, num_clips=0), CONFIG, store)


def test_killed_while_writing_leaves_nothing_that_reads_as_whole(shared, tmp_path, monkeypatch):
    _, corpus, _ = shared
    store = Store(str(tmp_path / "store"))
    fork = get_context("fork")
    reached = fork.Event()
    calls = []

    def stop_at_the_second_row_group(*args, real=extract._with_features):
        calls.append(1)
        if len(calls) == 2:
            reached.set()
            time.sleep(60)
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(extract, "_with_features", stop_at_the_second_row_group)
        patched.setattr(extract, "CLIPS_PER_ROW_GROUP", 4)
        process = fork.Process(target=write_shard, args=(corpus, CONFIG, store, 0))
        process.start()
        assert reached.wait(30)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    place = features_place(corpus, CONFIG, store)
    assert any(Path(place.local_path(".")).iterdir())
    assert place.names() == []
    with pytest.raises(IntegrityError, match="lacks"):
        finish_features(corpus, CONFIG, store)
    assert len(FeatureSet.open(extract_features(corpus, CONFIG, store))) == 70
