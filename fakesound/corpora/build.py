"""A corpus from recordings: scan, group, partition, mix scenes (if asked to), forge, write, check; the same
bytes for the same inputs and seed.

Clips appear whole or not at all, so a build that was killed is taken up where it stopped; the corpus counts
as there only once it is complete.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fakesound.attacks.forge import control, final_chain, forge
from fakesound.attacks.registry import plugin_distributions
from fakesound.core.audio import AudioError, FloatArray, read_span, write_flac
from fakesound.core.config import digest_of
from fakesound.core.errors import UserError
from fakesound.core.parallel import map_parallel
from fakesound.core.progress import say
from fakesound.core.regions import SampleRegion
from fakesound.core.schemas import GENUINE
from fakesound.core.store import Place, Pointer, Store, sha256_of
from fakesound.corpora.builtin import BUILTIN_GROUP_PATTERN, builtin_recordings
from fakesound.corpora.cluster import components, find_near_duplicates
from fakesound.corpora.config import CorpusConfig
from fakesound.corpora.ingest import Candidate, Recording, Rejection, content_digests, ingest, scan
from fakesound.corpora.leakage import check_manifest
from fakesound.corpora.manifest import counts_of, manifest_table, write_tables
from fakesound.corpora.masks import Mask, draw_audible_mask
from fakesound.corpora.partition import partition_components
from fakesound.corpora.plan import ClipPlan, StretchPlan, plan_clips
from fakesound.corpora.scenes import SCENES_VERSION, build_scenes
from fakesound.corpora.seeds import rng_for, seed_for
from fakesound.corpora.sound import TARGET_RATE_HZ, Sound, samples_of_whole_file

CORPUS_VERSION = 4  # raise it when code changes what a corpus holds

_Row = dict[str, Any]
_Made = tuple[list[_Row], list[Rejection]]
_Donors = dict[Sound, FloatArray]  # at the rate of the stretch that they are spliced into


def build_corpus(
    config: CorpusConfig, store: Store, recordings: str | None = None, *, jobs: int | None = None
) -> Pointer:
    """Build a corpus, or find it built.

    Args:
        config: what to build.
        store: where to.
        recordings: folder of recordings; None builds from generated ones.
        jobs: processes; default: one a core. The result does not depend on it.

    Raises:
        UserError: the folder is missing or nothing in it can be used; too few independent sources.
    """
    if recordings is None and config.group_pattern is None:
        config = config.model_copy(update={"group_pattern": BUILTIN_GROUP_PATTERN})
    candidates, ignored = _candidates(config, store, recordings, jobs)
    if not candidates:
        others = sum(ignored.values())
        raise UserError(
            f"no recordings in {recordings}: {others} other files; give wav, flac, ogg or mp3 files"
        )
    key = _key(config, content_digests(candidates))
    place = store.place("corpora", key)
    if place.is_complete():
        say(f"corpus {key} is already built")
        return place.pointer()
    found = ingest(candidates, config, jobs)
    duplicates = _near_duplicates(found.recordings)
    component_of = _components(found.recordings, duplicates)
    partition_of = _partitions(found.recordings, component_of, config)
    usable, rejections = found.recordings, found.rejections
    if config.scenes is not None:
        scenes = build_scenes(usable, component_of, partition_of, config, store=store, jobs=jobs)
        usable, component_of, partition_of = scenes.recordings, scenes.block_of, scenes.partition_of
        rejections = [*rejections, *scenes.rejections]
    plans = plan_clips(usable, component_of, partition_of, config)
    rows, unmade = _make_clips(plans, place, config, jobs)
    table = manifest_table(rows)
    check_manifest(table)
    rejections = [*rejections, *unmade]
    write_tables(place, table, rejections)
    facts = counts_of(table) | {
        "recordings": len(found.recordings),
        "rejects": len(rejections),
        "near_duplicate_pairs": len(duplicates),
    }
    return place.complete(
        {
            "description": f"built from {Path(recordings).name}" if recordings else "generated recordings",
            "config": config.model_dump(mode="json"),
            "protocol": config.protocol.model_dump(mode="json"),
            "counts": facts | {"ignored_files": dict(sorted(ignored.items()))},
            "sample_rate_hz": TARGET_RATE_HZ,
        }
    )


def _key(config: CorpusConfig, digests: Mapping[str, str]) -> str:
    content = {
        "version": CORPUS_VERSION,
        "scenes_version": SCENES_VERSION if config.scenes else None,
        "config": config.model_dump(mode="json"),
        "recordings": digests,
    }
    if plugins := plugin_distributions(config.protocol.families):  # without any, the key of earlier versions
        content["plugins"] = plugins
    return digest_of(content)


def _candidates(
    config: CorpusConfig, store: Store, recordings: str | None, jobs: int | None
) -> tuple[list[Candidate], Counter[str]]:
    if recordings is not None:
        return scan(recordings)
    place = builtin_recordings(config.builtin, config.seed, store, jobs)
    return [Candidate(name, place.checked_path(name)) for name in sorted(place.marker["files"])], Counter()


def _near_duplicates(recordings: Sequence[Recording]) -> list[tuple[int, int]]:
    def load(index: int) -> tuple[FloatArray, int]:
        recording = recordings[index]
        return read_span(recording.path, recording.stretches[0].onset, recording.stretches[-1].offset)

    pairs = find_near_duplicates([recording.fingerprint for recording in recordings], load)
    by_content: dict[str, list[int]] = defaultdict(list)
    for index, recording in enumerate(recordings):
        by_content[recording.pcm_sha256].append(index)
    exact = [(same[0], other) for same in by_content.values() for other in same[1:]]
    say(f"{len(recordings)} recordings, {len({*pairs, *exact})} pairs of near-duplicates")
    return sorted({*pairs, *exact})


def _components(recordings: Sequence[Recording], duplicates: Sequence[tuple[int, int]]) -> dict[str, str]:
    """The component of each source id, named after its first source."""
    first_of_group: dict[str, int] = {}
    links = list(duplicates)
    for index, recording in enumerate(recordings):
        links.append((first_of_group.setdefault(recording.group, index), index))
    numbers = components(range(len(recordings)), links)
    names: dict[int, str] = {}
    return {
        recording.source_id: names.setdefault(numbers[index], recording.source_id)
        for index, recording in enumerate(recordings)
    }


def _partitions(
    recordings: Sequence[Recording], component_of: Mapping[str, str], config: CorpusConfig
) -> dict[str, str]:
    amounts: dict[str, float] = defaultdict(float)
    for recording in recordings:
        amounts[component_of[recording.source_id]] += recording.clip_seconds
    return partition_components(amounts, config.shares, config.seed)


def _make_clips(
    plans: Sequence[StretchPlan], place: Place, config: CorpusConfig, jobs: int | None
) -> tuple[list[_Row], list[Rejection]]:
    rows: list[_Row] = []
    rejections: list[Rejection] = []
    for made, refused in map_parallel(
        partial(_make_stretch, place.uri, config), plans, description="making clips", jobs=jobs
    ):
        rows.extend(made)
        rejections.extend(refused)
    if not rows:
        raise UserError(f"no clip could be made: {rejections[0].source_id}: {rejections[0].reason}")
    return rows, rejections


@dataclass(frozen=True)
class _Bed:
    """What the clips of one mask share: the stretch with its decoy splices, and the mask."""

    samples: FloatArray
    mask: Mask
    chain_seed: int


def _make_stretch(place_uri: str, config: CorpusConfig, plan: StretchPlan) -> _Made:
    """Make every clip of one stretch that can be made; in a process of its own."""
    place = Place(place_uri)
    try:
        samples = plan.sound.read()
    except AudioError as error:  # it could be read a moment ago
        return [], [Rejection(plan.sound.source_id, str(error))]
    donors, rejections = _read_donors(plan)
    clips = _makeable(plan.clips, donors)
    beds: dict[str, _Bed] = {}
    for clip in clips:
        if clip.mask_id not in beds:
            bed = _draw_bed(samples, plan, clip, config)
            if bed is None:
                onset_s = plan.sound.stretch.onset / plan.sound.native_rate_hz
                reason = f"silence: no audible region in the clip at {onset_s:.2f} s"
                return [], [*rejections, Rejection(plan.sound.source_id, reason)]
            beds[clip.mask_id] = bed
    rows = [_make_clip(place, config, plan, clip, bed=beds[clip.mask_id], donors=donors) for clip in clips]
    return rows, rejections


def _read_donors(plan: StretchPlan) -> tuple[_Donors, list[Rejection]]:
    donors: _Donors = {}
    rejections: list[Rejection] = []
    for donor in dict.fromkeys(clip.donor for clip in plan.clips if clip.donor):
        try:
            donors[donor] = donor.read_at(plan.sound.working_rate_hz)
        except AudioError as error:  # likewise
            reason = f"{error}; nothing of it was spliced into {plan.sound.source_id}"
            rejections.append(Rejection(donor.source_id, reason))
    return donors, rejections


def _makeable(clips: Sequence[ClipPlan], donors: _Donors) -> list[ClipPlan]:
    """The clips whose donor could be read, without a genuine one that would be left with no forged twin."""
    kept = [clip for clip in clips if clip.donor is None or clip.donor in donors]
    forged_masks = {clip.mask_id for clip in kept if clip.family != GENUINE}
    return [clip for clip in kept if clip.mask_id in forged_masks]


def _draw_bed(samples: FloatArray, plan: StretchPlan, clip: ClipPlan, config: CorpusConfig) -> _Bed | None:
    rate_hz, seed = plan.sound.working_rate_hz, config.seed
    rng = rng_for(seed, "mask", clip.mask_id)
    mask = draw_audible_mask(samples, rate_hz, clip.regime, clip.turn, rng, placement=config.placement)
    if mask is None:
        return None
    spliced = control(samples, mask.decoys, sample_rate_hz=rate_hz, rng=rng_for(seed, "decoys", clip.mask_id))
    return _Bed(spliced, mask, seed_for(seed, "chain", clip.mask_id))


def _make_clip(
    place: Place, config: CorpusConfig, plan: StretchPlan, clip: ClipPlan, *, bed: _Bed, donors: _Donors
) -> _Row:
    name = f"audio/{clip.clip_id}.flac"
    num_samples = samples_of_whole_file(place, name, TARGET_RATE_HZ)
    if num_samples is None:
        rendered = _render(config, plan, clip, bed, donors)
        num_samples = len(rendered)
        with place.writing(name) as path:
            write_flac(path, rendered, TARGET_RATE_HZ)
    duration_s = num_samples / TARGET_RATE_HZ
    is_forged = clip.family != GENUINE
    rate_hz = plan.sound.working_rate_hz
    spliced = bed.mask.decoys if is_forged else tuple(sorted((*bed.mask.regions, *bed.mask.decoys)))
    return {
        "clip_id": clip.clip_id,
        "path": name,
        "source_ids": [*plan.sound.heard, *(clip.donor.heard if clip.donor else ())],
        "source_component": plan.component,
        "group": plan.group,
        "partition": plan.partition,
        "family": clip.family,
        "mechanism": config.attack(clip.family).mechanism if is_forged else GENUINE,
        "label": int(is_forged),
        "length_regime": clip.regime,
        "mask_id": clip.mask_id,
        "regions": _in_seconds(bed.mask.regions, rate_hz, duration_s) if is_forged else [],
        "control_regions": _in_seconds(spliced, rate_hz, duration_s),
        "duration_s": duration_s,
        "sample_rate_hz": TARGET_RATE_HZ,
        "native_sample_rate_hz": plan.sound.native_rate_hz,
        "native_bandwidth_hz": plan.bandwidth_hz,
        "content_sha256": sha256_of(place.local_path(name)),
        "seed": clip.seed,
    }


def _render(
    config: CorpusConfig, plan: StretchPlan, clip: ClipPlan, bed: _Bed, donors: _Donors
) -> FloatArray:
    rate_hz = plan.sound.working_rate_hz
    rng = np.random.default_rng(clip.seed)
    if clip.family == GENUINE:
        made = control(bed.samples, bed.mask.regions, sample_rate_hz=rate_hz, rng=rng)
    else:
        donor = donors[clip.donor] if clip.donor else None
        attack = config.attack(clip.family)
        made = forge(bed.samples, bed.mask.regions, attack, sample_rate_hz=rate_hz, rng=rng, donor=donor)
    return final_chain(
        made,
        native_rate_hz=rate_hz,
        target_rate_hz=TARGET_RATE_HZ,
        seed=bed.chain_seed,
        chain=config.chain,
        reference=bed.samples,
    )


def _in_seconds(regions: Sequence[SampleRegion], rate_hz: int, duration_s: float) -> list[dict[str, float]]:
    return [{"onset_s": r.onset / rate_hz, "offset_s": min(r.offset / rate_hz, duration_s)} for r in regions]
