"""No source, group or component of near-duplicates may be heard in two partitions."""

from collections import defaultdict

import pyarrow as pa
import pyarrow.compute as pc

from fakesound.core.errors import UserError
from fakesound.core.tables import list_items

_SHOWN = 5


def check_manifest(table: pa.Table) -> None:
    """Check a table with the manifest's columns; donors count as heard.

    Raises:
        UserError: names what is in two partitions, and in which.
    """
    sources, rows = list_items(table["source_ids"])
    columns = {
        "source": (sources, table["partition"].take(rows)),
        "group": (table["group"], table["partition"]),
        "component": (table["source_component"], table["partition"]),
        "mask": (table["mask_id"], table["partition"]),
    }
    found = [
        f"{kind} {name} in {' and '.join(places)}"
        for kind, (names, partitions) in columns.items()
        for name, places in _in_several(names, partitions)
    ]
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UserError(f"the corpus leaks between partitions: {'; '.join(found[:_SHOWN])}{more}")


def _in_several(
    names: pa.Array | pa.ChunkedArray, partitions: pa.ChunkedArray
) -> list[tuple[str, list[str]]]:
    """Each name that stands beside more than one partition, and these; both sorted."""
    pairs = pa.table({"name": names, "partition": partitions}).group_by(["name", "partition"]).aggregate([])
    counts = pairs.group_by("name").aggregate([("partition", "count")])
    suspects = counts.filter(pc.field("partition_count") > 1)["name"]
    of_suspects = pairs.filter(pc.field("name").isin(suspects.combine_chunks()))
    heard_in: dict[str, list[str]] = defaultdict(list)
    for pair in of_suspects.sort_by([("name", "ascending"), ("partition", "ascending")]).to_pylist():
        heard_in[pair["name"]].append(pair["partition"])
    return list(heard_in.items())
