"""Parquet: a table by columns, compressed."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyarrow import parquet

from api.arrays.formats.base import Context, Encoded, FileFormat
from api.arrays.formats.sink import Sink
from api.arrays.formats.tables import Table, tabulate
from api.arrays.labelled import LabelledArray

_ROW_GROUP_BYTES = 2**24
"""In memory until it is full: larger groups are read faster."""


class Parquet(FileFormat):
    """parquet: to be read by pandas, polars, DuckDB."""

    name, media_type, ending = "parquet", "application/vnd.apache.parquet", "parquet"

    def encode(self, arrays: Sequence[LabelledArray], context: Context) -> Encoded:
        """The array as a table, written as it is read, a group of rows at a time."""
        return Encoded(None, _pieces(tabulate(arrays, context)))


def _pieces(table: Table) -> Iterator[bytes]:
    sink = Sink()
    # A dictionary helps where values come again: coordinates, codes and counts.
    repeated = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
    with parquet.ParquetWriter(
        sink.file, table.schema, compression="zstd", compression_level=1, use_dictionary=repeated
    ) as writer:
        waiting: list[pa.RecordBatch] = []
        for batch in table.batches:
            waiting.append(batch)
            if sum(one.nbytes for one in waiting) >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting = []
                yield sink.taken()
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    yield sink.taken()
