"""A table in a Parquet file, read by row groups after its declared sizes were checked."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from worker.ingest.problems import rejected
from worker.ingest.readers.base import ReadOptions, refuse_giant
from worker.ingest.readers.tables.table import Batch, as_labels, as_lists, as_numbers, kind_of, refuse_columns

MAGIC, ENCRYPTED_MAGIC = b"PAR1", b"PARE"
_MOST_ROWS, _BATCH_BYTES = 2**17, 16 * 2**20
_LONGEST_TEXT, _MOST_PARTS = 2**24, 4_000_000
"""Limits on what the description of a file may hold."""


class ParquetTable:
    """The top-level columns of a Parquet file; see `Table`."""

    format = "parquet"

    def __init__(self, path: Path, options: ReadOptions) -> None:
        with path.open("rb") as file:
            file.seek(-4, 2)
            if file.read() == ENCRYPTED_MAGIC:
                said = "The Parquet file is encrypted."
                raise rejected("file_encrypted", said, "Save it without encryption.")
        self._path, self._options = path, options
        self.notes: list[str] = []
        with self._opened() as file:
            schema = file.schema_arrow
            refuse_columns(schema.names)
            self.columns = {field.name: kind_of(field.type) for field in schema}

    def batches(
        self, numbers: Collection[str] = (), labels: Collection[str] = (), lists: Collection[str] = ()
    ) -> Iterator[Batch]:
        """Iterate over some columns."""
        names = [*numbers, *labels, *lists]
        with self._opened() as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            sizes = [_declared_bytes(group, set(names)) for group in groups]
            refuse_giant(sum(sizes), self._options)
            for number, (group, size) in enumerate(zip(groups, sizes, strict=True)):
                if group.num_rows == 0:
                    continue
                rows = min(_MOST_ROWS, max(1, _BATCH_BYTES * group.num_rows // max(size, 1)))
                for batch in file.iter_batches(rows, [number], names, use_threads=False):
                    yield Batch(
                        batch.num_rows,
                        {name: as_numbers(batch.column(name), name) for name in numbers},
                        {name: as_labels(batch.column(name)) for name in labels},
                        {name: as_lists(batch.column(name), name) for name in lists},
                    )

    def take_out_damaged(self, needed: Collection[str]) -> list[str]:
        """Remove columns with unreadable values, unless they are needed; return their names."""
        damaged = []
        with self._opened() as file:
            for name in [name for name in self.columns if name not in needed]:
                try:
                    for _ in file.iter_batches(_MOST_ROWS, columns=[name], use_threads=False):
                        pass
                except (OSError, ValueError):
                    damaged.append(name)
        for name in damaged:
            del self.columns[name]
        return damaged

    def _opened(self) -> pyarrow.parquet.ParquetFile:
        return pyarrow.parquet.ParquetFile(
            self._path,
            buffer_size=2**20,
            pre_buffer=False,
            thrift_string_size_limit=_LONGEST_TEXT,
            thrift_container_size_limit=_MOST_PARTS,
        )


def _declared_bytes(group: Any, names: set[str]) -> int:
    """Return the declared size of some columns in a row group, at least 8 bytes a value: repeated values take nearly no space."""
    total = 0
    for number in range(group.num_columns):
        column = group.column(number)
        parts = column.path_in_schema.split(".")
        if any(".".join(parts[:depth]) in names for depth in range(1, len(parts) + 1)):
            sizes = (column.total_uncompressed_size, column.num_values, group.num_rows)
            if min(sizes) < 0:
                raise ValueError("a row group declares a negative size")
            total += max(sizes[0], 8 * sizes[1], 8 * sizes[2])
    return total
