"""From an adapter's clips to an imported manifest: find the audio, measure it, group it, partition it.

Nothing is decoded: lengths and rates are what the headers say. Clips are grouped into components by shared
sources, shared groups (speakers) and equal bytes.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fakesound.core.audio import AudioError, AudioInfo, probe
from fakesound.core.config import digest_of
from fakesound.core.errors import UserError
from fakesound.core.files import discard, writing
from fakesound.core.parallel import map_parallel
from fakesound.core.regions import Region
from fakesound.core.schemas import GENUINE
from fakesound.core.store import sha256_of
from fakesound.corpora.adapters.base import ExternalClip, Roots
from fakesound.corpora.adapters.registry import get_adapter
from fakesound.corpora.cluster import components
from fakesound.corpora.config import Shares
from fakesound.corpora.imported import protocol_of, write_imported
from fakesound.corpora.ingest import Rejection
from fakesound.corpora.manifest import manifest_table
from fakesound.corpora.partition import deal_components

MISSING = "missing: no such file"
OVERHANG_S = 1.0  # labels, rounded or made on padded audio, may end so much later; beyond, it is another file

_Row = dict[str, Any]


@dataclass(frozen=True)
class ImportReport:
    """What an import found.

    Attributes:
        num_clips: clips in the manifest.
        num_missing: clips whose audio is not there.
        num_rejected: clips that cannot be used for another reason.
        rejects_path: the list of both; None when it would be empty.
    """

    num_clips: int
    num_missing: int
    num_rejected: int
    rejects_path: Path | None


@dataclass(frozen=True)
class _Found:
    """A clip whose audio is there.

    Attributes:
        clip: what the dataset says.
        path: the audio file.
        info: what its header says.
        sha256: of its bytes.
        regions: within the audio.
    """

    clip: ExternalClip
    path: Path
    info: AudioInfo
    sha256: str
    regions: tuple[Region, ...]


def import_dataset(
    form: str, roots: Roots, out: str | Path, *, seed: int = 0, jobs: int | None = None
) -> ImportReport:
    """Write the manifest of a dataset, and beside it `….rejects.csv` with every clip that it lacks and why.

    Args:
        form: name of the adapter.
        roots: where the dataset lies.
        out: the manifest to write.
        seed: deals components to partitions where the dataset has no split, or no validation part.
        jobs: processes; default: one a core. The result does not depend on it.

    Raises:
        UserError: there is no such format, the dataset's files are not understood, two different clips have
            one name, no clip can be used, or `out` cannot be written.
    """
    adapter = get_adapter(form)
    roots = Roots(roots.data.absolute(), roots.genuine.absolute() if roots.genuine else None)
    clips = _unique(adapter.read(roots))
    found: list[_Found] = []
    refused: list[Rejection] = []
    for outcome in map_parallel(_examine, clips, description="reading headers", jobs=jobs):
        (found if isinstance(outcome, _Found) else refused).append(outcome)  # type: ignore[arg-type]
    rejects_path = _write_rejects(Path(out), refused)
    num_missing = sum(rejection.reason.startswith(MISSING) for rejection in refused)
    if not found:
        listed = f"; the list is in {rejects_path}" if rejects_path else ""
        raise UserError(f"none of {len(clips)} clips can be used, {num_missing} for want of audio{listed}")
    table = manifest_table(_rows(found, seed))
    facts = {
        "format": adapter.name,
        "data": str(roots.data),
        "genuine": str(roots.genuine) if roots.genuine else None,
        "seed": seed,
        "missing": num_missing,
        "rejected": len(refused) - num_missing,
        "trained_families": sorted(adapter.trained_families),
        "protocol": protocol_of(table, adapter.trained_families),
    }
    write_imported(out, table, facts)
    return ImportReport(len(found), num_missing, len(refused) - num_missing, rejects_path)


def _unique(clips: Iterable[ExternalClip]) -> list[ExternalClip]:
    """The clips, those that a dataset lists twice in the same words once."""
    first: dict[str, ExternalClip] = {}
    for clip in clips:
        known = first.setdefault(clip.clip_id, clip)
        if replace(clip, where=known.where) != known:
            raise UserError(f"{clip.where}: the clip {clip.clip_id!r:.80} is another one in {known.where}")
    return list(first.values())


def _examine(clip: ExternalClip) -> _Found | Rejection:
    path = next(filter(_exists, clip.paths), None)
    if path is None:
        return Rejection(clip.clip_id, f"{MISSING} {clip.paths[0]}")
    try:
        info = probe(path)
        sha256 = sha256_of(path)
    except AudioError as error:
        return Rejection(clip.clip_id, f"{path}: {error}")
    except OSError as error:  # it could be read a moment ago
        return Rejection(clip.clip_id, f"{path}: unreadable: {error.strerror}")
    regions = _within(clip, info.duration_s)
    if isinstance(regions, str):
        return Rejection(clip.clip_id, f"{clip.where}: {regions} ({path})")
    return _Found(clip, path, info, sha256, regions)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _within(clip: ExternalClip, duration_s: float) -> tuple[Region, ...] | str:
    """The clip's regions, ends trimmed to the audio, or why they cannot be those of this audio."""
    if clip.regions is None:
        return (Region(0.0, duration_s),) if clip.label else ()
    if any(region.offset_s > duration_s + OVERHANG_S for region in clip.regions):
        return f"a region ends long after the {duration_s:.2f} s that the audio lasts"
    trimmed = (Region(onset_s, min(offset_s, duration_s)) for onset_s, offset_s in sorted(clip.regions))
    within = tuple(region for region in trimmed if region.onset_s < region.offset_s)
    if clip.label and not clip.regions:
        return "labelled as forged, but no stretch of it is"
    if clip.label and not within:
        return f"no region starts within the {duration_s:.2f} s that the audio lasts"
    return within


