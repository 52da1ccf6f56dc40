"""The manifest and the rejects table: one row a clip, one row a refusal."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fakesound.core.progress import say
from fakesound.core.schemas import MANIFEST, REJECTS, check_schema
from fakesound.core.store import Place
from fakesound.corpora.ingest import Rejection

MANIFEST_NAME = "manifest.parquet"
REJECTS_NAME = "rejects.parquet"


def manifest_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows in the manifest's schema, sorted by clip id."""
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["clip_id"]), schema=MANIFEST)


def rejects_table(rejections: Sequence[Rejection]) -> pa.Table:
    """Refusals in the rejects table's schema, sorted."""
    rows = sorted((rejection.source_id, rejection.reason) for rejection in rejections)
    return pa.Table.from_pylist([{"path": path, "reason": reason} for path, reason in rows], schema=REJECTS)


def counts_of(table: pa.Table) -> dict[str, Any]:
    """Clips and independent sources by partition, clips by family, and hours: kept with a corpus."""
    by_partition = table.group_by("partition").aggregate(
        [("clip_id", "count"), ("source_component", "count_distinct")]
    )
    families = table["family"].value_counts().to_pylist()
    sizes = sorted(zip(*(by_partition[name].to_pylist() for name in by_partition.column_names), strict=True))
    return {
        "clips": {partition: clips for partition, clips, _ in sizes},
        "components": {partition: sources for partition, _, sources in sizes},
        "families": {
            pair["values"]: pair["counts"] for pair in sorted(families, key=lambda pair: pair["values"])
        },
        "hours": round(sum(table["duration_s"].to_pylist()) / 3600, 4),
    }


def write_tables(place: Place, manifest: pa.Table, rejections: Sequence[Rejection]) -> None:
    """Write both tables of a corpus; say how many refusals there were and how they are listed, if any."""
    write_table(place, MANIFEST_NAME, manifest)
    write_table(place, REJECTS_NAME, rejects_table(rejections))
    if rejections:
        say(f"rejects: {len(rejections)}; `fakesound corpus describe POINTER_FILE` lists them by reason")


def write_table(place: Place, name: str, table: pa.Table) -> None:
    """Write a whole Parquet file, or nothing."""
    with place.writing(name) as path:
        pq.write_table(table, path, compression="zstd")


def read_manifest(corpus: Place) -> pa.Table:
    """The manifest of a finished corpus.

    Raises:
        IntegrityError: the corpus is unfinished, or the file was altered or is of another schema.
    """
    table = pq.read_table(corpus.checked_path(MANIFEST_NAME))
    check_schema(table.schema, MANIFEST, f"{corpus.uri}/{MANIFEST_NAME}")
    return table


def read_rejects(corpus: Place) -> pa.Table:
    """The rejects table of a finished corpus.

    Raises:
        IntegrityError: the corpus is unfinished, or the file was altered or is of another schema.
    """
    table = pq.read_table(corpus.checked_path(REJECTS_NAME))
    check_schema(table.schema, REJECTS, f"{corpus.uri}/{REJECTS_NAME}")
    return table
