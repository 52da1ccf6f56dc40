"""Scenes: clips' worth of sound mixed from short recordings, so that genuine clips hold abrupt events too.

A scene is a bed (something long and steady, closed to a ring and turned) with events over it, each an
excerpt around activity at a random place, level and reverberation. Scenes take the recordings' place when
clips are planned.

Sources never cross partitions, and no two blocks share one: components are partitioned first; then those of
a partition are dealt into blocks, and a scene draws on one block only. A block is the scenes' component and
group.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fakesound.attacks.excerpts import ring
from fakesound.attacks.spectral import fade_in
from fakesound.core.audio import AudioError, FloatArray, write_flac
from fakesound.core.config import digest_of
from fakesound.core.errors import UserError
from fakesound.core.parallel import map_parallel
from fakesound.core.progress import say
from fakesound.core.schemas import PARTITIONS
from fakesound.core.store import Place, Store
from fakesound.corpora.config import CorpusConfig, SceneConfig
from fakesound.corpora.ingest import Candidate, Recording, Rejection, Stretch, ingest
from fakesound.corpora.partition import LEAST_COMPONENTS
from fakesound.corpora.seeds import rng_for, seed_for
from fakesound.corpora.sound import Sound, samples_of_whole_file
from fakesound.corpora.synthesis import in_a_room

SCENES_VERSION = 1  # raise it when code changes what a scene sounds like

EVENT_S = (0.3, 4.0)
FADE_S = (0.001, 0.005)
ABRUPT_PROBABILITY = 0.5  # of each edge of an event
LEAST_HEARD_S = 0.05  # of an event that the scene's start or end cuts
PEAK = 0.9
_TAIL_S = 0.5  # of a reverberated event
_ACTIVITY_FRAME_S = 0.01
_FLOOR = 1e-9

_Samples = NDArray[np.float64]


@dataclass(frozen=True)
class ScenePlan:
    """What is mixed into one scene; how is drawn when it is mixed.

    Attributes:
        name: of its file, and its source id.
        block: of sources that it draws on.
        bed: sounds throughout.
        events: sound over it.
    """

    name: str
    block: str
    bed: Sound
    events: tuple[Sound, ...]

    @property
    def heard(self) -> tuple[str, ...]:
        """Source ids of every recording heard, sorted."""
        return tuple(sorted({source for sound in (self.bed, *self.events) for source in sound.heard}))

    @property
    def sample_rate_hz(self) -> int:
        """The highest rate that anything in it fills."""
        return max(sound.working_rate_hz for sound in (self.bed, *self.events))


@dataclass(frozen=True)
class Mixer:
    """How scenes are mixed.

    Attributes:
        settings: levels and reverberation of events.
        clip_s: length of a scene, seconds.
        seed: with a scene's name it draws everything random about it.
    """

    settings: SceneConfig
    clip_s: float
    seed: int

    def mix(self, plan: ScenePlan) -> FloatArray:
        """A scene's samples (n,), clip_s long at its rate, the highest peak at 0.9 of full scale.

        Raises:
            UserError: a recording that could be read a moment ago cannot be.
        """
        rng = rng_for(self.seed, "mix", plan.name)
        rate_hz = plan.sample_rate_hz
        num_samples = int(self.clip_s * rate_hz)
        bed = np.asarray(ring(_read(plan.bed, rate_hz), rate_hz), dtype=np.float64)
        scene = np.take(bed, int(rng.integers(len(bed))) + np.arange(num_samples), mode="wrap")
        scene /= _rms(scene)
        for sound in plan.events:
            event = self._level(rng) * _event(
                _read(sound, rate_hz), rate_hz, self.settings.reverberation_probability, rng
            )
            least = min(round(LEAST_HEARD_S * rate_hz), len(event))
            _add(scene, event, int(rng.integers(least - len(event), num_samples - least)))
        return (scene * (PEAK / max(_FLOOR, float(np.abs(scene).max())))).astype(np.float32)

    def _level(self, rng: np.random.Generator) -> float:
        """RMS of an event where the bed's is one."""
        level_db = rng.uniform(self.settings.min_event_level_db, self.settings.max_event_level_db)
        return float(10 ** (level_db / 20))


@dataclass(frozen=True)
class Scenes:
    """Scenes as recordings, and where they belong.

    Attributes:
        recordings: one a scene; `heard` lists what was mixed.
        block_of: block by scene; the blocks are components.
        partition_of: partition by block.
        rejections: recordings heard in no scene, and scenes that cannot be used.
    """

    recordings: list[Recording]
    block_of: dict[str, str]
    partition_of: dict[str, str]
    rejections: list[Rejection]


