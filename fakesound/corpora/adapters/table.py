"""A table of one's own, CSV or Parquet: path, label, and whatever else is known.

| column | |
|---|---|
| path | audio file, below the table's own folder |
| label | `forged` or 1, `genuine` or 0 |
| regions | forged stretches, `1.2-3.4 5-6.25` (s); empty: the whole clip; in Parquet also a list of structs |
| family | attack family; default 'forged' |
| source | recording that it is made from; default: the path |
| group | speaker or session; default: the source |
| partition | train, validation, validation_unseen or test, for all clips or for none |
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fakesound.core.regions import Region
from fakesound.core.schemas import GENUINE, PARTITIONS
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.adapters.text import parse_region, parse_word, path_within, read_table, refuse, shown

_REQUIRED = ("path", "label")
_LABELS = {"forged": 1, "genuine": 0, "1": 1, "0": 0}
_PARTITIONS = {"": None} | {name: name for name in PARTITIONS}
_FORGED = "forged"


def _read(roots: Roots) -> Iterator[ExternalClip]:
    rows = _parquet_rows(roots.data) if roots.data.suffix == ".parquet" else read_table(roots.data, _REQUIRED)
    for where, row in rows:
        label = parse_word(row["label"], _LABELS, where)
        yield ExternalClip(
            clip_id=row["path"],
            where=where,
            paths=(path_within(roots.data.parent, row["path"], where),),
            label=label,
            family=row.get("family") or (_FORGED if label else GENUINE),
            source_ids=(row.get("source") or row["path"],),
            group=row.get("group") or None,
            regions=_regions(row.get("regions") or "", where),
            partition=parse_word(row.get("partition") or "", _PARTITIONS, where),
        )


def _regions(text: str, where: str) -> tuple[Region, ...] | None:
    found = []
    for part in text.split():
        onset, separator, offset = part.partition("-")
        if not separator:
            refuse(where, f"{shown(text)} is not a list of regions such as 1.2-3.4 5-6.25")
        found.append(parse_region(onset, offset, where))
    return tuple(found) or None


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        table = pq.read_table(path)
        missing = [name for name in _REQUIRED if name not in table.column_names]
        rows = [] if missing else table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        refuse(str(path), f"not a Parquet file ({error!s:.100})")
    if missing:
        refuse(str(path), f"no column {', '.join(missing)}; there are {shown(', '.join(table.column_names))}")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        yield where, {name: _as_text(value, where) for name, value in row.items()}


def _as_text(value: Any, where: str) -> str:
    """A cell as the CSV would have it."""
    match value:
        case None:
            return ""
        case bool():
            return str(int(value))
        case str() | int():
            return str(value)
        case list():
            return " ".join(_span(region, where) for region in value)
    refuse(where, f"{shown(str(value))} is neither text, a whole number nor a list of regions")


def _span(region: Any, where: str) -> str:
    match region:
        case {"onset_s": float() | int() as onset_s, "offset_s": float() | int() as offset_s}:
            return f"{onset_s:.9f}-{offset_s:.9f}"  # never 1e-05
    refuse(where, f"{shown(str(region))} is not a region with onset_s and offset_s")


ADAPTER = Adapter(
    name="table",
    needs="a CSV or Parquet file with the columns path and label (docs/adapters.md lists the others), the "
    "audio below the file's own folder",
    read=_read,
)
