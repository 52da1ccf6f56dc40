"""PartialSpoof (arXiv 2204.05177): utterances of ASVspoof 2019 LA with stretches of synthetic speech.

Exact times come from `vad/{split}/UTT.vad`; where a file is missing, from the finest segment labels,
`segment_labels/{split}_seglab_{0.01..0.64}.npy`, which are pickles and are read without unpickling.
Both say 0 = spoof. The protocol calls every forgery CON; those of train and dev are made with ASVspoof's
A01-A06, those of eval with A07-A19, and the families are named after that.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fakesound.core.regions import Region, regions_from_frames
from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.adapters.label_pickle import read_label_arrays
from fakesound.corpora.adapters.text import (
    Line,
    find_splits,
    forged_region,
    is_file,
    parse_word,
    path_within,
    read_lines,
    refuse,
    shown,
)

_SPLITS = {"train": "train", "dev": "validation", "eval": "test"}
_FILES = {f"PartialSpoof.LA.cm.{split}.trl.txt": split for split in _SPLITS}
_FAMILIES = {"train": "con_A01-A06", "dev": "con_A01-A06", "eval": "con_A07-A19"}
_RESOLUTIONS_S = ("0.01", "0.02", "0.04", "0.08", "0.16", "0.32", "0.64")
_SPOOF = "0"
_STRETCHES = {_SPOOF: True, "1": False, "2": False}


class _Segments:
    """The segment labels of one split, read when they are first asked for."""

    def __init__(self, root: Path, split: str) -> None:
        self._paths = [
            (root / "segment_labels" / f"{split}_seglab_{resolution}.npy", float(resolution))
            for resolution in _RESOLUTIONS_S
        ]

    @cached_property
    def _finest(self) -> tuple[Path, float, Mapping[str, NDArray[Any]]] | None:
        for path, hop_s in self._paths:
            if path.is_file():
                return path, hop_s, read_label_arrays(path)
        return None

    def regions(self, utterance: str) -> tuple[Region, ...] | None:
        """Forged stretches of an utterance; None where there are no labels."""
        if self._finest is None or utterance not in self._finest[2]:
            return None
        path, hop_s, labels = self._finest
        texts = labels[utterance].astype(np.str_)
        unknown = set(texts.tolist()) - {"0", "1"}
        if unknown:
            refuse(f"{path}, {utterance}", f"unknown label {shown(min(unknown))}; known: 0, 1")
        return tuple(regions_from_frames(texts == _SPOOF, hop_s))


def _read(roots: Roots) -> Iterator[ExternalClip]:
    for split, path in find_splits(roots.data, _FILES):
        root = path.parents[2] if len(path.relative_to(roots.data).parts) > 2 else roots.data
        segments = _Segments(root, split)
        for line in read_lines(path):
            yield _clip(line, split, root, segments)


def _clip(line: Line, split: str, root: Path, segments: _Segments) -> ExternalClip:
    speaker, utterance, _, system, key = line.fields(5)
    label = parse_word(key, {"bonafide": 0, "spoof": 1}, line.where)
    if (system == "CON") != bool(label) or system not in ("CON", "-"):
        refuse(line.where, f"system {shown(system)} with the key {key}")
    vad = path_within(root, f"vad/{split}/{utterance}.vad", line.where)
    regions = _exact_regions(vad) if is_file(vad) else segments.regions(utterance)
    if label and regions is None:
        refuse(
            line.where,
            f"no vad/{split}/{utterance}.vad and no segment_labels/{split}_seglab_*.npy: unpack them",
        )
    return ExternalClip(
        clip_id=utterance,
        where=line.where,
        paths=(path_within(root, f"{split}/con_wav/{utterance}.wav", line.where),),
        label=label,
        family=_FAMILIES[split] if label else GENUINE,
        source_ids=(utterance,),
        group=speaker,
        regions=regions or (),
        partition=_SPLITS[split],
    )


def _exact_regions(path: Path) -> tuple[Region, ...]:
    """Lines `start end what`, s; what: 0 spoof, 1 bona fide, 2 no speech."""
    found = []
    for line in read_lines(path):
        onset, offset, what = line.fields(3)
        found.append(forged_region(onset, offset, what, _STRETCHES, line.where))
    return tuple(filter(None, found))


ADAPTER = Adapter(
    name="partialspoof",
    needs="the database folder: protocols/PartialSpoof_LA_cm_protocols/PartialSpoof.LA.cm.{train,dev,eval}"
    ".trl.txt, {train,dev,eval}/con_wav/, and vad/ or segment_labels/",
    read=_read,
    trained_families=frozenset({"con_A01-A06"}),
)
