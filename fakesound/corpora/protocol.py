"""Which attack families count as seen: the corpus's own protocol, or one that leaves others out.

Nothing is built again for it. A corpus that every family forged (`corpus.every_family`) serves any protocol:
clips of families left out are simply not trained on, and their test clips become the zeroshot view.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from fakesound.core.errors import UserError
from fakesound.core.schemas import GENUINE
from fakesound.core.tables import rows_where

PARTS = ("seen", "validation_unseen", "test_unseen", "apart")

REBUILD = "build the corpus with corpus.every_family=1 or more"

Roles = Mapping[str, Sequence[str]]
"""Part (see PARTS) -> families that play it; an imported dataset also names its "views", see `views_of`."""


def held_out(roles: Roles, unseen: Sequence[str], table: pa.Table) -> Roles:
    """The roles with `unseen` as the families of the zeroshot view, and no clip of theirs trained on.

    Leaving out a family leaves its cousins in training; leaving out a mechanism leaves out all of them.
    Everything else that forged the train partition is seen, but for the validation_unseen families: those of
    the corpus, or, where these are left out themselves, the families of the first other mechanism (by name)
    that is no cousin of what is left out.

    Args:
        roles: of the corpus.
        unseen: families, or mechanisms for all of their families; none leaves the roles as they are.
        table: the corpus's clips: columns partition, family, mechanism.

    Raises:
        UserError: a name that forged nothing; no test clips of a family; nothing left to train on or to make
            choices on.
    """
    if not unseen:
        return roles
    mechanism_of = _mechanisms(table)
    left_out = {family for name in unseen for family in _families(name, mechanism_of)}
    missing = left_out - _forged(table, "test")
    if missing:
        raise UserError(f"no test clip is forged by {', '.join(sorted(missing))}: {REBUILD}")
    choosing = _validation_families(roles, left_out, mechanism_of, _forged(table, "validation_unseen"))
    kept_back = {mechanism_of[family] for family in choosing}
    seen = [
        family
        for family in sorted(_forged(table, "train") - left_out - set(roles["apart"]))
        if mechanism_of[family] not in kept_back
    ]
    if not seen:
        raise UserError(f"leaving out {', '.join(sorted(left_out))} leaves nothing to train on: {REBUILD}")
    return {
        **roles,
        "seen": seen,
        "validation_unseen": choosing,
        "test_unseen": sorted(left_out),
        "apart": [family for family in roles["apart"] if family not in left_out],
    }


def _mechanisms(table: pa.Table) -> dict[str, str]:
    """Mechanism by family, of everything that forged a clip."""
    pairs = table.select(["family", "mechanism"]).group_by(["family", "mechanism"]).aggregate([]).to_pylist()
    return {pair["family"]: pair["mechanism"] for pair in pairs if pair["family"] != GENUINE}


def _families(name: str, mechanism_of: Mapping[str, str]) -> list[str]:
    if name in mechanism_of:
        return [name]
    members = [family for family, mechanism in mechanism_of.items() if mechanism == name]
    if not members:
        known = ", ".join(sorted({*mechanism_of, *mechanism_of.values()}))
        raise UserError(f"no clip is forged by {name!r}; families and mechanisms of this corpus: {known}")
    return members


def _forged(table: pa.Table, partition: str) -> set[str]:
    return set(rows_where(table, partition=partition)["family"].unique().to_pylist()) - {GENUINE}


def _validation_families(
    roles: Roles, left_out: set[str], mechanism_of: Mapping[str, str], available: set[str]
) -> list[str]:
    """Families on which choices are made: never those left out, nor cousins of theirs."""
    own = [family for family in roles["validation_unseen"] if family not in left_out]
    cousins = {mechanism_of[family] for family in left_out}
    if own and not {mechanism_of.get(family, family) for family in own} & cousins:
        return own
    if not available:  # an imported dataset without such a partition
        return []
    others = sorted({mechanism_of[family] for family in available - set(roles["apart"])} - cousins)
    if not others:
        raise UserError(f"no other unseen families are left to make choices on: {REBUILD}")
    return sorted(family for family in available if mechanism_of[family] == others[0])
