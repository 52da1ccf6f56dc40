"""Every adapter on a miniature of its dataset, on rows that a property test wrote, and on garbage."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.core.regions import Region
from fakesound.corpora.adapters.base import ExternalClip, Roots
from fakesound.corpora.adapters.registry import ADAPTERS, get_adapter

FIXTURES = Path(__file__).parent / "fixtures"
ONE_FOLDER = [HealthCheck.function_scoped_fixture]


def roots_of(form: str, folder: Path) -> Roots:
    return Roots(folder / "labels.csv" if form == "table" else folder)


def read(form: str, folder: Path) -> list[ExternalClip]:
    return list(ADAPTERS[form].read(roots_of(form, folder)))


def as_row(clip: ExternalClip, folder: Path) -> dict[str, str]:
    regions = "whole" if clip.regions is None else " ".join(f"{a:g}-{b:g}" for a, b in clip.regions)
    return {
        "clip_id": clip.clip_id,
        "label": str(clip.label),
        "family": clip.family,
        "mechanism": clip.mechanism or "",
        "regions": regions,
        "sources": " ".join(clip.source_ids),
        "group": clip.group or "",
        "partition": clip.partition or "",
        "length_regime": clip.length_regime,
        "path": clip.paths[0].relative_to(folder).as_posix(),
    }


@pytest.mark.parametrize("form", ADAPTERS)
def test_the_miniature_of_the_dataset_is_read_as_expected(form: str) -> None:
    with (FIXTURES / f"{form}.csv").open(newline="") as stream:
        expected = list(csv.DictReader(stream))
    assert [as_row(clip, FIXTURES / form) for clip in read(form, FIXTURES / form)] == expected
    assert {row["label"] for row in expected} == {"0", "1"} or form in ("mlaad", "wavefake")


def test_an_unknown_format_lists_the_known_ones_and_what_they_need() -> None:
    with pytest.raises(UserError, match=r"no format 'x'(.|\n)*partialspoof: the database folder"):
        get_adapter("x")


def texts_of(form: str) -> list[Path]:
    return [path for path in sorted((FIXTURES / form).rglob("*")) if path.is_file() and path.stat().st_size]


TEXT_FORMS = [form for form in ADAPTERS if texts_of(form)]


def copied(form: str, tmp_path: Path) -> Path:
    folder = tmp_path / form
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(FIXTURES / form, folder)
    return folder


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_windows_line_endings_and_a_byte_order_mark_change_nothing(form: str, tmp_path: Path) -> None:
    folder = copied(form, tmp_path)
    for path in texts_of(form):
        changed = folder / path.relative_to(FIXTURES / form)
        changed.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    found = [as_row(clip, folder) for clip in read(form, folder)]
    assert found == [as_row(clip, FIXTURES / form) for clip in read(form, FIXTURES / form)]


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_an_empty_file_a_folder_in_its_place_and_latin_1_are_named(form: str, tmp_path: Path) -> None:
    original = texts_of(form)[0]
    path = copied(form, tmp_path) / original.relative_to(FIXTURES / form)
    for content in (
        b"",
        b"\n \n",
        original.read_bytes().replace(b"a", b"\xe9"),
        original.read_bytes() + b"\0",
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=path.name):
            read(form, tmp_path / form)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=path.name):
        read(form, tmp_path / form)


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_the_wrong_folder_says_what_was_looked_for(form: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"holds no|holds none of|not a folder|not a file"):
            read(form, root)


TRAVERSALS = ["../../etc/passwd", "/etc/passwd", "a/../../b", "..\\..\\b", "C:\\b", "\\\\host\\b"]
NAMES = {  # the name of a clip in the miniature, as it stands in the file
    "fakesound": "FakeSound/deepfake_data/easy/ccccccccccc.wav",
    "fakesound2": "data/test/audio/audio/genuine/2msevPMQB4M_Genuine.wav",
    "partialspoof": "LA_T_1138215",
    "asvspoof2019": "LA_T_1004644",
    "asvspoof5": "T_0000000000",
    "llamapartialspoof": "dev-clean_1272_128104_000001_000000",
    "had": "HAD_train_fake_00000001",
    "in_the_wild": "0.wav",
    "mlaad": "./fake/en/tortoise/elliot_001.wav",
    "table": "b/c.wav",
}


@pytest.mark.parametrize("form", NAMES)
@pytest.mark.parametrize("path", TRAVERSALS)
def test_a_path_that_leads_out_of_the_dataset_is_not_followed(form: str, path: str, tmp_path: Path) -> None:
    folder = copied(form, tmp_path)
    changed = 0
    for original in texts_of(form):
        written = path if form != "llamapartialspoof" else f"{path}_x"
        as_json = json.dumps(written)[1:-1] if form.startswith("fakesound") else written
        text = original.read_text().replace(NAMES[form], as_json)
        changed += text != original.read_text()
        (folder / original.relative_to(FIXTURES / form)).write_text(text)
    assert changed
    try:
        clips = read(form, folder)
    except UserError:
        return
    places = [place for clip in clips for place in clip.paths]
    assert all(folder in place.parents and ".." not in place.parts for place in places)


@pytest.mark.parametrize(
    ("form", "old", "new", "complaint"),
    [
        (
            "asvspoof2019",
            "A01 spoof",
            "A01 fake",
            r"train\.trn\.txt:2: unknown label 'fake'; known: bonafide",
        ),
        ("asvspoof2019", "A01 spoof", "A20 spoof", "attack 'A20' with the key spoof"),
        ("asvspoof2019", "- A01", "A01", "4 columns instead of 5"),
        ("asvspoof5", " spoof -", " spoof", "9 columns instead of 10"),
        ("asvspoof5", "A05", "A99", "unknown attack 'A99'"),
        ("partialspoof", "1.9 0", "1.9 3", r"CON_T_0000000\.vad:3: unknown label '3'"),
        ("partialspoof", "1.2375 1.9", "1.9 1.9", "does not end after it starts"),
        ("partialspoof", "1.2375 1.9", "-1 1.9", "'-1' is not a number of seconds"),
        ("llamapartialspoof", "0.3800", "x", "not a number of seconds"),
        ("llamapartialspoof", "-spoof", "-spoofed", "unknown label 'spoofed'"),
        ("llamapartialspoof", " bonafide 0.0000-3.2000-bonafide", "", "2 columns, at least 4"),
        ("had", "2.11-F", "2.11-X", "unknown label 'X'; known: T, F"),
        ("had", "-T 1\n", "-T 1 1\n", "4 columns instead of 3"),
        ("in_the_wild", "bona-fide", "bonafide", r"meta\.csv:3: unknown label 'bonafide'"),
        ("in_the_wild", "speaker", "voice", "no column speaker"),
        ("in_the_wild", ",spoof", ",spoof,x", "4 columns instead of 3"),
        ("mlaad", "vits|vits|", "vits|", "8 columns instead of 9"),
        ("table", "1.2-3.4", "1.2:3.4", "is not a list of regions"),
        ("table", "genuine", "bona fide", r"labels\.csv:2: unknown label 'bona fide'"),
        ("table", "forged,1.2-3.4 5-6.25,tts", "genuine,,tts", r"label 0 \(1 = forged\) with family 'tts'"),
        ("table", ",test", ",eval", "unknown label 'eval'; known: train"),
        ("fakesound", '"label": 1', '"label": 2', r"entry 1: unknown label '2'"),
        ("fakesound", '"onset_offset": "0_0"', '"onset_offset": "0_1"', "label 0 .* with the region '0_1'"),
        ("fakesound", "audios", "audio", "no list `audios`"),
        ("fakesound", "]", "", "not JSON"),
        ("fakesound2", '"genuine"', '"inpainting"', "with the regions '0-0'"),
        ("fakesound2", "test/audio/audio", "audio/audio", "names none of the folders"),
        ("fakesound2", "2.68-3.2", "3.2", "is not a list of regions"),
    ],
)
def test_what_is_not_understood_is_named_with_its_line(
    form: str, old: str, new: str, complaint: str, tmp_path: Path
) -> None:
    folder = copied(form, tmp_path)
    for path in texts_of(form):
        (folder / path.relative_to(FIXTURES / form)).write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=complaint):
        read(form, folder)


def test_an_utterance_whose_name_no_file_can_have_is_refused_as_one_without_labels(tmp_path):
    folder = tmp_path / "partialspoof"
    shutil.copytree(FIXTURES / "partialspoof", folder)
    path = next(folder.rglob("PartialSpoof.LA.cm.eval.trl.txt"))
    path.write_text(path.read_text().replace("CON_E_0000001", "9" * 300))
    with pytest.raises(UserError, match=r"no vad/eval/9+\.vad"):
        read("partialspoof", folder)


@settings(max_examples=120, deadline=None, suppress_health_check=ONE_FOLDER)
@given(data=st.data())
def test_garbage_raises_nothing_but_user_errors(data: st.DataObject, tmp_path: Path) -> None:
    form = data.draw(st.sampled_from(TEXT_FORMS))
    original = data.draw(st.sampled_from(texts_of(form)))
    content = bytearray(original.read_bytes())
    if data.draw(st.booleans()):
        content = bytearray(data.draw(st.binary(max_size=300)))
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(content)))
        spliced = data.draw(
            st.sampled_from([b"", b"\n", b" ", b"|", b'"', b"-", b"[", b"{", b"9" * 400, b"\xff"])
        )
        content[at : at + data.draw(st.integers(0, 5))] = spliced
    folder = copied(form, tmp_path)
    (folder / original.relative_to(FIXTURES / form)).write_bytes(content)
    try:
        clips = read(form, folder)
    except UserError as error:
        assert str(error).isprintable() or "\n" in str(original)
        return
    assert all(folder in path.parents for clip in clips for path in clip.paths)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["audios", "label", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=ONE_FOLDER)
@given(json_values)
def test_any_json_raises_nothing_but_user_errors(tmp_path: Path, value: object) -> None:
    (tmp_path / "hard.json").write_text(json.dumps(value))
    (tmp_path / "meta").mkdir(exist_ok=True)
    (tmp_path / "meta" / "test.jsonl").write_text(json.dumps(value))
    for form in ("fakesound", "fakesound2"):
        try:
            assert isinstance(read(form, tmp_path), list)
        except UserError:
            continue


def test_json_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hard.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="not JSON"):
        read("fakesound", tmp_path)


# Round trips: rows -> the dataset's text -> rows.

names = st.text("abcdefgh0123456789", min_size=1, max_size=8)


@st.composite
def some_regions(draw: st.DrawFn) -> tuple[Region, ...]:
    borders = sorted(draw(st.sets(st.integers(1, 999), min_size=2, max_size=8)))
    borders = borders[: len(borders) // 2 * 2]
    return tuple(Region(a / 100, b / 100) for a, b in zip(borders[::2], borders[1::2], strict=True))


@st.composite
def some_clips(draw: st.DrawFn) -> list[tuple[str, str, tuple[Region, ...]]]:
    """(id, speaker, regions): forged where there are regions."""
    ids = draw(st.lists(names, unique=True, min_size=1, max_size=6))
    return [(name, draw(names), draw(st.just(()) | some_regions())) for name in ids]


def spans(regions: tuple[Region, ...], between: str, separator: str) -> str:
    return separator.join(f"{a}{between}{b}" for a, b in regions)


def segments(regions: tuple[Region, ...], forged: str, genuine: str, separator: str) -> str:
    """Every stretch from 0 to 10 s, forged or not."""
    found, last = [], 0.0
    for onset, offset in regions:
        found += [f"{last}-{onset}-{genuine}", f"{onset}-{offset}-{forged}"]
        last = offset
    return separator.join([*found, f"{last}-10.0-{genuine}"])


def write_fakesound(root: Path, clips: list) -> None:
    audios = [
        {
            "audio_id": f"{name}_{spans(regions[:1], '_', '')}" if regions else name,
            "label": int(bool(regions)),
            "onset_offset": spans(regions[:1], "_", "") if regions else "0_0",
            "filepath": f"FakeSound/{name}.wav",
        }
        for name, _, regions in clips
    ]
    (root / "train.json").write_text(json.dumps({"audios": audios}))


def write_fakesound2(root: Path, clips: list) -> None:
    (root / "meta").mkdir(exist_ok=True)
    lines = [
        json.dumps(
            {
                "fake_type": "inpainting" if regions else "genuine",
                "model": "tango2" if regions else "None",
                "audio_id": name,
                "onset_offset": spans(regions, "-", "_") if regions else "0-0",
                "filepath": f"data/test/{name}.wav",
            }
        )
        for name, _, regions in clips
    ]
    (root / "meta" / "x.jsonl").write_text("\n".join(lines))


def write_partialspoof(root: Path, clips: list) -> None:
    (root / "vad" / "dev").mkdir(parents=True, exist_ok=True)
    lines = []
    for name, speaker, regions in clips:
        lines.append(f"{speaker} {name} - {'CON spoof' if regions else '- bonafide'}")
        stretches = segments(regions, "0", "1", "\n").replace("-", " ")
        (root / "vad" / "dev" / f"{name}.vad").write_text(stretches)
    (root / "PartialSpoof.LA.cm.dev.trl.txt").write_text("\n".join(lines))


def write_llamapartialspoof(root: Path, clips: list) -> None:
    lines = [
        f"set-xtts-partial-cf_{speaker}_{name} 10.0 {'spoof' if regions else 'bonafide'} "
        + segments(regions, "spoof", "bonafide", " ")
        for name, speaker, regions in clips
    ]
    (root / "label_R01TTS.0.a.txt").write_text("\n".join(lines))


def write_had(root: Path, clips: list) -> None:
    lines = [f"{name} {segments(regions, 'F', 'T', '/')} {int(not regions)}" for name, _, regions in clips]
    (root / "HAD_dev_label.txt").write_text("\n".join(lines))


def write_table(root: Path, clips: list) -> None:
    rows = [
        [name, "forged" if regions else "genuine", spans(regions, "-", " "), speaker]
        for name, speaker, regions in clips
    ]
    with (root / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "regions", "group"], *rows])


WRITERS = {
    "fakesound": write_fakesound,
    "fakesound2": write_fakesound2,
    "partialspoof": write_partialspoof,
    "llamapartialspoof": write_llamapartialspoof,
    "had": write_had,
    "table": write_table,
}
SPEAKERS = {"partialspoof", "llamapartialspoof", "table"}


@pytest.mark.parametrize("form", WRITERS)
@settings(max_examples=25, deadline=None, suppress_health_check=ONE_FOLDER)
@given(clips=some_clips())
def test_regions_and_speakers_survive_the_way_through_the_datasets_text(
    form: str, clips: list, tmp_path: Path
) -> None:
    if form == "fakesound":  # one region a clip
        clips = [(name, speaker, regions[:1]) for name, speaker, regions in clips]
    WRITERS[form](tmp_path, clips)
    found = read(form, tmp_path)
    assert [(clip.label, clip.regions or ()) for clip in found] == [(bool(r), r) for _, _, r in clips]
    for clip, (name, speaker, _) in zip(found, clips, strict=True):
        assert name in clip.clip_id and clip.paths[0].stem.endswith(name)
        assert clip.group == (speaker if form in SPEAKERS else None)


words = st.lists(st.tuples(names, names, st.booleans()), unique_by=lambda row: row[0], min_size=1, max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=ONE_FOLDER)
@given(rows=words)
def test_labels_of_whole_clips_survive_too(tmp_path: Path, rows: list[tuple[str, str, bool]]) -> None:
    keys = [("A03 spoof" if forged else "- bonafide") for _, _, forged in rows]
    lines = {
        "asvspoof2019": [f"{s} {n} - {key}" for (n, s, _), key in zip(rows, keys, strict=True)],
        "asvspoof5": [
            f"{s} {n} F - - - AC1 {'A03 spoof' if forged else 'bonafide bonafide'} -" for n, s, forged in rows
        ],
        "in_the_wild": ["file,speaker,label"]
        + [f"{n},{s},{'spoof' if forged else 'bona-fide'}" for n, s, forged in rows],
    }
    files = {
        "asvspoof2019": "ASVspoof2019.LA.cm.dev.trl.txt",
        "asvspoof5": "ASVspoof5.train.tsv",
        "in_the_wild": "meta.csv",
    }
    for form, name in files.items():
        (tmp_path / name).write_text("\n".join(lines[form]))
        found = [(clip.clip_id, clip.group, clip.label == 1) for clip in read(form, tmp_path)]
        assert found == rows


def test_mlaads_quotes_are_text_and_its_sources_are_the_recordings_of_m_ailabs(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "die_01_f000038.wav").touch()
    roots = Roots(FIXTURES / "mlaad", tmp_path)
    clips = list(ADAPTERS["mlaad"].read(roots))
    assert [clip.label for clip in clips] == [1, 1, 0]
    assert clips[0].source_ids == clips[2].source_ids == ("die_01_f000038",)
    assert clips[2].paths == (tmp_path / "x" / "die_01_f000038.wav",)


def test_audiocaps_is_looked_up_by_youtube_id_with_or_without_a_y(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "Yaaaaaaaaaaa.wav").touch()
    (tmp_path / "ccccccccccc.flac").touch()
    clips = list(ADAPTERS["fakesound"].read(Roots(FIXTURES / "fakesound", tmp_path)))
    places = {clip.clip_id: clip.paths for clip in clips if not clip.label}
    assert places["train/aaaaaaaaaaa"][-1] == tmp_path / "train" / "Yaaaaaaaaaaa.wav"
    assert places["easy/ccccccccccc"][-1] == tmp_path / "ccccccccccc.flac"
    assert all(tmp_path not in path.parents for path in places["train/-b_bbbb_bbb"])


def test_a_parquet_table_takes_the_regions_as_text_or_as_structs(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    structs = [[{"onset_s": 1e-5, "offset_s": 3.0}, {"onset_s": 5.0, "offset_s": 6.0}], None]
    for regions in (structs, ["0.00001-3 5-6", None]):
        pq.write_table(
            pa.table({"path": ["a.wav", "b.wav"], "label": [1, 0], "regions": regions}),
            tmp_path / "t.parquet",
        )
        first, second = ADAPTERS["table"].read(Roots(tmp_path / "t.parquet"))
        assert first.regions == (Region(1e-5, 3.0), Region(5.0, 6.0)) and not second.label
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:200])
    with pytest.raises(UserError, match=r"t\.parquet: not a Parquet file"):
        list(ADAPTERS["table"].read(Roots(tmp_path / "t.parquet")))
    pq.write_table(pa.table({"path": ["a.wav"], "label": [{"x": 1.5}]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"row 1: .*neither text"):
        list(ADAPTERS["table"].read(Roots(tmp_path / "t.parquet")))
