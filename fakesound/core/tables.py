"""Arrow tables of a million rows, without a Python loop over them."""

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def is_one_of(column: pa.ChunkedArray, values: Sequence[str | int] | pa.Array) -> NDArray[np.bool_]:
    """(n,) whether each row's value is one of `values`."""
    options = pc.SetLookupOptions(pa.array(values, column.type))
    return pc.call_function("is_in", [column], options).to_numpy()


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
        keep &= is_one_of(table[column], [wanted] if isinstance(wanted, str | int) else list(wanted))
    return table.filter(pa.array(keep))


def list_items(lists: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """What is in a column of lists: every item, and the row that each stands in."""
    whole = lists.combine_chunks()
    return whole.flatten(), whole.value_parent_indices()
