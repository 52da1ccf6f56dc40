"""From recordings to a corpus of genuine and forged clips."""

from fakesound.core.store import Pointer, Store
from fakesound.corpora.build import build_corpus
from fakesound.corpora.leakage import check_leakage
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.tracking import Tracking


def build(*, store: str, config: str, recordings: str, run: str, corpus_out: str) -> None:
    """Build the corpus (or find it built) and write the pointer to it.

    Args:
        store: URL.
        config: preset, file or JSON.
        recordings: folder of recordings; empty for the built-in corpus.
        run: parent tracking run; empty for none.
        corpus_out: pointer file to write.

    Raises:
        UserError: nothing usable among the recordings.
    """
    opened = Store(store)
    corpus = build_corpus(RunConfig.load(config).corpus, opened, recordings or None)
    corpus.write(corpus_out)
    if run:
        tracking = Tracking(opened)
        tracking.set_tags(run, {"fakesound.corpus": corpus.uri, "fakesound.corpus_digest": corpus.digest})
        tracking.log_metrics(run, {"corpus": corpus.open().metadata.get("counts", {})})


def check(*, corpus: str) -> None:
    """Verify a corpus: every file against its digest, and that no source crosses partitions.

    Raises:
        IntegrityError: something was altered. UserError: a source leaks.
    """
    place = Pointer.read(corpus).open()
    for name in place.marker["files"]:
        place.checked_path(name)
    check_leakage(place)
