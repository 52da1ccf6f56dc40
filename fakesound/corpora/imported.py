"""Imported manifests: an outside dataset's clips in the manifest's schema, as one Parquet file.

Its paths are absolute: such a file describes one machine's copy of a dataset, which may lie under several
roots and is never moved or copied by us. What travels is the corpus that `convert` makes of it. The schema's
metadata say where it came from and under which protocol it is evaluated.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.files import writing
from fakesound.core.schemas import GENUINE, MANIFEST, check_schema
from fakesound.core.store import sha256_of
from fakesound.corpora.views import view_rows

_KEY = b"import"
_MAGIC = b"PAR1"


def is_imported(path: str | Path) -> bool:
    """Whether the file is a manifest (Parquet), not the pointer of a corpus.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def write_imported(path: str | Path, table: pa.Table, facts: Mapping[str, Any]) -> None:
    """Write a manifest with facts on its origin (`protocol` among them), whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    metadata = {**(table.schema.metadata or {}), _KEY: json.dumps(facts, sort_keys=True).encode()}
    with writing(path) as beside:
        pq.write_table(table.replace_schema_metadata(metadata), beside, compression="zstd")


def read_imported(path: str | Path) -> tuple[pa.Table, dict[str, Any]]:
    """An imported manifest and the facts on its origin.

    Raises:
        UserError: it cannot be read. IntegrityError: it is damaged or of another schema.
    """
    if not is_imported(path):
        raise UserError(f"{path} is not a manifest that `corpus import` wrote")
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {}).get(_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"{path} is damaged ({error!s:.100}); import it again") from None
    check_schema(table.schema, MANIFEST, str(path))
    if not isinstance(facts, dict) or not facts.keys() >= {"format", "seed", "trained_families", "protocol"}:
        raise IntegrityError(f"{path} does not say where it came from; import it again")
    return table, facts


def is_unaltered(path: str, content_sha256: str) -> bool:
    """Whether the audio file is there and has the bytes that it had when it was imported."""
    try:
        return sha256_of(Path(path)) == content_sha256
    except OSError:
        return False


def protocol_of(table: pa.Table, trained_families: Iterable[str] = ()) -> dict[str, list[str]]:
    """Which families play which part, and the views to report, from the partitions that a dataset has.

    A family is seen when it, or the family that its mechanism names, forges clips of train or validation, or
    is among `trained_families`. Views are those with clips of both classes.
    """
    mechanism_of: dict[str, str] = {}
    mechanisms_in: dict[str, set[str]] = defaultdict(set)
    columns = (table[name].to_pylist() for name in ("family", "mechanism", "partition"))
    for family, mechanism, partition in zip(*columns, strict=True):
        if family != GENUINE:
            mechanism_of[family] = mechanism
            mechanisms_in[partition].add(mechanism)
    seen = {*trained_families, *mechanisms_in["train"], *mechanisms_in["validation"]}
    chosen_on = mechanisms_in["validation_unseen"] - seen
    parts: dict[str, list[str]] = {"seen": [], "validation_unseen": [], "test_unseen": [], "apart": []}
    for family, mechanism in sorted(mechanism_of.items()):
        if mechanism in seen:
            parts["seen"].append(family)
        else:
            parts["validation_unseen" if mechanism in chosen_on else "test_unseen"].append(family)
    return {**parts, "views": [view for view in _candidate_views(table) if _has_both(table, view, parts)]}


def _candidate_views(table: pa.Table) -> tuple[str, ...]:
    """easy, hard and zeroshot where the test partition has two regimes of region lengths, as FakeSound's."""
    columns = (table[name].to_pylist() for name in ("partition", "length_regime"))
    regimes = {regime for partition, regime in zip(*columns, strict=True) if partition == "test"}
    of_test = ("easy", "hard", "zeroshot") if len(regimes) > 1 else ("test", "test_seen", "test_unseen")
    return ("validation", "validation_unseen", *of_test)


def _has_both(table: pa.Table, view: str, protocol: Mapping[str, Sequence[str]]) -> bool:
    return set(view_rows(table, view, protocol)["label"].to_pylist()) == {0, 1}
