import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.core.tables import list_items, rows_where

rows = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from("abc"),
            "number": st.integers(0, 3),
            "items": st.lists(st.sampled_from("xyz"), max_size=3),
        }
    ),
    max_size=30,
)
SCHEMA = pa.schema({"name": pa.string(), "number": pa.int8(), "items": pa.list_(pa.string())})


@settings(deadline=None, max_examples=50)
@given(rows, st.sets(st.sampled_from("abcd")), st.integers(0, 4))
def test_rows_that_meet_every_condition_in_order(rows, names, number):
    table = pa.Table.from_pylist(rows, SCHEMA)
    found = rows_where(table, name=names, number=number).to_pylist()
    assert found == [row for row in rows if row["name"] in names and row["number"] == number]
    assert rows_where(table).equals(table)
    with pytest.raises(KeyError):
        rows_where(table, colour="red")


@settings(deadline=None, max_examples=50)
@given(rows, rows)
def test_every_item_of_lists_in_several_chunks(first, second):
    tables = [pa.Table.from_pylist(part, SCHEMA).slice(1) for part in (first, second)]
    items, parents = list_items(pa.concat_tables(tables)["items"])
    expected = [(item, k) for k, row in enumerate(first[1:] + second[1:]) for item in row["items"]]
    assert list(zip(items.to_pylist(), parents.to_pylist(), strict=True)) == expected
