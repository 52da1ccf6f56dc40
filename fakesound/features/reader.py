"""Reading features back: the metadata of every clip at once, features of the clips asked for.

Shape legend: F frames of a clip, M mels.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.schemas import check_schema, features_schema
from fakesound.core.store import Place, Pointer
from fakesound.core.tables import rows_where
from fakesound.features.column import clip_in
from fakesound.features.config import CONFIG_KEY, DIGEST_KEY, FEATURES_VERSION, FeatureConfig

REBUILD = "rebuild with `fakesound features`"
CACHED_ROW_GROUPS = 8  # some 64 MB of ten-second clips at 128 mels


class FeatureSet:
    """The features of one corpus.

    Attributes:
        pointer: what it was opened from.
        config: the front end that made the features.
        metadata: of the place: corpus pointer, protocol, counts.
        table: one row a clip, every column but the features; `row` is what `load` takes.
    """

    def __init__(self, pointer: Pointer, place: Place, config: FeatureConfig, paths: Sequence[Path]) -> None:
        self.pointer = pointer
        self.config = config
        self.metadata = place.metadata
        # Not mapped, since mapped pages count as memory of this process; not buffered ahead, since each file
        # would keep its last row group.
        self._files = [pq.ParquetFile(path, memory_map=False, pre_buffer=False) for path in paths]
        self._groups = [(file, k) for file in self._files for k in range(file.num_row_groups)]
        self._group_starts = self._row_group_starts()
        self.table = self._read_table()
        self._cache: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    @classmethod
    def open(cls, pointer: Pointer, expected: FeatureConfig | None = None) -> Self:
        """Open what `finish_features` completed, its bytes verified.

        Args:
            pointer: to the features.
            expected: the front end that the caller needs; None takes any.

        Raises:
            UserError: unfinished or altered data, another schema version, another front end than `expected`.
        """
        place = pointer.open()
        metadata = place.metadata
        config = FeatureConfig.parse(metadata.get("features_config", {}))
        if expected is not None and expected != config:
            raise UserError(
                f"{pointer.uri} was made by another front end ({_difference(config, expected)}); {REBUILD}"
            )
        paths = [place.checked_path(name) for name in sorted(place.marker["files"])]
        for path in paths:
            _check_shard(path, config)
        return cls(pointer, place, config, paths)

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """Frames of every clip, in table order."""
        offsets = self.table["frame_labels"].combine_chunks().offsets
        return np.diff(offsets.to_numpy()).astype(np.int64)

    def rows(
        self, clip_ids: Collection[str] | None = None, **equals: str | int | Collection[str]
    ) -> pa.Table:
        """Rows of `table` that meet every condition.

        Args:
            clip_ids: keep these clips; None keeps all.
            equals: column = value or any of several values, such as `partition="train"`.

        Raises:
            UserError: no such column.
        """
        conditions: dict[str, Any] = dict(equals) | ({} if clip_ids is None else {"clip_id": clip_ids})
        for column in conditions:
            if column not in self.table.column_names:
                raise UserError(f"features have no column {column!r}; there are {self.table.column_names}")
        return rows_where(self.table, **conditions)

    def row_groups(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the row group of each of these rows: what is decoded together, in file order.

        Raises:
            IndexError: there is no such row.
        """
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows must be within 0..{len(self) - 1}")
        return np.searchsorted(self._group_starts, rows, side="right") - 1

    def load(self, rows: Iterable[int]) -> list[NDArray[np.float16]]:
        """Features (F, M) of these rows, in the order asked.

        Neighbours are decoded together and a few groups of clips stay in memory: asking in ascending order
        decodes each group once, whatever the size of the corpus.
        """
        wanted = np.asarray(list(rows), dtype=np.int64)
        groups = self.row_groups(wanted)
        loaded: list[NDArray[np.float16]] = [np.empty((0, 0), np.float16)] * len(wanted)
        for group, places in groupby(np.argsort(groups, kind="stable"), key=lambda k: groups[k]):
            column = self._row_group(int(group))
            for k in places:
                loaded[k] = clip_in(column, int(wanted[k] - self._group_starts[group]))
        return loaded

    def frame_labels(self, rows: Iterable[int]) -> list[NDArray[np.uint8]]:
        """Labels (F,) of these rows, 1 = forged."""
        return [self.table["frame_labels"][int(row)].values.to_numpy() for row in rows]

    def _read_table(self) -> pa.Table:
        names = [name for name in self._files[0].schema_arrow.names if name != "features"]
        table = pa.concat_tables(file.read(columns=names) for file in self._files).combine_chunks()
        return table.add_column(0, "row", pa.array(np.arange(table.num_rows)))

    def _row_group_starts(self) -> NDArray[np.int64]:
        """First row of every row group, over all shards in order."""
        sizes = [file.metadata.row_group(k).num_rows for file, k in self._groups]
        return np.cumsum([0, *sizes[:-1]])

    def _row_group(self, group: int) -> pa.ChunkedArray:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        file, within = self._groups[group]
        self._cache[group] = file.read_row_group(within, columns=["features"])["features"]
        if len(self._cache) > CACHED_ROW_GROUPS:
            self._cache.popitem(last=False)
        return self._cache[group]


def _check_shard(path: Path, config: FeatureConfig) -> None:
    schema = pq.read_schema(path)
    try:
        check_schema(schema, features_schema(config.num_mels, {}), str(path))
    except IntegrityError as error:
        raise UserError(f"{error}: {REBUILD}") from None
    found = schema.metadata
    if found.get(DIGEST_KEY) != config.digest().encode():
        raise UserError(f"{path}: made by front end {found.get(CONFIG_KEY, b'?').decode()}; {REBUILD}")
    if found.get(b"features_version") != str(FEATURES_VERSION).encode():
        raise UserError(f"{path}: features of another version than {FEATURES_VERSION}; {REBUILD}")


def _difference(found: FeatureConfig, wanted: FeatureConfig) -> str:
    pairs = zip(found.model_dump().items(), wanted.model_dump().values(), strict=True)
    return ", ".join(f"{key}: {have!r}, wanted {want!r}" for (key, have), want in pairs if have != want)
