"""From recordings to a corpus of genuine and forged clips."""

from fakesound.core.progress import track
from fakesound.core.store import Pointer, Store
from fakesound.corpora.build import build_corpus
from fakesound.corpora.leakage import check_leakage
from fakesound.corpora.manifest import read_manifest
from fakesound.orchestration.config import RunConfig


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


def check(*, corpus: str) -> None:
    """Verify a corpus: every file against its digest, and that no source crosses partitions.

    Raises:
        IntegrityError: something was altered. UserError: a source leaks.
    """
    place = Pointer.read(corpus).open()
    for name in track(place.marker["files"], "checking files"):
        place.checked_path(name)
    check_leakage(read_manifest(place))
