"""Views: the sets of clips that results are stated for, chosen from one manifest.

| view | partition | forged by | region lengths |
|---|---|---|---|
| validation | validation | seen families | train |
| validation_unseen | validation_unseen | families of its own | wide |
| easy | test | seen families | train |
| hard | test | seen families | wide |
| zeroshot | test | families unseen in training and in every choice | wide, the masks of hard |
| splice | test | real sound of another source; reported apart | wide, the masks of hard |

Each holds as many genuine clips as forged ones, made of the same stretches with the same masks.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fakesound.core.errors import UserError
from fakesound.core.schemas import GENUINE
from fakesound.core.tables import list_items, rows_where

_VIEWS: dict[str, tuple[str, str, str]] = {  # partition, part of the protocol, length regime
    "validation": ("validation", "seen", "train"),
    "validation_unseen": ("validation_unseen", "validation_unseen", "wide"),
    "easy": ("test", "seen", "train"),
    "hard": ("test", "seen", "wide"),
    "zeroshot": ("test", "test_unseen", "wide"),
    "splice": ("test", "apart", "wide"),
}
VIEWS = tuple(_VIEWS)


def view_rows(table: pa.Table, view: str, protocol: Mapping[str, Sequence[str]]) -> pa.Table:
    """The rows of a table with the manifest's columns that belong to a view.

    `source_component` is widened to connect sources heard together in a clip (a splice and its donor).

    Args:
        table: manifest columns, any others kept.
        view: one of VIEWS.
        protocol: families by part: seen, validation_unseen, test_unseen, apart.

    Raises:
        UserError: there is no such view.
    """
    if view not in _VIEWS:
        raise UserError(f"no view {view!r}; there are {', '.join(VIEWS)}")
    partition, part, regime = _VIEWS[view]
    families = {GENUINE, *protocol[part]}
    kept = rows_where(table, partition=partition, family=families, length_regime=regime)
    return _with_joined_components(kept)


def training_rows(table: pa.Table) -> pa.Table:
    """The rows of the train partition."""
    return rows_where(table, partition="train")


def _with_joined_components(rows: pa.Table) -> pa.Table:
    """Components that share a source become one, under the first of their names."""
    if not rows.num_rows:
        return rows
    sources, row_of_source = list_items(rows["source_ids"])
    components = rows["source_component"].combine_chunks().dictionary_encode()
    sources = sources.dictionary_encode()
    num_components = len(components.dictionary)
    num_nodes = num_components + len(sources.dictionary)
    links = (components.indices.take(row_of_source).to_numpy(), num_components + sources.indices.to_numpy())
    graph = coo_array((np.ones(len(sources), np.int32), links), shape=(num_nodes, num_nodes))
    _, joined = connected_components(graph, directed=False)
    by_name = np.argsort(components.dictionary.to_numpy(zero_copy_only=False))
    _, places, number = np.unique(joined[by_name], return_index=True, return_inverse=True)
    first_name = np.empty(num_components, np.int64)
    first_name[by_name] = by_name[places[number]]
    names = components.dictionary.take(pa.array(first_name)).take(components.indices)
    index = rows.schema.get_field_index("source_component")
    return rows.set_column(index, rows.schema.field(index), names)
