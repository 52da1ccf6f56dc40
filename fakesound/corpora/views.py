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
same masks.
"""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from fakesound.core.errors import UserError
from fakesound.core.schemas import GENUINE
from fakesound.corpora.cluster import components
from fakesound.corpora.protocol import Roles

_VIEWS: dict[str, tuple[str, str, str]] = {  # partition, part of the protocol, length regime
    "validation": ("validation", "seen", "train"),
    "validation_unseen": ("validation_unseen", "validation_unseen", "wide"),
    "easy": ("test", "seen", "train"),
    "hard": ("test", "seen", "wide"),
    "zeroshot": ("test", "test_unseen", "wide"),
    "splice": ("test", "apart", "wide"),
}
VIEWS = tuple(_VIEWS)


def view_rows(table: pa.Table, view: str, roles: Roles) -> pa.Table:
    """The rows of a table with the manifest's columns that belong to a view.

    `source_component` is widened to connect sources heard together in a clip (a splice and its donor).

    Args:
        table: manifest columns, any others kept.
        view: one of VIEWS.
        roles: families by part, see `protocol.held_out`.

    Raises:
        UserError: there is no such view.
    """
    if view not in _VIEWS:
        raise UserError(f"no view {view!r}; there are {', '.join(VIEWS)}")
    partition, part, regime = _VIEWS[view]
    here = table.filter((pc.field("partition") == partition) & (pc.field("length_regime") == regime))
    return _with_joined_components(_forged_by(here, roles[part]))


def partition_rows(table: pa.Table, partition: str, roles: Roles) -> pa.Table:
    """The rows that training may use of a partition: train, validation or validation_unseen."""
    part = "validation_unseen" if partition == "validation_unseen" else "seen"
    return _forged_by(table.filter(pc.field("partition") == partition), roles[part])


def _forged_by(rows: pa.Table, families: Sequence[str]) -> pa.Table:
    """Clips that these families forged, and the genuine ones but for twins of what other families forged."""
    is_genuine, is_theirs = pc.field("family") == GENUINE, pc.field("family").isin(list(families))
    masks = [rows.filter(which)["mask_id"].unique() for which in (is_theirs, ~is_genuine)]
    is_twin, has_twin = (pc.field("mask_id").isin(found) for found in masks)
    return rows.filter(is_theirs | (is_genuine & (is_twin | ~has_twin)))


def _with_joined_components(rows: pa.Table) -> pa.Table:
    names = rows["source_component"].to_pylist()
    heard = rows["source_ids"].to_pylist()
    links = [
        (("component", name), ("source", source))
        for name, sources in zip(names, heard, strict=True)
        for source in sources
    ]
    numbers = components(_unique(node for link in links for node in link), links)
    first_name: dict[int, str] = {}
    for name in sorted(set(names)):
        first_name.setdefault(numbers[("component", name)], name)
    joined = [first_name[numbers[("component", name)]] for name in names]
    index = rows.schema.get_field_index("source_component")
    return rows.set_column(index, rows.schema.field(index), pa.array(joined, pa.string()))


def _unique(nodes: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(nodes))
