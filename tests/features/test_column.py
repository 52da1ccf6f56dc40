import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.core.schemas import features_schema
from fakesound.features.column import COLUMN_ENCODING, clip_in, column_of

KIND = features_schema(3, {}).field("features").type


def any_bits(num_frames):
    """A clip of any half-precision numbers, NaN and subnormal ones among them."""
    bits = np.random.default_rng(num_frames).integers(0, 2**16, (num_frames, 3), np.uint16)
    return bits.view(np.float16)


clips = st.lists(st.integers(1, 5).map(any_bits), min_size=1, max_size=6)


def assert_same_bits(found, expected):
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


@settings(deadline=None, max_examples=50)
@given(clips, clips)
def test_clips_come_back_bit_for_bit_from_any_slice_of_any_chunk(first, second):
    column = pa.chunked_array([column_of(first, KIND), column_of(second, KIND)])
    both = [*first, *second]
    for start in (0, 1):
        part = column.slice(start)
        for position, expected in enumerate(both[start:]):
            assert_same_bits(clip_in(part, position), expected)


def test_parquet_gives_back_what_it_was_given(tmp_path):
    clip = np.array([[1.5, -0.0, 65504], [np.nan, 2**-24, -7]], np.float16)
    table = pa.table({"features": column_of([clip, clip[1:]], KIND)})
    pq.write_table(table, tmp_path / "x.parquet", use_dictionary=False, column_encoding=COLUMN_ENCODING)
    column = pq.read_table(tmp_path / "x.parquet")["features"]
    assert_same_bits(clip_in(column, 0), clip)
    assert_same_bits(clip_in(column, 1), clip[1:])
