import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import made_up_recording
from sounds import sound

from fakesound.core.audio import read_mono
from fakesound.core.errors import UserError
from fakesound.core.parallel import MIN_ITEMS_PER_PROCESS
from fakesound.core.schemas import GENUINE, PARTITIONS
from fakesound.core.store import Place, Store
from fakesound.corpora import build as building
from fakesound.corpora.build import build_corpus
from fakesound.corpora.config import CorpusConfig, SceneConfig, Shares
from fakesound.corpora.ingest import Recording, ingest, scan
from fakesound.corpora.leakage import check_manifest
from fakesound.corpora.manifest import read_manifest, read_rejects
from fakesound.corpora.partition import LEAST_COMPONENTS
from fakesound.corpora.scenes import PEAK, Mixer, ScenePlan, Scenes, build_scenes, plan_scenes
from fakesound.corpora.seeds import rng_for
from fakesound.corpora.sound import Sound

SCENES = SceneConfig(sources_per_block=2, scenes_per_block=2, min_event_level_db=20.0)
CONFIG = CorpusConfig(
    variants=1,
    clip_s=1.5,
    shares=Shares(train=0.25, validation=0.25, validation_unseen=0.25, test=0.25),
    group_pattern="people/([^/]+)/",
    scenes=SCENES,
)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen steady recordings of two rates, two of them of one speaker: seventeen sources."""
    root = tmp_path_factory.mktemp("many")
    (root / "people" / "ann").mkdir(parents=True)
    for index in range(16):
        rate_hz = (8_000, 16_000)[index % 2]
        soundfile.write(root / f"r{index:02d}.wav", sound(0.8 + 0.02 * index, rate_hz, index), rate_hz)
    for index in range(2):
        soundfile.write(root / "people" / "ann" / f"{index}.wav", sound(0.7, 8_000, 50 + index), 8_000)
    return root


def sources_of(folder: Path) -> tuple[list[Recording], dict[str, str], dict[str, str]]:
    """Recordings, their components, and the components' partitions."""
    found = ingest(scan(folder)[0], CONFIG, 1)
    component_of = building._components(found.recordings, [])
    return found.recordings, component_of, building._partitions(found.recordings, component_of, CONFIG)


def scenes_of(folder: Path, store: Store, jobs: int = 1) -> Scenes:
    return build_scenes(*sources_of(folder), CONFIG, store=store, jobs=jobs)


