import hashlib
import pickle
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from fakesound.core.audio import read_mono
from fakesound.core.config import digest_of
from fakesound.core.errors import UserError
from fakesound.core.regions import Region, to_samples
from fakesound.core.schemas import GENUINE
from fakesound.core.store import Place, Store
from fakesound.corpora import build as building
from fakesound.corpora.build import CORPUS_VERSION, build_corpus
from fakesound.corpora.config import CorpusConfig
from fakesound.corpora.ingest import Stretch
from fakesound.corpora.leakage import check_manifest
from fakesound.corpora.manifest import read_manifest, read_rejects
from fakesound.corpora.plan import ClipPlan, StretchPlan, plan_clips
from fakesound.corpora.protocol import held_out
from fakesound.corpora.sound import Sound, working_rate_hz
from fakesound.corpora.views import VIEWS, view_rows

CONFIG = CorpusConfig(variants=1, group_pattern="people/([^/]+)/")


@pytest.fixture(scope="module")
def corpus(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    store = Store(str(tmp_path_factory.mktemp("store")))
    return build_corpus(CONFIG, store, str(folder), jobs=1).open()


def contents(place: Place) -> dict[str, str]:
    return {name: facts["sha256"] for name, facts in place.marker["files"].items()}


def test_manifest_tells_the_truth_about_the_files(corpus: Place) -> None:
    rows = read_manifest(corpus).to_pylist()
    assert len({row["clip_id"] for row in rows}) == len(rows)
    for row in rows:
        path = corpus.checked_path(row["path"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["content_sha256"]
        samples, rate_hz = read_mono(path)
        assert rate_hz == row["sample_rate_hz"] == 32_000
        assert len(samples) == round(row["duration_s"] * 32_000)
        assert (row["label"] == 1) == bool(row["regions"]) == (row["family"] != GENUINE)
        for region in (*row["regions"], *row["control_regions"]):
            assert 0 <= region["onset_s"] < region["offset_s"] <= row["duration_s"]


def test_near_duplicates_and_groups_share_a_component_and_nothing_leaks(corpus: Place) -> None:
    table = read_manifest(corpus)
    component = {row["source_ids"][0]: row["source_component"] for row in table.to_pylist()}
    assert component["r3.wav"] == component["cut_of_r3.wav"]
    assert component["people/ann/0.FLAC"] == component["people/ann/1.FLAC"]
    assert len(set(component.values())) == 11 and corpus.metadata["counts"]["near_duplicate_pairs"] == 1
    check_manifest(table)
    assert [row["path"] for row in read_rejects(corpus).to_pylist()] == [
        "empty.ogg", "folder.wav", "letter.wav", "short.wav",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "kind"), [("source_ids", "source"), ("group", "group"), ("source_component", "component")]
)
def test_leakage_is_loud(corpus: Place, column: str, kind: str) -> None:
    rows = read_manifest(corpus).to_pylist()
    train = next(row for row in rows if row["partition"] == "train")
    test = next(row for row in rows if row["partition"] == "test")
    test[column] = train[column]
    with pytest.raises(UserError, match=f"leaks between partitions: {kind} .* in test and train"):
        check_manifest(pa.Table.from_pylist(rows, schema=read_manifest(corpus).schema))


def test_views_are_balanced_and_share_masks(corpus: Place) -> None:
    table = read_manifest(corpus)
    protocol = corpus.metadata["protocol"]
    views = {view: view_rows(table, view, protocol).to_pylist() for view in VIEWS}
    for view, rows in views.items():
        labels = [row["label"] for row in rows]
        assert rows and 2 * sum(labels) == len(labels), view
    masks = {
        view: {row["mask_id"]: row["regions"] for row in rows if row["label"]} for view, rows in views.items()
    }
    assert masks["hard"] == masks["zeroshot"] == masks["splice"]
    assert {row["family"] for row in views["zeroshot"]} == {GENUINE, *protocol["test_unseen"]}
    assert not set(masks["easy"]) & set(masks["hard"])
    with pytest.raises(UserError, match="no view 'tough'; there are validation,"):
        view_rows(table, "tough", protocol)


def test_a_corpus_of_every_family_serves_any_protocol(folder: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"every_family": True})
    place = build_corpus(config, Store(str(tmp_path)), str(folder), jobs=1).open()
    table = read_manifest(place)
    check_manifest(table)
    everyone = {*config.protocol.seen, *config.protocol.validation_unseen, *config.protocol.test_unseen}
    forged = {row["family"] for row in table.to_pylist() if row["partition"] == "test"}
    assert forged == {GENUINE, "splice", *everyone}
    roles = held_out(place.metadata["protocol"], ["vocoder"], table)
    assert "autoregressive" in roles["seen"]
    zeroshot, hard = (view_rows(table, view, roles).to_pylist() for view in ("zeroshot", "hard"))
    assert {row["mechanism"] for row in zeroshot} == {GENUINE, "vocoder"}
    assert {row["mask_id"] for row in zeroshot} == {row["mask_id"] for row in hard}


def test_a_splice_connects_its_two_sources_in_its_view_only(corpus: Place) -> None:
    table = read_manifest(corpus)
    protocol = corpus.metadata["protocol"]
    spliced = view_rows(table, "splice", protocol).to_pylist()
    own = {
        row["source_ids"][0]: row["source_component"]
        for row in view_rows(table, "hard", protocol).to_pylist()
    }
    joined = {row["source_ids"][0]: row["source_component"] for row in spliced}
    for row in spliced:
        if row["label"]:
            bed, donor = row["source_ids"]
            assert own[bed] != own[donor] and joined[bed] == joined[donor]


def test_a_pair_differs_where_it_says_and_nowhere_else(corpus: Place) -> None:
    rows = {row["clip_id"]: row for row in read_manifest(corpus).to_pylist()}
    checked = 0
    for row in rows.values():
        if row["clip_id"].endswith("-wide-hard"):
            pair = rows[row["clip_id"].replace("-hard", "-genuine")]
            samples = [read_mono(corpus.checked_path(r["path"]))[0] for r in (row, pair)]
            outside = np.ones(len(samples[0]), dtype=bool)
            for onset, offset in to_samples([Region(**r) for r in row["regions"]], 32_000):
                outside[max(0, onset - 1_200) : offset + 1_200] = False  # crossfade and resampling filter
            assert np.abs(samples[0] - samples[1])[outside].max(initial=0) < 2e-4
            assert np.abs(samples[0] - samples[1]).max() > 1e-3
            spliced = {tuple(r.items()) for r in pair["control_regions"]}
            assert spliced == {tuple(r.items()) for r in (*row["regions"], *row["control_regions"])}
            checked += 1
    assert checked >= 2


def test_same_seed_same_bytes_and_nothing_is_done_twice(
    corpus: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that was killed (some clips there, one damaged) ends with the bytes of one that was not."""
    store = Store(str(tmp_path))
    unfinished = store.place("corpora", corpus.key)
    audio = [name for name in contents(corpus) if name.startswith("audio/")]
    for name in audio[::2]:
        unfinished.write_bytes(name, corpus.read_bytes(name))
    unfinished.write_bytes(audio[0], corpus.read_bytes(audio[0])[:500])
    made = []
    render = building._render
    monkeypatch.setattr(building, "_render", lambda *args: made.append(1) or render(*args))
    again = build_corpus(CONFIG, store, str(folder), jobs=1)
    assert contents(again.open()) == contents(corpus)
    assert len(made) == len(audio) - len(audio[::2]) + 1
    made.clear()
    assert build_corpus(CONFIG, store, str(folder), jobs=1) == again and not made


def test_an_external_command_forges_and_noise_is_a_pairs_own(
    tmp_path: Path,
) -> None:
    script = Path(__file__).parents[1] / "attacks" / "external.py"
    program = " ".join(map(shlex.quote, (sys.executable, "-S", str(script))))
    command = f"{program} {{input}} {{output}} {{onset_s}} {{offset_s}} {{seed}}"
    config = CorpusConfig.parse(
        {
            "variants": 1,
            "commands": [{"family": "inverter", "mechanism": "inversion", "command": command}],
            "protocol": {"validation_unseen": ["inverter"]},
            "chain": {"noise_probability": 1.0, "noise_snr_db": [5, 10]},
        }
    )
    for index in range(8):
        noise = 0.1 * np.random.default_rng(index).standard_normal(4000 + 100 * index)
        soundfile.write(tmp_path / f"{index}.wav", noise, 8_000)
    place = build_corpus(config, Store(str(tmp_path / "store")), str(tmp_path), jobs=1).open()
    rows = {row["clip_id"]: row for row in read_manifest(place).to_pylist()}
    assert pickle.loads(pickle.dumps(config)).attack("inverter").mechanism == "inversion"  # worker processes
    made = [row for row in rows.values() if row["family"] == "inverter"]
    assert made and {row["partition"] for row in made} == {"validation_unseen"}
    assert {row["mechanism"] for row in made} == {"inversion"}
    for row in made:
        pair = rows[row["clip_id"].replace("-forged", "-genuine")]
        forged, genuine = (read_mono(place.checked_path(r["path"]))[0] for r in (row, pair))
        outside = np.ones(len(forged), dtype=bool)
        for onset, offset in to_samples([Region(**r) for r in row["regions"]], 32_000):
            outside[max(0, onset - 1_200) : offset + 1_200] = False
        assert np.abs(forged - genuine)[outside].max(initial=0) < 2e-4
        assert np.abs(forged - genuine).max() > 1e-3


def test_placement_by_activity_turns_masks_and_changes_nothing_else(
    corpus: Place, folder: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"placement": "activity"})
    place = build_corpus(config, Store(str(tmp_path)), str(folder), jobs=1).open()
    turned = {row["clip_id"]: row for row in read_manifest(place).to_pylist()}
    moved = 0
    for row in read_manifest(corpus).to_pylist():
        other = turned.pop(row["clip_id"])
        assert [other[key] for key in ("family", "partition", "seed")] == [
            row[key] for key in ("family", "partition", "seed")
        ]
        seconds = [sum(r["offset_s"] - r["onset_s"] for r in one["regions"]) for one in (row, other)]
        assert abs(seconds[0] - seconds[1]) < 0.001
        moved += row["regions"] != other["regions"]
    assert not turned and moved > 10


def test_an_upgraded_plug_in_makes_another_corpus(install_plugin: Callable[..., None]) -> None:
    def key(*unseen: str) -> str:
        config = CorpusConfig.parse({"protocol": {"validation_unseen": unseen}})
        return building._key(config, {"a.wav": "0" * 64})

    built_in = key("granular")
    install_plugin("silent", "1.2", hush="silent_attacks:HUSH")
    before = key("hush")
    assert key("granular") == built_in  # a plug-in that forges nothing here changes nothing
    install_plugin("silent", "1.3", hush="silent_attacks:HUSH")
    assert key("hush") != before
    install_plugin("silent", "1.2", hush="silent_attacks:HUSH")
    assert key("hush") == before


def test_a_corpus_without_plug_ins_keeps_its_key() -> None:
    digests = {"a.wav": "0" * 64}
    content = {
        "version": CORPUS_VERSION,
        "scenes_version": None,
        "config": CONFIG.model_dump(mode="json"),
        "recordings": digests,
    }
    assert building._key(CONFIG, digests) == digest_of(content)


def test_a_donor_that_cannot_be_read_any_more_costs_its_splices_only(
    corpus: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {row["clip_id"]: row for row in read_manifest(corpus).to_pylist()}
    splice = next(row for row in rows.values() if row["family"] == "splice")
    bed, donor = splice["source_ids"]
    store = Store(str(tmp_path))
    unfinished = store.place("corpora", corpus.key)
    for row in rows.values():
        if row is not splice:
            unfinished.write_bytes(row["path"], corpus.read_bytes(row["path"]))

    def plan_and_lose(*args) -> list[StretchPlan]:
        return [lose(plan) for plan in plan_clips(*args)]

    def lose(plan: StretchPlan) -> StretchPlan:
        clips = (
            replace(clip, donor=replace(clip.donor, path=tmp_path / "gone.wav"))
            if clip.donor and clip.clip_id == splice["clip_id"]
            else clip
            for clip in plan.clips
        )
        return replace(plan, clips=tuple(clips))

    monkeypatch.setattr(building, "plan_clips", plan_and_lose)
    place = build_corpus(CONFIG, store, str(folder), jobs=1).open()
    del rows[splice["clip_id"]]
    assert {row["clip_id"]: row for row in read_manifest(place).to_pylist()} == rows
    reasons = [(row["path"], row["reason"]) for row in read_rejects(place).to_pylist()]
    reason = f"unreadable: No such file or directory; nothing of it was spliced into {bed}"
    assert (donor, reason) in reasons and len(reasons) == 5


def test_no_genuine_clip_is_left_without_a_forged_twin() -> None:
    donor = Sound("d.wav", ("d.wav",), Path("d.wav"), Stretch(0, 8_000), 8_000, 8_000)

    def clip(mask_id: str, family: str, donor: Sound | None = None) -> ClipPlan:
        return ClipPlan(f"{mask_id}-{family}", family, mask_id, "train", 0.0, 0, donor)

    alone = [clip("a", GENUINE), clip("a", "splice", donor)]
    among_others = [clip("b", GENUINE), clip("b", "nmf"), clip("b", "splice", donor)]
    assert building._makeable([*alone, *among_others], {}) == among_others[:2]
    here = {donor: np.zeros(8_000, np.float32)}
    assert building._makeable([*alone, *among_others], here) == [*alone, *among_others]


def test_nothing_to_build_from(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.md").touch()
    with pytest.raises(UserError, match=r"no recordings in .*: 1 other files"):
        build_corpus(CONFIG, Store(str(tmp_path / "out")), str(tmp_path / "in"), jobs=1)


def test_forging_happens_at_the_rate_that_content_fills() -> None:
    assert working_rate_hz(44_100, 22_000) == 32_000
    assert working_rate_hz(22_255, 11_000) == 22_255
    assert working_rate_hz(48_000, 4_000) == 8_800
    assert working_rate_hz(44_100, 900) == 8_000
    assert working_rate_hz(8_000, 3_000) == 8_000
