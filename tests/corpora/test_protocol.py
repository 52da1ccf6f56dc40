"""Leaving families out, from one manifest."""

from itertools import product

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.core.schemas import GENUINE
from fakesound.corpora.protocol import PARTS, held_out
from fakesound.corpora.views import VIEWS, partition_rows, view_rows

MECHANISMS = {
    "griffin_lim": "phase",
    "phase_randomisation": "phase",
    "autoregressive": "interpolation",
    "granular": "texture",
    "noise_vocoder": "vocoder",
    "lpc_vocoder": "vocoder",
    "splice": "splice",
}
ROLES = {
    "seen": ("griffin_lim", "phase_randomisation", "autoregressive"),
    "validation_unseen": ("granular",),
    "test_unseen": ("noise_vocoder", "lpc_vocoder"),
    "apart": ("splice",),
}
REGIMES = {"train": ("train",), "validation": ("train",), "validation_unseen": ("wide",)}


def manifest(families_of: dict[str, list[str]]) -> pa.Table:
    """In every partition and regime one mask a family: its forged clip and the genuine twin."""
    rows = []
    for partition, families in families_of.items():
        for regime, family in product(REGIMES.get(partition, ("train", "wide")), families):
            mask = f"{partition}-{regime}-{family}"
            common = {"partition": partition, "length_regime": regime, "mask_id": mask}
            common |= {"source_ids": [mask], "source_component": mask}
            rows.append({"family": family, "mechanism": MECHANISMS[family], **common})
            rows.append({"family": GENUINE, "mechanism": GENUINE, **common})
    return pa.Table.from_pylist(rows)


def everyone() -> pa.Table:
    usual = [family for family in MECHANISMS if family != "splice"]
    return manifest(
        {"train": usual, "validation": usual, "validation_unseen": usual, "test": list(MECHANISMS)}
    )


def families(table: pa.Table) -> list[str]:
    return sorted(set(table["family"].to_pylist()) - {GENUINE})


def test_leaving_out_nothing_changes_nothing() -> None:
    assert held_out(ROLES, (), everyone()) is ROLES


@pytest.mark.parametrize(
    ("unseen", "left_out", "seen", "choosing"),
    [
        (
            ["griffin_lim"],
            ["griffin_lim"],
            ["autoregressive", "lpc_vocoder", "noise_vocoder", "phase_randomisation"],
            ["granular"],
        ),
        (
            ["phase"],
            ["griffin_lim", "phase_randomisation"],
            ["autoregressive", "lpc_vocoder", "noise_vocoder"],
            ["granular"],
        ),
        (
            ["granular", "vocoder"],
            ["granular", "lpc_vocoder", "noise_vocoder"],
            ["griffin_lim", "phase_randomisation"],
            ["autoregressive"],
        ),
    ],
)  # fmt: skip
def test_a_family_or_a_mechanism_is_left_out(unseen, left_out, seen, choosing) -> None:
    table = everyone()
    roles = held_out(ROLES, unseen, table)
    assert [list(roles[part]) for part in PARTS] == [seen, choosing, left_out, ["splice"]]
    assert families(partition_rows(table, "train", roles)) == seen
    assert families(partition_rows(table, "validation", roles)) == seen
    assert families(partition_rows(table, "validation_unseen", roles)) == choosing
    views = {view: view_rows(table, view, roles) for view in VIEWS}
    assert families(views["zeroshot"]) == left_out and families(views["hard"]) == seen
    for rows in (*views.values(), partition_rows(table, "train", roles)):
        labels = [family == GENUINE for family in rows["family"].to_pylist()]
        assert labels.count(True) == labels.count(False) > 0  # each family takes its genuine twins with it