@pytest.fixture(scope="module")
def scenes(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return scenes_of(many, Store(str(tmp_path_factory.mktemp("scenes"))))


@pytest.fixture(scope="module")
def corpus(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    config = CONFIG.model_copy(update={"scenes": SCENES.model_copy(update={"scenes_per_block": 1})})
    return build_corpus(config, Store(str(tmp_path_factory.mktemp("corpus"))), str(many), jobs=1).open()


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=20, max_size=60),
    per_block=st.integers(2, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_share_no_source_and_stay_in_their_partition(
    sizes: list[int], per_block: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    component_of = {f"{c}-{i}": str(c) for c, size in enumerate(sizes) for i in range(size)}
    partition_of = {str(c): PARTITIONS[c % 4] for c in range(len(sizes))}
    recordings = [made_up_recording(name, rng.uniform(0.4, 9), rng.uniform(1, 20)) for name in component_of]
    config = SceneConfig(sources_per_block=per_block, scenes_per_block=3)
    if len(sizes) // 4 < per_block * LEAST_COMPONENTS["test"]:
        with pytest.raises(UserError, match="independent sources in partition"):
            plan_scenes(recordings, component_of, partition_of, config, seed)
        return
    plans, partition_of_block = plan_scenes(recordings, component_of, partition_of, config, seed)
    block_of_component: dict[str, str] = {}
    for plan in plans:
        assert config.min_events <= len(plan.events) <= config.max_events
        assert plan.bed.source_id not in {event.source_id for event in plan.events}
        for source in plan.heard:
            component = component_of[source]
            assert block_of_component.setdefault(component, plan.block) == plan.block
            assert partition_of[component] == partition_of_block[plan.block]
    counts = {p: list(partition_of_block.values()).count(p) for p in PARTITIONS}
    assert all(counts[p] == list(partition_of.values()).count(p) // per_block for p in PARTITIONS)
    assert len(plans) == 3 * len(partition_of_block)


def test_beds_are_long_and_steady() -> None:
    recordings = [made_up_recording("long-steady", 8.0, 2.0), made_up_recording("long-restless", 9.0, 15.0)]
    recordings += [made_up_recording(f"short{index}", 0.5, 1.0) for index in range(2)]
    recordings += [made_up_recording(f"other{index}", 1.0) for index in range(16)]
    names = [recording.source_id for recording in recordings]
    partition_of = dict(zip(names, ["train"] * 4 + [*PARTITIONS[1:], "test"] * 4, strict=True))
    plans, _ = plan_scenes(
        recordings, {n: n for n in names}, partition_of, SceneConfig(sources_per_block=4), seed=0
    )
    assert {plan.bed.source_id for plan in plans if plan.block == "train/000"} == {"long-steady"}


@pytest.mark.parametrize("seed", range(8))
def test_what_is_listed_is_heard_and_what_is_heard_is_listed(tmp_path: Path, seed: int) -> None:
    """Each recording is a tone of its own: the scene's spectrum says which were mixed."""
    tones_hz = 400 + 280 * np.arange(12)
    tones = []
    for index, tone_hz in enumerate(tones_hz):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * tone_hz * np.arange(8_000) / 8_000), 8_000)
        recording = made_up_recording(str(index), 1.0, path=path)
        tones.append(Sound.of(recording, recording.stretches[0]))
    bed, *events = rng_for(seed, "pick").permutation(12)[:5]
    plan = ScenePlan("s.flac", "b", tones[bed], tuple(tones[index] for index in events))
    mixer = Mixer(SceneConfig(max_event_level_db=3, reverberation_probability=0), 2.0, seed)
    scene = mixer.mix(plan)
    time_s = np.arange(len(scene)) / 8_000
    strength = np.abs(np.exp(-2j * np.pi * tones_hz[:, None] * time_s) @ scene)
    heard = {str(index) for index in np.flatnonzero(strength > 0.015 * strength[bed])}
    assert heard == set(plan.heard)


def test_levels_are_relative_to_the_bed_and_peaks_below_full_scale(many: Path) -> None:
    found = {r.source_id: r for r in ingest(scan(many)[0], CONFIG, 1).recordings}
    bed, event = (Sound.of(found[name], found[name].stretches[0]) for name in ("r14.wav", "r02.wav"))
    for level_db in (12.0, 24.0):
        config = SceneConfig(
            min_event_level_db=level_db, max_event_level_db=level_db, reverberation_probability=0
        )
        scene = Mixer(config, 4.0, 1).mix(ScenePlan("s.flac", "b", bed, (event,)))
        assert len(scene) == 4 * bed.working_rate_hz and abs(np.abs(scene).max() - PEAK) < 1e-6
        loudest, usual = np.max(levels_db(scene, 400)), np.median(levels_db(scene, 400))
        assert abs(loudest - usual - 10 * math.log10(1 + 10 ** (level_db / 10))) < 2.5


def test_scenes_are_as_long_as_clips_and_list_what_was_mixed(scenes: Scenes, many: Path) -> None:
    sources = {candidate.source_id for candidate in scan(many)[0]}
    assert len(scenes.recordings) == len(scenes.block_of) == 2 * len(scenes.partition_of) >= 16
    for scene in scenes.recordings:
        samples, rate_hz = read_mono(scene.path)
        assert rate_hz == scene.sample_rate_hz and len(samples) == int(1.5 * rate_hz)
        assert set(scene.heard) <= sources and list(scene.heard) == sorted(set(scene.heard))
        assert scene.group == scenes.block_of[scene.source_id]
    unheard = {rejection.source_id for rejection in scenes.rejections}
    assert unheard == sources - {source for scene in scenes.recordings for source in scene.heard}


def test_a_scene_depends_on_its_plan_alone(scenes: Scenes, many: Path) -> None:
    """Mixed in another order: the same samples."""
    plans, _ = plan_scenes(*sources_of(many), SCENES, CONFIG.seed)
    mixed = {scene.source_id: read_mono(scene.path)[0] for scene in scenes.recordings}
    mixer = Mixer(SCENES, CONFIG.clip_s, CONFIG.seed)
    for plan in reversed(plans):
        np.testing.assert_array_equal(np.rint(mixer.mix(plan) * 32_768) / 32_768, mixed[plan.name])


@pytest.mark.slow
def test_same_bytes_from_any_number_of_processes(scenes: Scenes, many: Path, tmp_path: Path) -> None:
    assert len(scenes.recordings) >= 2 * MIN_ITEMS_PER_PROCESS
    assert bytes_of(scenes_of(many, Store(str(tmp_path)), jobs=2)) == bytes_of(scenes)


def test_an_interrupted_mix_is_taken_up_where_it_stopped(
    scenes: Scenes, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, mix = Store(str(tmp_path)), Mixer.mix
    mixed: list[str] = []

    def mix_three(mixer: Mixer, plan: ScenePlan) -> np.ndarray:
        mixed.append(plan.name)
        if len(mixed) == 4:
            raise KeyboardInterrupt
        return mix(mixer, plan)

    monkeypatch.setattr(Mixer, "mix", mix_three)
    with pytest.raises(KeyboardInterrupt):
        scenes_of(many, store)
    (place,) = (tmp_path / "scenes").iterdir()
    assert not Place(str(place)).is_complete() and Place(str(place)).names() == sorted(mixed[:3])
    damaged = place / mixed[0]
    damaged.write_bytes(damaged.read_bytes()[:200])
    finished = scenes_of(many, store)
    assert len(mixed) == 4 + len(scenes.recordings) - 2
    assert bytes_of(finished) == bytes_of(scenes)
    assert len(scenes_of(many, store).recordings) == len(scenes.recordings)
    assert len(mixed) == 4 + len(scenes.recordings) - 2


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"min_events": 5, "max_events": 4}, "min_events exceeds max_events"),
        ({"min_event_level_db": 31}, "min_event_level_db exceeds max_event_level_db"),
        ({"sources_per_block": 1}, "scenes.sources_per_block: .* greater than or equal to 2"),
        ({"reverb": 1}, "scenes.reverb: Extra inputs"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, float], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        CorpusConfig.parse({"scenes": values})


def test_a_source_that_vanished_is_named(many: Path) -> None:
    gone = made_up_recording("gone.wav", 1.0, path=many / "gone.wav")
    bed = Sound.of(gone, gone.stretches[0])
    with pytest.raises(UserError, match=r"gone\.wav could be read a moment ago.*run again"):
        Mixer(SceneConfig(), 1.0, 0).mix(ScenePlan("s.flac", "b", bed, (bed,)))


def test_too_few_sources_are_the_users_to_mend(many: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"scenes": SceneConfig(sources_per_block=8)})
    with pytest.raises(
        UserError, match=r"scenes need 8 independent sources in partition train, which has 5: lower"
    ):
        build_corpus(config, Store(str(tmp_path)), str(many), jobs=1)
    assert not (tmp_path / "scenes").exists()


