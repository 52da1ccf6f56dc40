"""MLAAD (arXiv 2401.09512): synthetic speech of many models and languages, no genuine speech.

A pipe-delimited `meta.csv` in each model's folder. `original_file` is the M-AILABS recording whose text was
spoken, which is taken for the source: M-AILABS, given as the second folder, supplies the genuine class.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fakesound.core.errors import UserError
from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.adapters.text import path_within, read_table
from fakesound.corpora.ingest import scan


def _read(roots: Roots) -> Iterator[ExternalClip]:
    if not roots.data.is_dir():
        raise UserError(f"{roots.data} is not a folder")
    files = sorted(roots.data.rglob("meta.csv"))
    if not files:
        raise UserError(f"{roots.data} holds no meta.csv: is it the dataset's folder?")
    for path in files:
        yield from _forged(path, roots.data)
    if roots.genuine is not None:
        yield from _genuine(roots.genuine)


def _forged(path: Path, root: Path) -> Iterator[ExternalClip]:
    folder = path.parent.relative_to(root).as_posix()
    for where, row in read_table(path, ("path", "original_file"), delimiter="|", quoted=False):
        name = PurePosixPath(row["path"]).name
        audio = path_within(path.parent, name, where)
        original = PurePosixPath(row["original_file"]).stem
        yield ExternalClip(
            clip_id=f"{folder}/{name}",
            where=where,
            paths=(audio, path_within(root, row["path"].removeprefix("./"), where)),
            label=1,
            family=path.parent.name,
            source_ids=(original or f"{folder}/{name}",),
        )


def _genuine(folder: Path) -> Iterator[ExternalClip]:
    for candidate in scan(folder)[0]:
        yield ExternalClip(
            clip_id=f"genuine/{candidate.source_id}",
            where=str(candidate.path),
            paths=(candidate.path,),
            label=0,
            family=GENUINE,
            source_ids=(candidate.path.stem,),
        )


ADAPTER = Adapter(
    name="mlaad",
    needs="fake/LANGUAGE/MODEL/meta.csv and the wav files beside it, and M-AILABS as a second folder "
    "(--genuine); no split: texts are dealt to partitions by the seed",
    read=_read,
)
