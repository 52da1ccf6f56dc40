"""No source, group or component of near-duplicates may be heard in two partitions."""

from collections import defaultdict

import pyarrow as pa

from fakesound.core.errors import UserError

_SHOWN = 5


def check_manifest(table: pa.Table) -> None:
    """Check a table with the manifest's columns; donors count as heard.

    Raises:
        UserError: names what is in two partitions, and in which.
    """
    partitions = table["partition"].to_pylist()
    columns = {
        "source": table["source_ids"].to_pylist(),
        "group": [[group] for group in table["group"].to_pylist()],
        "component": [[component] for component in table["source_component"].to_pylist()],
        "mask": [[mask] for mask in table["mask_id"].to_pylist()],
    }
    found = []
    for kind, values in columns.items():
        heard_in: dict[str, set[str]] = defaultdict(set)
        for names, partition in zip(values, partitions, strict=True):
            for name in names:
                heard_in[name].add(partition)
        found += [
            f"{kind} {name} in {' and '.join(sorted(places))}"
            for name, places in sorted(heard_in.items())
            if len(places) > 1
        ]
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UserError(f"the corpus leaks between partitions: {'; '.join(found[:_SHOWN])}{more}")