def build_scenes(
    recordings: Sequence[Recording],
    component_of: Mapping[str, str],
    partition_of: Mapping[str, str],
    config: CorpusConfig,
    *,
    store: Store,
    jobs: int | None = None,
) -> Scenes:
    """Mix the scenes into the place "scenes/{key}", or find them there.

    Args:
        recordings: usable ones.
        component_of: component by source id.
        partition_of: partition by component.
        config: clip length, seed, and the scenes' own settings (the defaults where they are None).
        store: where to.
        jobs: processes; the result does not depend on it.

    Raises:
        UserError: a partition has too few sources; a recording cannot be read any more.
    """
    mixer = Mixer(config.scenes or SceneConfig(), config.clip_s, config.seed)
    plans, partition_of_block = plan_scenes(
        recordings, component_of, partition_of, mixer.settings, config.seed
    )
    place = _mixed(plans, mixer, {r.source_id: r.pcm_sha256 for r in recordings}, store, jobs)
    by_name = {plan.name: plan for plan in plans}
    mixed = ingest([Candidate(plan.name, place.checked_path(plan.name)) for plan in plans], config, jobs)
    scenes = [
        replace(scene, heard=by_name[scene.source_id].heard, group=by_name[scene.source_id].block)
        for scene in mixed.recordings
    ]
    heard = {source for scene in scenes for source in scene.heard}
    unheard = [
        Rejection(recording.source_id, "heard in no scene: raise corpus.scenes.scenes_per_block")
        for recording in recordings
        if recording.source_id not in heard
    ]
    say(f"{len(scenes)} scenes of {len(heard)} recordings in {len(partition_of_block)} blocks")
    return Scenes(
        scenes, {plan.name: plan.block for plan in plans}, partition_of_block, mixed.rejections + unheard
    )


def plan_scenes(
    recordings: Sequence[Recording],
    component_of: Mapping[str, str],
    partition_of: Mapping[str, str],
    settings: SceneConfig,
    seed: int,
) -> tuple[list[ScenePlan], dict[str, str]]:
    """What each scene is mixed from: decided from seeds and measurements, before any sound is touched.

    Returns:
        the scenes, and the partition of each block.

    Raises:
        UserError: a partition has too few sources.
    """
    by_component: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        by_component[component_of[recording.source_id]].append(recording)
    plans: list[ScenePlan] = []
    partition_of_block: dict[str, str] = {}
    for partition in PARTITIONS:
        members = {name: found for name, found in by_component.items() if partition_of[name] == partition}
        for index, sources in enumerate(_blocks(partition, members, settings, seed)):
            block = f"{partition}/{index:03d}"
            partition_of_block[block] = partition
            beds = _beds(sources)
            for number in range(settings.scenes_per_block):
                name = f"{block}/{number:03d}.flac"
                rng = rng_for(seed, "scene", name)
                bed, events = _members(beds[number % len(beds)], sources, settings, rng)
                plans.append(ScenePlan(name, block, bed, events))
    return plans, partition_of_block


def _blocks(
    partition: str, members: Mapping[str, list[Recording]], settings: SceneConfig, seed: int
) -> list[list[list[Recording]]]:
    """Components dealt into blocks, long ones first, so that each block has something long for a bed."""
    count = len(members) // settings.sources_per_block
    if count < LEAST_COMPONENTS[partition]:
        raise UserError(
            f"scenes need {LEAST_COMPONENTS[partition] * settings.sources_per_block} independent sources in "
            f"partition {partition}, which has {len(members)}: lower corpus.scenes.sources_per_block "
            f"({settings.sources_per_block}), give more recordings, or turn scenes off (corpus.scenes=null)"
        )
    longest_s = {name: max(_longest_s(r) for r in found) for name, found in members.items()}
    order = sorted(
        members, key=lambda name: (-math.floor(math.log2(longest_s[name])), seed_for(seed, "block", name))
    )
    return [[members[name] for name in order[first::count]] for first in range(count)]


def _beds(sources: Sequence[Sequence[Recording]]) -> list[Recording]:
    """Of each source's longest recording the longer half, and of these the steadier half; one at least."""
    longest = [max(found, key=lambda r: (_longest_s(r), r.source_id)) for found in sources]
    longer = sorted(longest, key=lambda r: (-_longest_s(r), r.source_id))[: math.ceil(len(longest) / 2)]
    steady = sorted(longer, key=lambda r: (r.level_spread_db, r.source_id))
    return steady[: math.ceil(len(steady) / 2)]


