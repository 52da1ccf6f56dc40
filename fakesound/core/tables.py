"""Arrow tables of a million rows, without a Python loop over them."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def rows_where(table: pa.Table, **conditions: str | int | Collection[str]) -> pa.Table:
    """The rows that meet every condition, in order.

    Args:
        table: any table.
        conditions: column = value, or any of several values, such as `partition="train"`.

    Raises:
        KeyError: there is no such column.
    """
    keep = np.ones(table.num_rows, dtype=bool)
    for column, wanted in conditions.items():
        values = [wanted] if isinstance(wanted, str | int) else list(wanted)
        options = pc.SetLookupOptions(pa.array(values, table.schema.field(column).type))
        keep &= pc.call_function("is_in", [table[column]], options).to_numpy()
    return table.filter(pa.array(keep))


def list_items(lists: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """What is in a column of lists: every item, and the row that each stands in."""
    whole = lists.combine_chunks()
    return whole.flatten(), whole.value_parent_indices()
