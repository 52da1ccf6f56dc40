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

Roles = Mapping[str, Sequence[str]]
"""Part (see PARTS) -> families that play it; an imported dataset also names its "views", see `views_of`."""


def held_out(roles: Roles, unseen: Sequence[str], table: pa.Table) -> Roles:
    """The roles with `unseen` as the families of the zeroshot view, and no clip of theirs trained on.

    Leaving out a family leaves its cousins in training; leaving out a mechanism leaves out all of them.
    Everything else that was seen, or forged the train partition, is seen, but for the validation_unseen
    families: those of the corpus, or, where these are left out themselves, the families of the first other
    mechanism (by name) that is no cousin of what is left out.

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
    mechanism_of, tested = _mechanisms(table), _forged(table, "test")
    left_out: set[str] = set()
    for name in unseen:
        families = _families(name, mechanism_of, tested)
        if not tested.intersection(families):
            raise UserError(f"no test clip is forged by {name}: {_advice(roles)}")
        left_out.update(families)
    choosing = _validation_families(roles, left_out, mechanism_of, _forged(table, "validation_unseen"))
    kept_back = {mechanism_of.get(family, family) for family in choosing}
    trained = {*roles["seen"], *_forged(table, "train")} - left_out - set(roles["apart"])
    seen = [family for family in sorted(trained) if mechanism_of.get(family, family) not in kept_back]
    if not seen:
        raise UserError(
            f"leaving out {', '.join(sorted(left_out))} leaves nothing to train on: {_advice(roles)}"
        )
    return {
        **_with_views_of_unseen(roles),
        "seen": seen,
        "validation_unseen": choosing,
        "test_unseen": sorted(left_out),
        "apart": [family for family in roles["apart"] if family not in left_out],
    }


def _advice(roles: Roles) -> str:
    return "leave out another" if "views" in roles else "build the corpus with corpus.every_family=true"


def _with_views_of_unseen(roles: Roles) -> Roles:
    """An imported dataset's views with those that tell seen from unseen; it may have had nothing unseen."""
    if "views" not in roles:
        return roles
    views = roles["views"]
    by_length = "easy" in views or "hard" in views
    of_test = ("easy", "hard", "zeroshot") if by_length else ("test", "test_seen", "test_unseen")
    return {**roles, "views": [*(view for view in views if view.startswith("validation")), *of_test]}


def _mechanisms(table: pa.Table) -> dict[str, str]:
    """Mechanism by family, of everything that forged a clip."""
    pairs = table.select(["family", "mechanism"]).group_by(["family", "mechanism"]).aggregate([]).to_pylist()
    return {pair["family"]: pair["mechanism"] for pair in pairs if pair["family"] != GENUINE}


def _families(name: str, mechanism_of: Mapping[str, str], tested: set[str]) -> list[str]:
    """The family of that name, or all families of the mechanism; of a name that is both, what was tested."""
    members = [family for family, mechanism in mechanism_of.items() if mechanism == name]
    if name in mechanism_of and (name in tested or not tested.intersection(members)):
        return [name]
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
        raise UserError(f"no other unseen families are left to make choices on: {_advice(roles)}")
    return sorted(family for family in available if mechanism_of[family] == others[0])
