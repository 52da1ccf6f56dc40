"""ASVspoof 2019 logical access: A01-A06 in train and dev, A07-A19 in eval.

Two of the eval attacks are not unseen: A16 is A04 and A19 is A06 over again, under another id (Wang et al.,
Computer Speech and Language 64, 2020). Their mechanism names the twin.
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

TRAINED_ATTACKS = frozenset(f"A{number:02d}" for number in range(1, 7))
_TWINS = {"A16": "A04", "A19": "A06"}
_ATTACKS = frozenset(f"A{number:02d}" for number in range(1, 20))
_FILES = {
    "ASVspoof2019.LA.cm.train.trn.txt": "train",
    "ASVspoof2019.LA.cm.dev.trl.txt": "validation",
    "ASVspoof2019.LA.cm.eval.trl.txt": "test",
}
_FOLDERS = {"train": "train", "validation": "dev", "test": "eval"}


def _read(roots: Roots) -> Iterator[ExternalClip]:
    for partition, path in find_splits(roots.data, _FILES):
        for line in read_lines(path):
            yield _clip(line, partition, roots)


def _clip(line: Line, partition: str, roots: Roots) -> ExternalClip:
    speaker, utterance, _, system, key = line.fields(5)
    label = parse_word(key, {"bonafide": 0, "spoof": 1}, line.where)
    if (system in _ATTACKS) != bool(label) or (not label and system != "-"):
        refuse(line.where, f"attack {shown(system)} with the key {key}")
    audio = f"ASVspoof2019_LA_{_FOLDERS[partition]}/flac/{utterance}.flac"
    return ExternalClip(
        clip_id=utterance,
        where=line.where,
        paths=(
            path_within(roots.data, audio, line.where),
            path_within(roots.data, f"LA/{audio}", line.where),
        ),
        label=label,
        family=system if label else GENUINE,
        mechanism=_TWINS.get(system),
        source_ids=(utterance,),
        group=speaker,
        partition=partition,
    )


ADAPTER = Adapter(
    name="asvspoof2019",
    needs="the LA folder: ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{train.trn,dev.trl,eval.trl}.txt "
    "and ASVspoof2019_LA_{train,dev,eval}/flac/",
    read=_read,
    trained_families=TRAINED_ATTACKS,
)
