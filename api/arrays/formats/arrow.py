"""Arrow: a table as an IPC stream, batch by batch."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from api.arrays.formats.base import Context, Encoded, FileFormat
from api.arrays.formats.sink import Sink
from api.arrays.formats.tables import Table, tabulate
from api.arrays.labelled import LabelledArray


class Arrow(FileFormat):
    """arrow: to be read by `pyarrow.ipc.open_stream`, polars and DuckDB."""

    name, media_type, ending = "arrow", "application/vnd.apache.arrow.stream", "arrows"

    def encode(self, arrays: Sequence[LabelledArray], context: Context) -> Encoded:
        """The array as a table, written as it is read."""
        return Encoded(None, _pieces(tabulate(arrays, context)))


def _pieces(table: Table) -> Iterator[bytes]:
    sink = Sink()
    with pa.ipc.new_stream(sink.file, table.schema) as writer:
        for batch in table.batches:
            writer.write_batch(batch)
            yield sink.taken()
    yield sink.taken()
