"""LlamaPartialSpoof (arXiv 2409.14743): an evaluation set of LibriTTS speech, forged in whole or in part.

Names tell what was done: `dev01-MODEL-partial-cf_SPEAKER_CHAPTER_…`; a bona fide name starts with
`dev-clean` or `test-clean`. The family is the model.
"""

from collections.abc import Iterator
from pathlib import Path

from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.adapters.text import (
    Line,
    find_splits,
    forged_segment,
    parse_number,
    parse_word,
    path_within,
    read_lines,
    refuse,
    shown,
)

_FILES = {"label_R01TTS.0.a.txt": "R01TTS.0.a", "label_R01TTS.0.b.txt": "R01TTS.0.b"}
_LABELS = {"bonafide": 0, "spoof": 1}
_SEGMENTS = {"bonafide": False, "spoof": True}


def _read(roots: Roots) -> Iterator[ExternalClip]:
    for folder, path in find_splits(roots.data, _FILES):
        for line in read_lines(path):
            yield _clip(line, path.parent, folder)


def _clip(line: Line, root: Path, folder: str) -> ExternalClip:
    fields = line.fields()
    if len(fields) < 4:
        refuse(line.where, f"{len(fields)} columns, at least 4 are needed: {shown(line.text)}")
    utterance, duration, key, *segments = fields
    parse_number(duration, line.where)
    label = parse_word(key, _LABELS, line.where)
    how, _, source = utterance.partition("_")
    if not source:
        refuse(line.where, f"{shown(utterance)} names no speaker: it should be HOW_SPEAKER_CHAPTER_…")
    return ExternalClip(
        clip_id=utterance,
        where=line.where,
        paths=(path_within(root, f"{folder}/{utterance}.wav", line.where),),
        label=label,
        family=_model(how, line.where) if label else GENUINE,
        source_ids=(source,),
        group=source.partition("_")[0],
        regions=tuple(filter(None, (forged_segment(segment, _SEGMENTS, line.where) for segment in segments))),
        partition="test",
    )


def _model(how: str, where: str) -> str:
    parts = how.split("-")
    if len(parts) < 3:
        refuse(where, f"{shown(how)} names no model: it should be SET-MODEL-full or SET-MODEL-partial-HOW")
    return parts[1]


ADAPTER = Adapter(
    name="llamapartialspoof",
    needs="label_R01TTS.0.a.txt, label_R01TTS.0.b.txt (one or both), beside them R01TTS.0.a/, R01TTS.0.b/",
    read=_read,
)