def _members(
    bed: Recording, sources: Sequence[Sequence[Recording]], settings: SceneConfig, rng: np.random.Generator
) -> tuple[Sound, tuple[Sound, ...]]:
    """The bed and the events of one scene. Every source is as likely as another, however many recordings."""
    full = [s for s in bed.stretches if _length_s(bed, s) == _longest_s(bed)]
    others = [[r for r in found if r is not bed] for found in sources]
    others = [found for found in others if found]
    events = []
    for _ in range(int(rng.integers(settings.min_events, settings.max_events + 1))):
        found = others[rng.integers(len(others))]
        recording = found[rng.integers(len(found))]
        events.append(Sound.of(recording, recording.stretches[rng.integers(len(recording.stretches))]))
    return Sound.of(bed, full[rng.integers(len(full))]), tuple(events)


def _mixed(
    plans: Sequence[ScenePlan],
    mixer: Mixer,
    digest_of_source: Mapping[str, str],
    store: Store,
    jobs: int | None,
) -> Place:
    """The finished place with every scene."""
    members = {
        plan.name: [
            (sound.source_id, sound.stretch.onset, sound.stretch.offset, sound.working_rate_hz)
            for sound in (plan.bed, *plan.events)
        ]
        for plan in plans
    }
    key = digest_of(
        {
            "version": SCENES_VERSION,
            "config": mixer.settings.model_dump(mode="json"),
            "clip_s": mixer.clip_s,
            "seed": mixer.seed,
            "recordings": dict(digest_of_source),
            "members": members,
        }
    )
    place = store.place("scenes", key)
    if place.is_complete():
        return place
    for _ in map_parallel(partial(_write, place.uri, mixer), plans, description="mixing scenes", jobs=jobs):
        pass
    place.complete({"description": "scenes mixed from recordings", "heard": {p.name: p.heard for p in plans}})
    return place


def _write(place_uri: str, mixer: Mixer, plan: ScenePlan) -> None:
    place = Place(place_uri)
    if samples_of_whole_file(place, plan.name, plan.sample_rate_hz) is None:
        scene = mixer.mix(plan)
        with place.writing(plan.name) as path:
            write_flac(path, scene, plan.sample_rate_hz)


def _read(sound: Sound, rate_hz: int) -> _Samples:
    """A member without its DC offset, which would make a step of an abrupt edge."""
    try:
        samples = sound.read_at(rate_hz).astype(np.float64)
    except AudioError as error:
        raise UserError(
            f"{sound.source_id} could be read a moment ago, and no longer: {error}; run again"
        ) from None
    return samples - samples.mean()


def _event(
    samples: _Samples, rate_hz: int, reverberation_probability: float, rng: np.random.Generator
) -> _Samples:
    """An excerpt around activity, its own RMS one; with a tail where it is heard in a room."""
    event = _excerpt(samples, rate_hz, rng)
    length = len(event)
    for edge in (event, event[::-1]):
        if rng.random() >= ABRUPT_PROBABILITY:
            fade = min(round(rng.uniform(*FADE_S) * rate_hz), length)
            edge[:fade] *= fade_in(fade, equal_power=False)
    if rng.random() < reverberation_probability:
        event = in_a_room(np.pad(event, (0, round(_TAIL_S * rate_hz))), rate_hz, rng)
    return event / _rms(event[:length])


def _excerpt(samples: _Samples, rate_hz: int, rng: np.random.Generator) -> _Samples:
    """A stretch of 0.3-4 s, or all there is; an instant is as likely to be in it as it is loud."""
    length = min(len(samples), int(rng.uniform(*EVENT_S) * rate_hz))
    hop = round(_ACTIVITY_FRAME_S * rate_hz)
    energy = np.sum(samples[: len(samples) // hop * hop].reshape(-1, hop) ** 2, axis=1) + _FLOOR
    centre = hop * rng.choice(len(energy), p=energy / energy.sum())
    first = int(np.clip(centre - rng.random() * length, 0, len(samples) - length))
    return samples[first : first + length].copy()


def _add(scene: _Samples, event: _Samples, onset: int) -> None:
    """Mix the event in; what lies before the scene's start or beyond its end is cut off."""
    first, last = max(0, onset), min(len(scene), onset + len(event))
    scene[first:last] += event[first - onset : last - onset]


def _rms(samples: _Samples) -> float:
    return max(_FLOOR, float(np.sqrt(np.mean(samples**2))))


def _length_s(recording: Recording, stretch: Stretch) -> float:
    return (stretch.offset - stretch.onset) / recording.sample_rate_hz


def _longest_s(recording: Recording) -> float:
    return max(_length_s(recording, stretch) for stretch in recording.stretches)
