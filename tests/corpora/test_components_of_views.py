"""Joined components and leakage on made-up tables, against plain loops."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.corpora.leakage import check_manifest
from fakesound.corpora.views import view_rows

PROTOCOL = {"test_unseen": ["vocoder"], "apart": []}

clips = st.lists(
    st.tuples(
        st.integers(0, 12), st.lists(st.integers(0, 12), max_size=2), st.sampled_from(["train", "test"])
    ),
    max_size=25,
)


def table_of(clips):
    """Component k is named after source k and holds it; further sources are donors."""
    rows = [
        {
            "source_ids": [f"s{source}", *(f"s{donor}" for donor in donors)],
            "source_component": f"s{source}",
            "group": f"g{source}",
            "mask_id": f"m{source}",
            "partition": partition,
            "family": "vocoder",
            "length_regime": "wide",
        }
        for source, donors, partition in clips
    ]
    schema = pa.schema({"source_ids": pa.list_(pa.string())} | dict.fromkeys(list(COLUMNS), pa.string()))
    return pa.Table.from_pylist(rows, schema)


COLUMNS = ("source_component", "group", "mask_id", "partition", "family", "length_regime")


@settings(deadline=None, max_examples=50)
@given(clips)
def test_sources_heard_together_are_one_component_under_its_first_name(clips):
    rows = view_rows(table_of(clips), "zeroshot", PROTOCOL)
    name = {f"s{k}": f"s{k}" for k in range(13)}
    in_view = [clip for clip in clips if clip[2] == "test"]
    heard_as_component = {f"s{source}" for source, _, _ in in_view}
    group = {source: {source} for source in name}
    for source, donors, _ in in_view:
        for donor in donors:
            merged = group[f"s{source}"] | group[f"s{donor}"]
            for member in merged:
                group[member] = merged
    expected = [min(group[f"s{source}"] & heard_as_component) for source, _, _ in in_view]
    assert rows["source_component"].to_pylist() == expected


@settings(deadline=None, max_examples=50)
@given(clips)
def test_a_leak_is_whatever_stands_in_two_partitions(clips):
    heard = {}
    for source, donors, partition in clips:
        for name in {f"source s{k}" for k in (source, *donors)} | {f"group g{source}"}:
            heard.setdefault(name, set()).add(partition)
    leaks = sorted(
        (name for name, places in heard.items() if len(places) > 1), key=lambda name: (name[0] != "s", name)
    )
    if not leaks:
        check_manifest(table_of(clips))
        return
    with pytest.raises(UserError) as caught:
        check_manifest(table_of(clips))
    assert str(caught.value).startswith(f"the corpus leaks between partitions: {leaks[0]} in test and train")
