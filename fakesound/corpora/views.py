"""Views: the sets of clips that results are stated for, chosen from one manifest.

| view | partition | forged by | region lengths |
|---|---|---|---|
| validation | validation | seen families | train |
| validation_unseen | validation_unseen | families of its own | wide |
| easy | test | seen families | train |
| hard | test | seen families | wide |
| zeroshot | test | families unseen in training and in every choice | wide, the masks of hard |
| splice | test | real sound of another source; reported apart | wide, the masks of hard |

In a corpus built here each holds as many genuine clips as forged ones, made of the same stretches with the
same masks; where every family forged every wide mask (`corpus.every_family`), one genuine clip stands for as
many forged ones as the view has families. An imported dataset comes as it is, and its protocol names the
views that it has: those above, or its test partition whole (test), by families seen in training (test_seen)
and by the others (test_unseen).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fakesound.core.errors import UserError
from fakesound.core.schemas import GENUINE
from fakesound.core.tables import is_one_of, list_items, rows_where
from fakesound.corpora.protocol import Roles

_ANY = "any"
_VIEWS: dict[str, tuple[str, str, str]] = {  # partition, part of the protocol, length regime
    "validation": ("validation", "seen", _ANY),
    "validation_unseen": ("validation_unseen", "validation_unseen", _ANY),
    "easy": ("test", "seen", "train"),
    "hard": ("test", "seen", "wide"),
    "zeroshot": ("test", "test_unseen", "wide"),
    "splice": ("test", "apart", "wide"),
    "test": ("test", _ANY, _ANY),
    "test_seen": ("test", "seen", _ANY),
    "test_unseen": ("test", "test_unseen", _ANY),
}
VIEW_ORDER = tuple(_VIEWS)  # as they are listed wherever there are several
VIEWS = ("validation", "validation_unseen", "easy", "hard", "zeroshot", "splice")  # of a corpus built here


def views_of(roles: Roles) -> tuple[str, ...]:
    """The views that a corpus is judged by: those that its protocol names, or VIEWS."""
    return tuple(roles.get("views", VIEWS))


def view_rows(table: pa.Table, view: str, roles: Roles) -> pa.Table:
    """The rows of a table with the manifest's columns that belong to a view.

    `source_component` is widened to connect sources heard together in a clip (a splice and its donor).

    Args:
        table: manifest columns, any others kept.
        view: one of the tables above.
        roles: families by part, see `protocol.held_out`.

    Raises:
        UserError: there is no such view.
    """
    if view not in _VIEWS:
        raise UserError(f"no view {view!r}; there are {', '.join(_VIEWS)}")
    partition, part, regime = _VIEWS[view]
    here = rows_where(table, partition=partition)
    if regime != _ANY:
        here = rows_where(here, length_regime=regime)
    return _with_joined_components(here if part == _ANY else forged_by(here, roles[part]))


def partition_rows(table: pa.Table, partition: str, roles: Roles) -> pa.Table:
    """The rows that training may use of a partition: train, validation or validation_unseen."""
    part = "validation_unseen" if partition == "validation_unseen" else "seen"
    return forged_by(rows_where(table, partition=partition), roles[part])


def forged_by(rows: pa.Table, families: Sequence[str]) -> pa.Table:
    """Clips that these families forged, and the genuine ones but for twins of what other families forged."""
    is_genuine, is_theirs = is_one_of(rows["family"], [GENUINE]), is_one_of(rows["family"], families)
    masks = rows["mask_id"]
    is_twin, has_twin = (
        is_one_of(masks, masks.filter(pa.array(which)).unique()) for which in (is_theirs, ~is_genuine)
    )
    return rows.filter(pa.array(is_theirs | (is_genuine & (is_twin | ~has_twin))))


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
