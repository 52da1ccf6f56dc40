"""FakeSound2 (arXiv 2509.17162): six kinds of manipulation by many models, several regions a clip.

JSON lines; a clip's source is the YouTube id with which its own id starts. Families are models, save what
was done by hand (splicing, addition), which goes by the kind of manipulation.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fakesound.core.errors import UserError
from fakesound.core.regions import Region
from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.audio_folder import audio_by_stem
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.adapters.text import Line, parse_region, path_within, read_lines, refuse, shown

_PARTITIONS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
_WHOLE_CLIP = "0-10"
_NO_REGION = "0-0"
_YOUTUBE_ID = re.compile(r"([\w-]{11})(?:_|$)", re.ASCII)
_BY_HAND = ("manually", "None", "Unknown")


def _read(roots: Roots) -> Iterator[ExternalClip]:
    if not roots.data.is_dir():
        raise UserError(f"{roots.data} is not a folder")
    files = sorted(roots.data.rglob("meta/*.jsonl"))
    if not files:
        raise UserError(f"{roots.data} holds no meta/*.jsonl: is it the dataset's folder?")
    audiocaps = audio_by_stem(roots.genuine)
    for path in files:
        for line in read_lines(path):
            yield _clip(_entry(line), line.where, path.stem, roots.data, audiocaps)


def _entry(line: Line) -> dict[str, str]:
    try:
        entry = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        refuse(line.where, f"not JSON ({error!s:.100})")
    texts = ("fake_type", "model", "audio_id", "onset_offset", "filepath")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in texts):
        refuse(line.where, f"not an entry with {', '.join(texts)}")
    return entry


def _clip(
    entry: dict[str, Any], where: str, file: str, root: Path, audiocaps: dict[str, tuple[Path, ...]]
) -> ExternalClip:
    kind, model, audio_id = entry["fake_type"], entry["model"], entry["audio_id"]
    label = int(kind != GENUINE)
    regions = _regions(entry["onset_offset"], where)
    if label != int(regions is None or bool(regions)):
        refuse(where, f"fake_type {shown(kind)} with the regions {shown(entry['onset_offset'])}")
    found = _YOUTUBE_ID.match(audio_id)
    source = found[1] if found else audio_id
    whole = path_within(root, entry["filepath"], where)
    parts = whole.relative_to(root).parts
    partitions = [_PARTITIONS[part] for part in parts if part in _PARTITIONS]
    if not partitions:
        refuse(where, f"{shown(entry['filepath'])} names none of the folders {', '.join(_PARTITIONS)}")
    places = tuple(root.joinpath(*parts[skipped:]) for skipped in range(min(4, len(parts))))
    return ExternalClip(
        clip_id=f"{file}/{audio_id}",
        where=where,
        paths=(*places, *(() if label else audiocaps.get(source, ()))),
        label=label,
        family=(kind if model in _BY_HAND else model) if label else GENUINE,
        source_ids=(source,),
        regions=regions,
        partition=partitions[0],
    )


def _regions(text: str, where: str) -> tuple[Region, ...] | None:
    if text in (_NO_REGION, _WHOLE_CLIP):
        return () if text == _NO_REGION else None
    found = []
    for part in text.split("_"):
        onset, separator, offset = part.partition("-")
        if not separator:
            refuse(where, f"{shown(text)} is not a list of regions onset-offset_onset-offset")
        found.append(parse_region(onset, offset, where))
    return tuple(found)


ADAPTER = Adapter(
    name="fakesound2",
    needs="the dataset's data/ folder, with test/meta/*.jsonl in it and the audio under the paths in them",
    read=_read,
    trained_families=frozenset({"splice", "add", "tango2", "affusion", "ldm2", "lassnet", "audioeditor"}),
)
