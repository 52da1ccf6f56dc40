"""In-the-Wild (arXiv 2203.16263): found recordings of politicians and celebrities, and forgeries of them."""

from collections.abc import Iterator

from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.adapters.text import find_splits, parse_word, path_within, read_table

_FAMILY = "in_the_wild"


def _read(roots: Roots) -> Iterator[ExternalClip]:
    [(_, path)] = find_splits(roots.data, {"meta.csv": ""})
    for where, row in read_table(path, ("file", "speaker", "label")):
        label = parse_word(row["label"], {"bona-fide": 0, "spoof": 1}, where)
        yield ExternalClip(
            clip_id=row["file"],
            where=where,
            paths=(path_within(path.parent, row["file"], where),),
            label=label,
            family=_FAMILY if label else GENUINE,
            source_ids=(row["file"],),
            group=row["speaker"] or None,
        )


ADAPTER = Adapter(
    name="in_the_wild",
    needs="meta.csv and the wav files beside it; no split: speakers are dealt to partitions by the seed",
    read=_read,
)
