"""From a dataset on disk to a manifest, and from there to a corpus that the rest of the road runs on."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from fakesound.core.audio import read_mono
from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.schemas import GENUINE, MANIFEST
from fakesound.core.store import Store, sha256_of
from fakesound.corpora import convert as converting
from fakesound.corpora.adapters.base import Roots
from fakesound.corpora.convert import convert_manifest
from fakesound.corpora.describe import describe_rejects, describe_table, plot_lengths
from fakesound.corpora.imported import is_imported, protocol_of, read_imported
from fakesound.corpora.importing import import_dataset
from fakesound.corpora.ingest import Rejection
from fakesound.corpora.leakage import check_manifest
from fakesound.corpora.manifest import read_manifest, read_rejects, rejects_table
from fakesound.corpora.polarity import check_polarity
from fakesound.corpora.seeds import seed_for
from fakesound.corpora.views import view_rows

RATE_HZ = 8_000


def noise(path: Path, seconds: float, seed: int, rate_hz: int = RATE_HZ) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))
    soundfile.write(path, samples.astype(np.float32), rate_hz, format=path.suffix[1:].upper())


def import_table(folder: Path, rows: list[dict], **values) -> pa.Table:
    """`corpus import` of a CSV; audio is made for rows with `seconds`."""
    columns = ["path", "label", "regions", "family", "source", "group", "partition"]
    for seed, row in enumerate(rows):
        if row.get("seconds"):
            noise(folder / row["path"], row["seconds"], row.get("seed", seed))
    folder.mkdir(exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    import_dataset("table", Roots(folder / "labels.csv"), folder / "m.parquet", jobs=1, **values)
    return read_imported(folder / "m.parquet")[0]


def pairs(count: int, **values) -> list[dict]:
    """A genuine and a forged clip of each of `count` sources, without a split."""
    return [
        {"path": f"{kind}{k}.wav", "label": kind, "source": f"s{k}", "seconds": 0.5 + 0.1 * k, **values}
        for k in range(count)
        for kind in ("genuine", "forged")
    ]


def test_rows_say_what_the_headers_the_bytes_and_the_labels_say(tmp_path: Path) -> None:
    rows = [
        {"path": "a.wav", "label": "genuine", "group": "ann", "partition": "train", "seconds": 1.0},
        {"path": "b/c.flac", "label": "1", "regions": "0.25-0.5 0.75-1.3", "family": "tts", "source": "a.wav"}
        | {"group": "ann", "partition": "train", "seconds": 1.25},
        {"path": "d.wav", "label": "forged", "group": "bob", "partition": "test", "seconds": 0.5},
    ]
    table = import_table(
        tmp_path / "d", [*rows, rows[0] | {"path": "v.wav", "partition": "validation", "group": "v"}]
    )
    assert table.schema.equals(MANIFEST)
    first, second, third, _ = table.to_pylist()
    assert Path(second["path"]) == tmp_path / "d" / "b" / "c.flac"
    assert second["content_sha256"] == sha256_of(Path(second["path"]))
    assert (second["duration_s"], second["sample_rate_hz"]) == (1.25, RATE_HZ)
    assert [tuple(region.values()) for region in second["regions"]] == [(0.25, 0.5), (0.75, 1.25)]
    assert [tuple(region.values()) for region in third["regions"]] == [(0, 0.5)] and first["regions"] == []
    assert first["source_component"] == second["source_component"] != third["source_component"]
    assert [row["partition"] for row in (first, second, third)] == ["train", "train", "test"]
    assert is_imported(tmp_path / "d" / "m.parquet")


def test_what_is_missing_or_unusable_is_listed_beside_the_manifest(tmp_path: Path) -> None:
    rows = [
        *pairs(4),
        {"path": "gone.wav", "label": "genuine"},
        {"path": "letter.wav", "label": "genuine"},
        {"path": "short.wav", "label": "forged", "regions": "0.1-3", "seconds": 1.0},
        {"path": "x" * 300 + ".wav", "label": "genuine"},
    ]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "letter.wav").write_text("not a sound")
    table = import_table(tmp_path / "d", rows)
    assert table.num_rows == 8
    with (tmp_path / "d" / "m.rejects.csv").open(newline="") as stream:
        rejects = {row["clip"]: row["reason"] for row in csv.DictReader(stream)}
    assert set(rejects) == {"gone.wav", "letter.wav", "short.wav", "x" * 300 + ".wav"}
    assert rejects["gone.wav"].startswith("missing: no such file") and "not audio" in rejects["letter.wav"]
    assert "labels.csv:12: a region ends long after the 1.00 s" in rejects["short.wav"]
    facts = read_imported(tmp_path / "d" / "m.parquet")[1]
    assert (facts["missing"], facts["rejected"]) == (2, 2)
    import_table(tmp_path / "d", pairs(4))
    assert not (tmp_path / "d" / "m.rejects.csv").exists()


def test_no_audio_at_all_is_a_message_and_a_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of 2 clips can be used, 2 for want of audio; the list is in"):
        import_table(tmp_path / "d", [{"path": f"{k}.wav", "label": "genuine"} for k in range(2)])
    assert (tmp_path / "d" / "m.rejects.csv").exists() and not (tmp_path / "d" / "m.parquet").exists()


def test_a_forged_clip_without_a_forged_stretch_is_a_reject_and_the_rest_is_converted(tmp_path: Path) -> None:
    beyond = {"path": "beyond.wav", "label": "forged", "regions": "1.0-1.2 1.5-1.9", "seconds": 1.0}
    table = import_table(tmp_path / "d", [*pairs(4), beyond])
    assert table.num_rows == 8
    [[_, reason]] = list(csv.reader((tmp_path / "d" / "m.rejects.csv").open(newline="")))[1:]
    assert "labels.csv:10: no region starts within the 1.00 s that the audio lasts" in reason
    check_polarity(table)
    assert convert_manifest(tmp_path / "d" / "m.parquet", Store(str(tmp_path / "s")), jobs=1).open()


def test_a_line_that_says_forged_and_lists_genuine_segments_only_is_a_reject(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        lines = [f"{split}a 0-0.5-T 1", f"{split}b 0-0.2-T/0.2-0.5-F 0"] + ["odd 0-0.5-T 0"] * (
            split == "dev"
        )
        (tmp_path / f"HAD_{split}_label.txt").write_text("\n".join(lines))
        for seed, line in enumerate(lines):
            noise(tmp_path / "conbine" / f"{line.split()[0]}.wav", 0.5, seed + sum(split.encode()))
    report = import_dataset("had", Roots(tmp_path), tmp_path / "m.parquet", jobs=1)
    assert (report.num_clips, report.num_rejected) == (6, 1)
    assert "dev_label.txt:3: labelled as forged" in (tmp_path / "m.rejects.csv").read_text()
    check_polarity(read_imported(tmp_path / "m.parquet")[0])


@pytest.mark.parametrize("rejected", [[], [{"path": "gone.wav", "label": "genuine"}]])
def test_a_manifest_that_cannot_be_written_is_a_message(tmp_path: Path, rejected: list[dict]) -> None:
    import_table(tmp_path / "d", [*pairs(4), *rejected])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"/file/m\.\S+ cannot be written: what should be a folder"):
        import_dataset("table", Roots(tmp_path / "d" / "labels.csv"), tmp_path / "file" / "m.parquet", jobs=1)


def test_a_clip_listed_twice_counts_once_but_two_clips_of_one_name_are_refused(tmp_path: Path) -> None:
    rows = pairs(4)
    assert import_table(tmp_path / "d", [*rows, rows[3]]).num_rows == 8
    with pytest.raises(UserError, match=r"labels\.csv:10: the clip 'forged1\.wav' is another one in .*csv:5"):
        import_table(tmp_path / "d", [*rows, rows[3] | {"regions": "0.1-0.2"}])


def test_speakers_sources_and_equal_bytes_make_a_component_that_no_partition_splits(tmp_path: Path) -> None:
    rows = pairs(12)
    for row in rows[:6]:
        row["group"] = "one speaker"
    rows += [{"path": "copy.wav", "label": "genuine", "seconds": rows[8]["seconds"], "seed": 8}]
    table = import_table(tmp_path / "d", rows)
    check_manifest(table)
    of_clip = {row["clip_id"]: row for row in table.to_pylist()}
    assert {
        of_clip[f"{kind}{k}.wav"]["source_component"] for kind in (GENUINE, "forged") for k in range(3)
    } == {"s0"}
    assert of_clip["copy.wav"]["source_component"] == of_clip["genuine4.wav"]["source_component"]
    assert len({row["source_component"] for row in of_clip.values()}) == 10
    assert {row["partition"] for row in of_clip.values()} == {"train", "validation", "test"}
    again = import_table(tmp_path / "d", rows, seed=1)
    assert again["partition"].to_pylist() != table["partition"].to_pylist()


def test_a_split_without_validation_has_it_held_out_of_train_by_source(tmp_path: Path) -> None:
    rows = pairs(10, partition="train") + [
        {"path": f"t{k}.wav", "label": kind, "partition": "test", "seconds": 0.5}
        for k, kind in enumerate((GENUINE, "forged"))
    ]
    table = import_table(tmp_path / "d", rows)
    held_out = [row for row in table.to_pylist() if row["partition"] == "validation"]
    assert 2 <= len(held_out) <= 6 and {row["label"] for row in held_out} == {0, 1}
    check_manifest(table)
    assert {row["clip_id"] for row in table.to_pylist() if row["partition"] == "test"} == {"t0.wav", "t1.wav"}


def test_half_a_split_and_too_few_sources_are_refused(tmp_path: Path) -> None:
    rows = pairs(2)
    with pytest.raises(UserError, match=r"2 independent sources are too few for train, validation, test"):
        import_table(tmp_path / "d", rows)
    rows[0]["partition"] = "train"
    with pytest.raises(UserError, match=r"labels\.csv:3: no partition, while other clips have one"):
        import_table(tmp_path / "d", rows)


def asvspoof(folder: Path) -> None:
    """ASVspoof 2019 in miniature: a speaker in train, one in dev; eval with a twin and an unseen attack."""
    lines = {
        "train.trn": ["A T1 - - bonafide", "A T2 - A04 spoof"],
        "dev.trl": ["B D1 - - bonafide", "B D2 - A01 spoof"],
        "eval.trl": ["C E1 - - bonafide", "C E2 - A16 spoof", "D E3 - A07 spoof", "D E4 - - bonafide"],
    }
    (folder / "protocols").mkdir(parents=True)
    for name, rows in lines.items():
        (folder / "protocols" / f"ASVspoof2019.LA.cm.{name}.txt").write_text("\n".join(rows))
        for seed, row in enumerate(rows):
            audio = folder / f"ASVspoof2019_LA_{name.split('.')[0]}" / "flac" / f"{row.split()[1]}.flac"
            noise(audio, 0.5, seed + len(name) * 10)


def test_attacks_come_out_seen_and_unseen_as_the_dataset_has_them(tmp_path: Path) -> None:
    asvspoof(tmp_path / "LA")
    import_dataset("asvspoof2019", Roots(tmp_path / "LA"), tmp_path / "m.parquet", jobs=1)
    table, facts = read_imported(tmp_path / "m.parquet")
    protocol = facts["protocol"]
    assert protocol["seen"] == ["A01", "A04", "A16"] and protocol["test_unseen"] == ["A07"]
    assert protocol["views"] == ["validation", "test", "test_seen", "test_unseen"]
    clips = {view: view_rows(table, view, protocol)["clip_id"].to_pylist() for view in protocol["views"]}
    assert clips == {
        "validation": ["D1", "D2"],
        "test": ["E1", "E2", "E3", "E4"],
        "test_seen": ["E1", "E2", "E4"],
        "test_unseen": ["E1", "E3", "E4"],
    }
    eval_only = table.filter(pa.array([row["partition"] == "test" for row in table.to_pylist()]))
    assert protocol_of(eval_only)["test_unseen"] == ["A07", "A16"]
    assert protocol_of(eval_only, ["A04"])["seen"] == ["A16"]


def test_families_of_a_validation_part_of_its_own_are_chosen_on_and_not_unseen(tmp_path: Path) -> None:
    rows = [
        {"path": f"{part}{k}.wav", "label": kind, "family": family if kind == "forged" else ""}
        | {"partition": part, "seconds": 0.5}
        for part, family in (("train", "a"), ("validation", "a"), ("validation_unseen", "b"), ("test", "c"))
        for k, kind in enumerate((GENUINE, "forged"))
    ]
    facts = import_table(tmp_path / "d", rows) and read_imported(tmp_path / "d" / "m.parquet")[1]
    assert facts["protocol"] == {
        "seen": ["a"], "validation_unseen": ["b"], "test_unseen": ["c"], "apart": [],
        "views": ["validation", "validation_unseen", "test", "test_unseen"],
    }  # fmt: skip


def fakesound(folder: Path) -> Roots:
    """FakeSound in miniature: forged audio under its own paths, genuine in AudioCaps."""
    regions = {"train": "0.5_1.0", "easy": "0.25_0.75", "hard": "0.04_1.96", "zeroshot": "0.04_1.96"}
    for name, region in regions.items():
        sources = [f"{'train-' if name == 'train' else 'test--'}{k:05d}" for k in range(4)]
        entries = []
        for source in sources:
            entries += [
                {"audio_id": f"{source}_{region}", "label": 1, "onset_offset": region}
                | {"filepath": f"FakeSound/deepfake_data/{name}/{source}_{region}.wav"},
                {
                    "audio_id": source,
                    "label": 0,
                    "onset_offset": "0_0",
                    "filepath": f"FakeSound/{source}.wav",
                },
            ]
            for path in (folder / entries[-2]["filepath"], folder / "caps" / f"Y{source}.wav"):
                noise(path, 2.0, seed_for(str(path.relative_to(folder))))
        (folder / f"{name}.json").write_text(json.dumps({"audios": entries}))
    return Roots(folder, folder / "caps")


def test_fakesounds_three_views_are_its_own(tmp_path: Path) -> None:
    import_dataset("fakesound", fakesound(tmp_path / "f"), tmp_path / "m.parquet", jobs=1)
    table, facts = read_imported(tmp_path / "m.parquet")
    protocol = facts["protocol"]
    assert protocol["views"] == ["validation", "easy", "hard", "zeroshot"]
    for view in ("easy", "hard", "zeroshot"):
        rows = view_rows(table, view, protocol).to_pylist()
        assert sorted(row["label"] for row in rows) == [0] * 4 + [1] * 4, view
        forged = {row["clip_id"].split("/")[0] for row in rows if row["label"]}
        assert forged == {view}
    masks = {
        view: {row["mask_id"] for row in view_rows(table, view, protocol).to_pylist() if row["label"]}
        for view in ("hard", "zeroshot")
    }
    assert masks["hard"] == masks["zeroshot"]


def test_a_converted_corpus_is_cut_resampled_and_labelled_along(tmp_path: Path) -> None:
    rows = [
        {"path": "long.wav", "label": "forged", "regions": "2.5-3 9.9-10.6 20.995-22", "partition": "test"}
        | {"seconds": 25.0},
        {"path": "stereo.wav", "label": "genuine", "partition": "test", "seconds": 0.5},
        {"path": "v.wav", "label": "genuine", "partition": "validation", "seconds": 0.5},
        {"path": "w.wav", "label": "forged", "partition": "validation", "seconds": 0.5},
    ]
    folder = tmp_path / "d"
    import_table(folder, rows)
    both = 0.1 * np.random.default_rng(5).standard_normal((11_025, 2))
    soundfile.write(folder / "stereo.wav", both, 22_050)
    import_dataset("table", Roots(folder / "labels.csv"), folder / "m.parquet", jobs=1)
    corpus = convert_manifest(folder / "m.parquet", Store(str(tmp_path / "store")), jobs=1).open()
    table = read_manifest(corpus)
    of_clip = {row["clip_id"]: row for row in table.to_pylist()}
    parts = [of_clip[f"long.wav#{number}"] for number in range(3)]
    assert all(row["duration_s"] == pytest.approx(25 / 3, abs=1e-3) for row in parts)
    regions = [[tuple(region.values()) for region in row["regions"]] for row in parts]
    cut_s = 66_667 / RATE_HZ
    for found, wanted in zip(
        regions,
        [[(2.5, 3)], [(9.9 - cut_s, 10.6 - cut_s)], [(20.995 - 2 * cut_s, 22 - 2 * cut_s)]],
        strict=True,
    ):
        assert found == [pytest.approx(region, abs=1e-9) for region in wanted]
    assert {row["sample_rate_hz"] for row in of_clip.values()} == {32_000}
    assert of_clip["stereo.wav#0"]["native_sample_rate_hz"] == 22_050
    assert of_clip["long.wav#0"]["native_bandwidth_hz"] <= 4_000
    for row in of_clip.values():
        samples, rate_hz = soundfile.read(corpus.checked_path(row["path"]))
        assert (rate_hz, samples.shape) == (32_000, (round(row["duration_s"] * 32_000),))
        assert sha256_of(corpus.local_path(row["path"])) == row["content_sha256"]
    check_manifest(table)
    check_polarity(table)
    assert corpus.metadata["protocol"]["views"] == ["validation", "test", "test_seen"]
    assert len({row["source_component"] for row in parts}) == 1


def test_a_part_without_a_forged_stretch_is_genuine_and_a_sliver_is_dropped(tmp_path: Path) -> None:
    rows = [
        *pairs(3, partition="test"),
        {"path": "long.wav", "label": "forged", "regions": "2-10.005", "partition": "test", "seconds": 20.0},
    ]
    import_table(tmp_path / "d", rows)
    corpus = convert_manifest(tmp_path / "d" / "m.parquet", Store(str(tmp_path / "s")), jobs=1).open()
    first, second = (row for row in read_manifest(corpus).to_pylist() if row["clip_id"].startswith("long"))
    assert (first["label"], first["family"], second["label"], second["family"]) == (1, "forged", 0, GENUINE)
    assert second["regions"] == [] and second["mechanism"] == GENUINE


def test_converting_again_finds_it_made_wherever_the_dataset_lies(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    for place in ("here", "there"):
        import_table(tmp_path / place, pairs(4))
    first, second = (convert_manifest(tmp_path / p / "m.parquet", store, jobs=1) for p in ("here", "there"))
    assert first == second


def test_a_conversion_that_was_killed_leaves_nothing_that_counts_as_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"))
    import_table(tmp_path / "d", pairs(4))
    honest = converting.write_flac
    written = []

    def dies(path, *rest):
        written.append(path)
        honest(path, *rest)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(converting, "write_flac", dies)
    with pytest.raises(KeyboardInterrupt):
        convert_manifest(tmp_path / "d" / "m.parquet", store, jobs=1)
    [folder] = (tmp_path / "store" / "corpora").iterdir()
    assert not (folder / "_SUCCESS.json").exists() and len(list((folder / "audio").iterdir())) == 2
    monkeypatch.setattr(converting, "write_flac", honest)
    whole = convert_manifest(tmp_path / "d" / "m.parquet", store, jobs=1)
    fresh = convert_manifest(tmp_path / "d" / "m.parquet", Store(str(tmp_path / "other")), jobs=1)
    assert whole.digest == fresh.digest


def test_what_cannot_be_decoded_is_listed_in_the_corpus(tmp_path: Path) -> None:
    rows = [*pairs(4), {"path": "damaged.flac", "label": "genuine"}]
    noise(tmp_path / "d" / "damaged.flac", 25.0, 99)
    content = bytearray((tmp_path / "d" / "damaged.flac").read_bytes())
    content[-1000] ^= 0xFF  # in the third part; the header is whole
    (tmp_path / "d" / "damaged.flac").write_bytes(content)
    assert import_table(tmp_path / "d", rows).num_rows == 9
    corpus = convert_manifest(tmp_path / "d" / "m.parquet", Store(str(tmp_path / "s")), jobs=1).open()
    [reject] = read_rejects(corpus).to_pylist()
    assert reject["path"] == "damaged.flac" and "damaged while decoding" in reject["reason"]
    listed = set(read_manifest(corpus)["path"].to_pylist())
    assert {name for name in corpus.marker["files"] if name.startswith("audio/")} == listed


def test_a_silent_part_is_listed_in_the_corpus_and_every_other_can_be_read(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, 10 * RATE_HZ)
    quiet = 1.2 / 32768 * np.sin(np.arange(10 * RATE_HZ) / 50)  # spans 2.4 steps, and 2 once rounded
    (tmp_path / "d").mkdir()
    for name, second in (("silent", np.zeros(10 * RATE_HZ)), ("quiet", quiet)):
        whole = np.concatenate([sound, second]).astype(np.float32)
        soundfile.write(tmp_path / "d" / f"{name}.wav", whole, RATE_HZ, subtype="FLOAT")
    rows = [
        {"path": "silent.wav", "label": "genuine"},
        {"path": "quiet.wav", "label": "1", "regions": "1-15"},
    ]
    import_table(
        tmp_path / "d", [*pairs(4, partition="test"), *(row | {"partition": "test"} for row in rows)]
    )
    corpus = convert_manifest(tmp_path / "d" / "m.parquet", Store(str(tmp_path / "s")), jobs=1).open()
    assert [tuple(row.values()) for row in read_rejects(corpus).to_pylist()] == [
        ("quiet.wav", "silence from 10.00 to 20.00 s"),
        ("silent.wav", "silence from 10.00 to 20.00 s"),
    ]
    clips = read_manifest(corpus).to_pylist()
    assert {"quiet.wav#0", "silent.wav#0"} < {row["clip_id"] for row in clips} and len(clips) == 10
    assert {name for name in corpus.marker["files"] if name.startswith("audio/")} == {
        c["path"] for c in clips
    }
    for clip in clips:
        read_mono(corpus.checked_path(clip["path"]))


def test_rejects_are_counted_by_reasons_that_differ_in_more_than_numbers() -> None:
    reasons = [f"silence from {k}.00 to {k + 1}.50 s" for k in range(5)]
    reasons += ["too short: 0.1 s of sound", "too short: what is left", "zero length: the file is empty"]
    text = describe_rejects(rejects_table([Rejection(f"{k}.wav", r) for k, r in enumerate(reasons)]))
    assert text.splitlines() == [
        "rejects: 8",
        "     5  silence from N to N s",
        "        '0.wav': silence from 0.00 to 1.50 s",
        "        '1.wav': silence from 1.00 to 2.50 s",
        "        '2.wav': silence from 2.00 to 3.50 s",
        "        and 2 more",
        "     2  too short",
        "        '5.wav': too short: 0.1 s of sound",
        "        '6.wav': too short: what is left",
        "     1  zero length",
        "        '7.wav': zero length: the file is empty",
    ]
    assert "\x1b" not in describe_rejects(rejects_table([Rejection("\x1b[2J.wav", "zero length")]))


def test_audio_altered_after_the_import_is_not_converted(tmp_path: Path) -> None:
    import_table(tmp_path / "d", pairs(4))
    noise(tmp_path / "d" / "forged2.wav", 0.7, 1234)
    with pytest.raises(IntegrityError, match=r"forged2\.wav is missing or altered since it was imported"):
        convert_manifest(tmp_path / "d" / "m.parquet", Store(str(tmp_path / "s")), jobs=1)
    (tmp_path / "d" / "forged2.wav").unlink()
    with pytest.raises(IntegrityError, match=r"forged2\.wav is missing or altered"):
        convert_manifest(tmp_path / "d" / "m.parquet", Store(str(tmp_path / "s")), jobs=1)


def test_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "genuine").mkdir()
    (tmp_path / "genuine" / "\udcff.wav").touch()
    with pytest.raises(UserError, match="outside UTF-8; rename it"):
        import_dataset("folder", Roots(tmp_path), tmp_path / "m.parquet", jobs=1)
    with pytest.raises(UserError, match=r"labels\.csv:2: a name with control characters"):
        import_table(tmp_path / "d", [{"path": "a.wav", "label": "forged", "family": "\x1b[31mred"}])


def test_one_class_alone_cannot_be_converted(tmp_path: Path) -> None:
    import_table(tmp_path / "d", [row for row in pairs(5) if row["label"] == "forged"])
    with pytest.raises(UserError, match=r"neither validation nor test holds both .* --genuine"):
        convert_manifest(tmp_path / "d" / "m.parquet", Store(str(tmp_path / "s")), jobs=1)


def test_a_reversed_polarity_shows_in_the_genuine_clips(tmp_path: Path) -> None:
    table = import_table(tmp_path / "d", pairs(4))
    check_polarity(table)
    rows = table.to_pylist()
    whole = [{"onset_s": 0.0, "offset_s": 0.5}]
    for row in rows:
        row["regions"] = [] if row["label"] else whole
    with pytest.raises(UserError, match=r"4 of 4 genuine clips .* polarity of the frame labels is reversed"):
        check_polarity(pa.Table.from_pylist(rows, schema=MANIFEST))
    rows = table.to_pylist()
    next(row for row in rows if not row["label"])["regions"] = whole
    with pytest.raises(
        UserError, match=r"1 of 4 genuine clips hold forged stretches, such as genuine0\.wav$"
    ):
        check_polarity(pa.Table.from_pylist(rows, schema=MANIFEST))
    rows = table.to_pylist()
    next(row for row in rows if row["label"])["regions"] = []
    with pytest.raises(UserError, match=r"1 forged clips hold no forged stretch, such as forged0\.wav"):
        check_polarity(pa.Table.from_pylist(rows, schema=MANIFEST))


def test_description_counts_by_partition_and_family_and_the_picture_is_one(tmp_path: Path) -> None:
    import_dataset("fakesound", fakesound(tmp_path / "f"), tmp_path / "m.parquet", jobs=1)
    table, facts = read_imported(tmp_path / "m.parquet")
    lines = [line.split() for line in describe_table(table, facts["protocol"]).splitlines()]
    assert ["test", "audioldm", "test_unseen", "4", "0.00", "4", "4", "4", "1.92", "(1.92-1.92)"] in lines
    assert ["test", "genuine", "-", "8", "0.00", "4", "4", "0", "-"] in lines
    assert lines[-1][:2] == ["all", "28"]
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!doctype html>")):
        plot_lengths(table, tmp_path / f"x{suffix}")
        assert (tmp_path / f"x{suffix}").read_bytes().startswith(start)
    with pytest.raises(UserError, match=r"x\.gif: a picture ends in \.png"):
        plot_lengths(table, tmp_path / "x.gif")
    with pytest.raises(UserError, match=r"x\.png cannot be written: what should be a folder"):
        plot_lengths(table, tmp_path / "x.svg" / "x.png")
    plot_lengths(table.slice(0, 0), tmp_path / "none.png")


def test_damaged_manifests_are_named(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "m.parquet"
    with pytest.raises(UserError, match="cannot be read"):
        read_imported(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="not a manifest that `corpus import` wrote"):
        read_imported(path)
    path.write_bytes(b"PAR1 and so on")
    with pytest.raises(IntegrityError, match="damaged"):
        read_imported(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(IntegrityError, match="table is None"):
        read_imported(path)
    pq.write_table(MANIFEST.empty_table(), path)
    with pytest.raises(IntegrityError, match="does not say where it came from"):
        read_imported(path)
