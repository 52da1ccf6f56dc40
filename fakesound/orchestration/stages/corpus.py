"""From recordings to a corpus of genuine and forged clips; from a dataset's files to the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from fakesound.core.errors import IntegrityError
from fakesound.core.parallel import map_parallel
from fakesound.core.progress import track
from fakesound.core.store import Pointer, Store
from fakesound.corpora.adapters.base import Roots
from fakesound.corpora.build import build_corpus
from fakesound.corpora.convert import convert_manifest
from fakesound.corpora.describe import describe_rejects, describe_table, plot_lengths
from fakesound.corpora.imported import is_imported, is_unaltered, read_imported
from fakesound.corpora.importing import ImportReport, import_dataset
from fakesound.corpora.leakage import check_manifest
from fakesound.corpora.manifest import read_manifest, read_rejects
from fakesound.corpora.polarity import check_polarity
from fakesound.orchestration.config import RunConfig

_SHOWN = 5


def build(*, store: str, config: str, recordings: str, corpus_out: str) -> None:
    """Build the corpus (or find it built) and write the pointer to it.

    Args:
        store: URL.
        config: preset, file or JSON.
        recordings: folder of recordings; empty for the built-in corpus.
        corpus_out: pointer file to write.

    Raises:
        UserError: nothing usable among the recordings.
    """
    build_corpus(RunConfig.load(config).corpus, Store(store), recordings or None).write(corpus_out)


def import_(*, form: str, root: str, genuine: str | None, seed: int, manifest_out: str) -> ImportReport:
    """Write the manifest of a public dataset, or of one's own labelled audio.

    Args:
        form: name of the format.
        root: the dataset's folder, or one's own table.
        genuine: folder of the recordings that the dataset builds on and does not distribute.
        seed: deals sources to partitions where the dataset has no split of its own.
        manifest_out: Parquet file to write; what is missing or cannot be used is listed beside it.

    Raises:
        UserError: the files are not understood (names file and line), or no clip can be used.
    """
    roots = Roots(Path(root), Path(genuine) if genuine else None)
    return import_dataset(form, roots, manifest_out, seed=seed)


def convert(*, store: str, manifest: str, corpus_out: str) -> None:
    """Make a corpus of an imported manifest (or find it made) and write the pointer to it.

    Raises:
        UserError: a source leaks, labels contradict themselves, or nothing can be decoded.
    """
    convert_manifest(manifest, Store(store)).write(corpus_out)


def describe(*, source: str, plot: str | None) -> str:
    """Counts of a corpus or of an imported manifest, and a corpus's rejects, as text.

    Args:
        source: pointer file or imported manifest.
        plot: picture of the forged lengths to write, if any.

    Raises:
        UserError: it is neither, or the picture cannot be written.
    """
    table, protocol = _open(source)
    if plot:
        plot_lengths(table, plot)
    described = describe_table(table, protocol)
    if is_imported(source):
        return described
    return f"{described}\n{describe_rejects(read_rejects(Pointer.read(source).open()))}"


def check(*, corpus: str) -> None:
    """Verify a corpus, or an imported manifest and the audio that it lists.

    Every file is compared with its digest; no source may cross partitions; labels and regions must agree.

    Raises:
        IntegrityError: something was altered. UserError: a source leaks, or labels contradict themselves.
    """
    table, _ = _open(corpus)
    if is_imported(corpus):
        _check_audio(table)
    else:
        place = Pointer.read(corpus).open()
        for name in track(place.marker["files"], "checking files"):
            place.checked_path(name)
    check_manifest(table)
    check_polarity(table)


def _open(source: str) -> tuple[pa.Table, Mapping[str, Sequence[str]]]:
    if is_imported(source):
        table, facts = read_imported(source)
        return table, facts["protocol"]
    place = Pointer.read(source).open()
    return read_manifest(place), place.metadata["protocol"]


def _check_audio(table: pa.Table) -> None:
    files = table.select(["path", "content_sha256"]).to_pylist()
    are_unaltered = map_parallel(_is_unaltered, files, description="checking files")
    altered = [file["path"] for file, is_whole in zip(files, are_unaltered, strict=True) if not is_whole]
    if altered:
        more = f" and {len(altered) - _SHOWN} more" if len(altered) > _SHOWN else ""
        raise IntegrityError(
            f"{len(altered)} of {len(files)} files are missing or altered since they were imported: "
            f"{', '.join(altered[:_SHOWN])}{more}; import the dataset again"
        )


def _is_unaltered(file: Mapping[str, str]) -> bool:
    return is_unaltered(file["path"], file["content_sha256"])
