"""The features column: a clip is a list of frames, a frame the raw bytes of its mels in half precision.

Raw, because Parquet keeps two levels of nesting beside each number in lists of lists, and they take longer to
read and to write than the numbers (docs/results/2026-11-24-features.md).

Shape legend: F frames of a clip, M mels.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

HALF = np.dtype("<f2")
# Bytes of equal place in a frame stand beside each other: they pack into a fifth less.
COLUMN_ENCODING = {"features.list.element": "BYTE_STREAM_SPLIT"}


def column_of(clips: Sequence[NDArray[np.float16]], kind: pa.DataType) -> pa.Array:
    """Clips (F, M) of differing F as one array of the type that `features_schema` gives the column."""
    offsets = np.cumsum([0] + [len(clip) for clip in clips]).astype(np.int32)
    values = pa.py_buffer(np.concatenate(clips).astype(HALF, order="C", copy=False))
    frames = pa.FixedSizeBinaryArray.from_buffers(kind.value_type, int(offsets[-1]), [None, values])
    return pa.ListArray.from_arrays(pa.array(offsets), frames, type=kind)


def clip_in(column: pa.ChunkedArray, position: int) -> NDArray[np.float16]:
    """The clip (F, M) at a position; a view of the column's memory."""
    frames = column[position].values
    num_mels = frames.type.byte_width // HALF.itemsize
    values = np.frombuffer(frames.buffers()[1], HALF).reshape(-1, num_mels)
    return values[frames.offset : frames.offset + len(frames)]