def _write_rejects(manifest: Path, refused: Sequence[Rejection]) -> Path | None:
    target = manifest.absolute().with_suffix(".rejects.csv")
    if not refused:
        discard(target)  # of an earlier import
        return None
    with writing(target) as path, path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["clip", "reason"])
        writer.writerows(sorted((rejection.source_id, rejection.reason) for rejection in refused))
    return target


def _rows(found: Sequence[_Found], seed: int) -> list[_Row]:
    component_of = _components(found)
    partitions = _partitions(found, component_of, seed)
    return [
        _row(one, component, partition)
        for one, component, partition in zip(found, component_of, partitions, strict=True)
    ]


def _group(clip: ExternalClip) -> str:
    return clip.group or clip.source_ids[0]


def _components(found: Sequence[_Found]) -> list[str]:
    """The component of each clip, named after the first source in it."""
    links: list[tuple[tuple[str, str], tuple[str, str]]] = []
    for one in found:
        this = ("source", one.clip.source_ids[0])
        links += [(this, ("source", source)) for source in one.clip.source_ids]
        links += [(this, ("group", _group(one.clip))), (this, ("bytes", one.sha256))]
    numbers = components(list(dict.fromkeys(node for link in links for node in link)), links)
    firsts = [one.clip.source_ids[0] for one in found]
    names: dict[int, str] = {}
    for source in sorted(set(firsts)):
        names.setdefault(numbers["source", source], source)
    return [names[numbers["source", source]] for source in firsts]


def _partitions(found: Sequence[_Found], component_of: Sequence[str], seed: int) -> list[str]:
    """The dataset's own split; where it has none, or no validation part, components dealt by the seed."""
    given = {one.clip.partition for one in found}
    if None in given and len(given) > 1:
        odd = next(one.clip.where for one in found if one.clip.partition is None)
        raise UserError(f"{odd}: no partition, while other clips have one; give it for all clips or for none")
    shares, wanted = Shares(), {}
    if given == {None}:  # any family may lie in any partition: none is kept for validation_unseen
        validation = shares.validation + shares.validation_unseen
        wanted = {"train": shares.train, "validation": validation, "test": shares.test}
    elif "train" in given and "validation" not in given:
        wanted = {"train": shares.train, "validation": shares.validation}
    if not wanted:
        return [str(one.clip.partition) for one in found]
    amounts_s: dict[str, float] = defaultdict(float)
    for one, component in zip(found, component_of, strict=True):
        if one.clip.partition in (None, "train"):
            amounts_s[component] += one.info.duration_s
    dealt = _deal(amounts_s, wanted, seed)
    return [
        dealt[component] if one.clip.partition in (None, "train") else str(one.clip.partition)
        for one, component in zip(found, component_of, strict=True)
    ]


def _deal(amounts: Mapping[str, float], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    if len(amounts) < len(shares):
        raise UserError(
            f"{len(amounts)} independent sources are too few for {', '.join(shares)}: clips that share a "
            "speaker, a source or their bytes count as one"
        )
    per_share_s = sum(amounts.values()) / sum(shares.values())
    wanted_s = {partition: share * per_share_s for partition, share in shares.items()}
    return deal_components(amounts, wanted_s, dict.fromkeys(shares, 1), seed)


def _row(found: _Found, component: str, partition: str) -> _Row:
    clip = found.clip
    regions = [{"onset_s": region.onset_s, "offset_s": region.offset_s} for region in found.regions]
    return {
        "clip_id": clip.clip_id,
        "path": str(found.path),
        "source_ids": list(clip.source_ids),
        "source_component": component,
        "group": _group(clip),
        "partition": partition,
        "family": clip.family,
        "mechanism": clip.mechanism or clip.family if clip.label else GENUINE,
        "label": clip.label,
        "length_regime": clip.length_regime,
        "mask_id": digest_of([clip.source_ids[0], regions]),
        "regions": regions,
        "control_regions": [],
        "duration_s": found.info.duration_s,
        "sample_rate_hz": found.info.sample_rate_hz,
        "native_sample_rate_hz": found.info.sample_rate_hz,
        "native_bandwidth_hz": found.info.sample_rate_hz / 2,
        "content_sha256": found.sha256,
        "seed": 0,
    }
