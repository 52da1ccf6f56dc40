"""FakeSound (arXiv 2406.08052): one stretch of a ten-second AudioCaps clip regenerated.

Its JSON files say `label` 1 = forged (its README says the opposite). hard and zeroshot have the same 135
genuine clips, and easy's are among them; each is taken once for 'train' lengths and once for 'wide' ones.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.audio_folder import audio_by_stem
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.adapters.text import (
    find_splits,
    parse_region,
    parse_word,
    path_within,
    read_text,
    refuse,
    shown,
)
from fakesound.corpora.masks import Regime

_NO_REGION = "0_0"


class _Split(NamedTuple):
    partition: str
    family: str
    regime: Regime


_SPLITS = {
    "train": _Split("train", "audioldm2", "train"),
    "easy": _Split("test", "audioldm2", "train"),
    "hard": _Split("test", "audioldm2", "wide"),
    "zeroshot": _Split("test", "audioldm", "wide"),
}


def _read(roots: Roots) -> Iterator[ExternalClip]:
    audiocaps = audio_by_stem(roots.genuine)
    genuine_seen: set[tuple[str, Regime]] = set()
    for _, path in find_splits(roots.data, {f"{name}.json": name for name in _SPLITS}):
        split = _SPLITS[path.stem]
        for number, entry in enumerate(_entries(path), start=1):
            clip = _clip(entry, path.stem, f"{path}, entry {number}", roots.data, audiocaps)
            if not clip.label:
                if (clip.source_ids[0], split.regime) in genuine_seen:
                    continue
                genuine_seen.add((clip.source_ids[0], split.regime))
            yield clip


def _entries(path: Path) -> list[Any]:
    try:
        values = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        refuse(str(path), f"not JSON ({error!s:.100})")
    if not isinstance(values, dict) or not isinstance(values.get("audios"), list):
        refuse(str(path), "no list `audios` in it")
    return values["audios"]


def _clip(
    entry: Any, name: str, where: str, root: Path, audiocaps: dict[str, tuple[Path, ...]]
) -> ExternalClip:
    texts = ("audio_id", "onset_offset", "filepath")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in texts):
        refuse(where, f"not an entry with {', '.join(texts)}")
    label = parse_word(str(entry.get("label")), {"0": 0, "1": 1}, where)
    audio_id, mask = entry["audio_id"], entry["onset_offset"]
    if (label == 0) != (mask == _NO_REGION):
        refuse(where, f"label {label} (1 = forged) with the region {shown(mask)}")
    split = _SPLITS[name]
    source = audio_id.removesuffix(f"_{mask}") if label else audio_id
    regions = (parse_region(*_two_numbers(mask, where), where),) if label else ()
    return ExternalClip(
        clip_id=f"{name}/{audio_id}",
        where=where,
        paths=(*_places(root, entry["filepath"], where), *(() if label else audiocaps.get(source, ()))),
        label=label,
        family=split.family if label else GENUINE,
        source_ids=(source,),
        regions=regions,
        partition=split.partition,
        length_regime=split.regime,
    )


def _two_numbers(mask: str, where: str) -> tuple[str, str]:
    found = re.fullmatch(r"([^_]+)_([^_]+)", mask)
    if not found:
        refuse(where, f"{shown(mask)} is not a region onset_offset")
    return found[1], found[2]


def _places(root: Path, relative: str, where: str) -> tuple[Path, ...]:
    """`relative` starts at the folder in which the dataset was unpacked, or at one below it."""
    whole = path_within(root, relative, where)
    parts = whole.relative_to(root).parts
    return tuple(root.joinpath(*parts[skipped:]) for skipped in range(min(3, len(parts))))


ADAPTER = Adapter(
    name="fakesound",
    needs="train.json, easy.json, hard.json, zeroshot.json (any of them), the forged audio under the paths "
    "in them, and AudioCaps as a second folder (--audiocaps)",
    read=_read,
    trained_families=frozenset({"audioldm2"}),
)
