"""Arrow tables of a million rows, without a Python loop over them."""

from collections.abc import Collection
from functools import reduce

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
    masks = []
    for column, wanted in conditions.items():
        values = [wanted] if isinstance(wanted, str | int) else list(wanted)
        kept = pa.array(values, table.schema.field(column).type)
        masks.append(pc.is_in(table[column], value_set=kept))
    return table.filter(reduce(pc.and_, masks)) if masks else table


def list_items(lists: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """What is in a column of lists: every item, and the row that each stands in."""
    whole = lists.combine_chunks()
    return pc.list_flatten(whole), pc.list_parent_indices(whole)