def test_a_corpus_of_scenes_leaks_nothing_and_says_who_is_heard(corpus: Place, many: Path) -> None:
    check_manifest(read_manifest(corpus))
    rows = read_manifest(corpus).to_pylist()
    assert {row["partition"] for row in rows} == set(PARTITIONS)
    sources_of_block: dict[str, set[str]] = {}
    for row in rows:
        assert row["group"] == row["source_component"] and row["group"].startswith(row["partition"])
        assert row["duration_s"] == 1.5 and row["native_bandwidth_hz"] <= row["native_sample_rate_hz"] / 2
        assert len(row["source_ids"]) == len(set(row["source_ids"])) >= 2
        if row["family"] != "splice":
            sources_of_block.setdefault(row["group"], set()).update(row["source_ids"])
    assert sum(map(len, sources_of_block.values())) == len(set.union(*sources_of_block.values()))
    spliced = [row for row in rows if row["family"] == "splice"]
    for row in spliced:
        strangers = set(row["source_ids"]) - sources_of_block[row["group"]]
        assert any(strangers and strangers <= others for others in sources_of_block.values())
    assert spliced
    unheard = {row["path"] for row in read_rejects(corpus).to_pylist()}
    everyone = {candidate.source_id for candidate in scan(many)[0]}
    assert unheard | set.union(*sources_of_block.values()) == everyone


def test_genuine_clips_hold_abrupt_onsets(corpus: Place, many: Path) -> None:
    def steepest_rise_db(path: Path) -> float:
        samples, rate_hz = read_mono(path)
        level_db = levels_db(samples, rate_hz // 200)
        return float(np.max(level_db[2:] - level_db[:-2]))  # frames of 5 ms, 10 ms apart

    assert max(steepest_rise_db(candidate.path) for candidate in scan(many)[0]) < 20
    genuine = [row for row in read_manifest(corpus).to_pylist() if row["family"] == GENUINE]
    steep = [row for row in genuine if steepest_rise_db(corpus.checked_path(row["path"])) > 20]
    assert len(steep) > len(genuine) / 4


def levels_db(samples: np.ndarray, hop: int) -> np.ndarray:
    """RMS of frames of `hop` samples, dB."""
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
    return 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)


def bytes_of(scenes: Scenes) -> dict[str, bytes]:
    return {scene.source_id: scene.path.read_bytes() for scene in scenes.recordings}
