"""HAD, half-truth audio detection (arXiv 2104.03617): Mandarin speech with words of another's meaning.

Lines `name s-e-T/s-e-F/… label`, with T = real, F = fake, and at the end 1 = real, 0 = fake.
"""

from collections.abc import Iterator
from pathlib import Path

from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.adapters.text import (
    Line,
    find_splits,
    forged_segment,
    parse_word,
    path_within,
    read_lines,
)

_FAMILY = "had"
_SEGMENTS = {"T": False, "F": True}
_FILES = {
    "HAD_train_label.txt": "train",
    "HAD_dev_label.txt": "validation",
    "HAD_test_label.txt": "test",
}


def _read(roots: Roots) -> Iterator[ExternalClip]:
    for partition, path in find_splits(roots.data, _FILES):
        for line in read_lines(path):
            yield _clip(line, path.parent, partition)


def _clip(line: Line, folder: Path, partition: str) -> ExternalClip:
    name, segments, key = line.fields(3)
    label = parse_word(key, {"1": 0, "0": 1}, line.where)
    stem = name.removesuffix(".wav")
    split = {"validation": "dev"}.get(partition, partition)
    places = (f"conbine/{stem}.wav", f"{split}/conbine/{stem}.wav", f"test/{stem}.wav", f"{stem}.wav")
    return ExternalClip(
        clip_id=f"{partition}/{stem}",
        where=line.where,
        paths=tuple(path_within(folder, place, line.where) for place in places),
        label=label,
        family=_FAMILY if label else GENUINE,
        source_ids=(stem,),
        regions=tuple(
            filter(None, (forged_segment(part, _SEGMENTS, line.where) for part in segments.split("/")))
        ),
        partition=partition,
    )


ADAPTER = Adapter(
    name="had",
    needs="HAD_{train,dev,test}_label.txt (any of them), and beside each conbine/ (sic) or test/",
    read=_read,
    trained_families=frozenset({_FAMILY}),
)