@given(st.lists(st.sampled_from([*MECHANISMS, *MECHANISMS.values()]), min_size=1, max_size=3))
def test_what_is_left_out_is_never_trained_on_nor_chosen_by(unseen: list[str]) -> None:
    table = everyone()
    try:
        roles = held_out(ROLES, unseen, table)
    except UserError:
        return
    named = {family for family in MECHANISMS if family in unseen or MECHANISMS[family] in unseen}
    assert set(roles["test_unseen"]) == named
    used = [family for part in ("seen", "validation_unseen", "apart") for family in roles[part]]
    assert len(used) == len(set(used)) and not named & set(used)
    choosing = {MECHANISMS[family] for family in roles["validation_unseen"]}
    assert not choosing & {MECHANISMS[family] for family in (*roles["seen"], *named)}


def test_a_corpus_forged_by_its_roles_cannot_leave_out_everything() -> None:
    by_role = manifest(
        {
            "train": list(ROLES["seen"]),
            "validation": list(ROLES["seen"]),
            "validation_unseen": ["granular"],
            "test": [family for family in MECHANISMS if family != "granular"],
        }
    )
    assert held_out(ROLES, ["phase"], by_role)["seen"] == ["autoregressive"]
    with pytest.raises(
        UserError, match=r"no test clip is forged by granular: build .* corpus\.every_family=true"
    ):
        held_out(ROLES, ["granular"], by_role)
    with pytest.raises(UserError, match="leaves nothing to train on"):
        held_out(ROLES, ["phase", "interpolation"], by_role)
    with pytest.raises(
        UserError, match=r"no clip is forged by 'diffusion'; families and mechanisms .* griffin"
    ):
        held_out(ROLES, ["diffusion"], by_role)


def test_a_familys_cousins_leave_with_a_mechanism_even_if_they_are_not_tested() -> None:
    table = manifest(
        {"train": list(ROLES["seen"]), "test": ["griffin_lim"], "validation_unseen": ["granular"]}
    )
    roles = held_out(ROLES, ["phase"], table)
    assert roles["test_unseen"] == ["griffin_lim", "phase_randomisation"]
    assert roles["seen"] == ["autoregressive"]


def asvspoof() -> tuple[pa.Table, dict[str, list[str]]]:
    """As ASVspoof2019 is imported: A16 is known to be A04, which is its mechanism."""
    forged = {"train": {"A01": "A01", "A04": "A04"}, "test": {"A16": "A04", "A17": "A17"}}
    rows = []
    for partition, families in forged.items():
        for family, mechanism in {**families, GENUINE: GENUINE}.items():
            row = {"partition": partition, "length_regime": "train", "family": family, "mechanism": mechanism}
            rows.append(
                row | {"mask_id": f"{partition}-{family}", "source_ids": ["s"], "source_component": "s"}
            )
    roles = {"seen": ["A01", "A04", "A16"], "validation_unseen": [], "test_unseen": ["A17"], "apart": []}
    return pa.Table.from_pylist(rows), {**roles, "views": ["validation", "test", "test_seen"]}


def test_in_an_imported_dataset_what_was_known_stays_known() -> None:
    table, roles = asvspoof()
    left = held_out(roles, ["A17"], table)
    assert left["seen"] == ["A01", "A04", "A16"] and left["test_unseen"] == ["A17"]
    assert left["views"] == ["validation", "test", "test_seen", "test_unseen"]
    assert families(view_rows(table, "test_seen", left)) == ["A16"]


def test_a_name_of_both_a_family_and_a_mechanism_means_what_was_tested() -> None:
    table, roles = asvspoof()
    assert held_out(roles, ["A16"], table)["test_unseen"] == ["A16"]
    left = held_out(roles, ["A04"], table)
    assert left["test_unseen"] == ["A04", "A16"] and left["seen"] == ["A01"]
    with pytest.raises(UserError, match="no test clip is forged by A01: leave out another"):
        held_out(roles, ["A01"], table)


def test_genuine_clips_without_twins_belong_to_every_view_of_their_partition() -> None:
    rows = manifest({"test": ["griffin_lim", "noise_vocoder"]}).to_pylist()
    for row in rows:
        if row["family"] == GENUINE:
            row["mask_id"] = f"own-{row['mask_id']}"
    table = pa.Table.from_pylist(rows)
    for view in ("hard", "zeroshot"):
        assert view_rows(table, view, ROLES)["family"].to_pylist().count(GENUINE) == 2
