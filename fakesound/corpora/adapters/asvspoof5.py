"""ASVspoof 5, track 1: attacks A01-A08 in train, A09-A16 in dev, A17-A32 in eval.

The attacks of dev are its own, so dev is the partition on which choices about generalisation are made
(validation_unseen); validation on seen attacks is held out of train.
"""

from collections.abc import Iterator

from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.adapters.text import (
    Line,
    find_splits,
    parse_word,
    path_within,
    read_lines,
    refuse,
    shown,
)

_FILES = {
    "ASVspoof5.train.tsv": "train",
    "ASVspoof5.dev.track_1.tsv": "validation_unseen",
    "ASVspoof5.eval.track_1.tsv": "test",
}
_FOLDERS = {"train": ("flac_T",), "validation_unseen": ("flac_D",), "test": ("flac_E_eval", "flac_E")}
_ATTACKS = frozenset(f"A{number:02d}" for number in range(1, 33))


def _read(roots: Roots) -> Iterator[ExternalClip]:
    for partition, path in find_splits(roots.data, _FILES):
        for line in read_lines(path):
            yield _clip(line, partition, roots)


def _clip(line: Line, partition: str, roots: Roots) -> ExternalClip:
    speaker, utterance, *_, attack, key, _ = line.fields(10)
    label = parse_word(key, {"bonafide": 0, "spoof": 1}, line.where)
    if label and attack not in _ATTACKS:
        refuse(line.where, f"unknown attack {shown(attack)}")
    paths = [f"{folder}/{utterance}.flac" for folder in _FOLDERS[partition]]
    return ExternalClip(
        clip_id=utterance,
        where=line.where,
        paths=tuple(path_within(roots.data, path, line.where) for path in paths),
        label=label,
        family=attack if label else GENUINE,
        source_ids=(utterance,),
        group=speaker,
        partition=partition,
    )


ADAPTER = Adapter(
    name="asvspoof5",
    needs="ASVspoof5.train.tsv, ASVspoof5.dev.track_1.tsv, ASVspoof5.eval.track_1.tsv (any of them), and "
    "flac_T/, flac_D/, flac_E_eval/",
    read=_read,
    trained_families=frozenset(f"A{number:02d}" for number in range(1, 9)),
)
