"""CSV: a table as text, for spreadsheets and scripts."""

import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyarrow import csv

from api.arrays.formats.base import Context, Encoded, FileFormat
from api.arrays.formats.sink import Sink
from api.arrays.formats.tables import Table, tabulate
from api.arrays.labelled import LabelledArray

_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\w.]*$)")
"""How a text begins that a spreadsheet would compute; ``-45deg`` and ``+x`` are left alone."""


class Csv(FileFormat):
    """csv: one line for each row, names of columns first; words for codes."""

    name, media_type, ending = "csv", "text/csv", "csv"

    def shrinks(self, array: LabelledArray) -> bool:
        """Text does."""
        return True

    def encode(self, arrays: Sequence[LabelledArray], context: Context) -> Encoded:
        """The array as a table, written as it is read."""
        return Encoded(None, _pieces(tabulate(arrays, context)))


def _pieces(table: Table) -> Iterator[bytes]:
    sink = Sink()
    columns = [
        pa.field(_harmless(field.name), pa.string() if _is_text(field.type) else field.type)
        for field in table.schema
    ]
    schema = pa.schema(columns)
    with csv.CSVWriter(sink.file, schema) as writer:
        for batch in table.batches:
            cells = [_text(column) if _is_text(column.type) else column for column in batch.columns]
            writer.write_batch(pa.record_batch(cells, schema))
            yield sink.taken()
    yield sink.taken()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) or pa.types.is_string(kind))


def _text(column: pa.Array) -> pa.Array:
    """Words that no spreadsheet takes for a formula."""
    if pa.types.is_dictionary(column.type):
        return pa.array(map(_harmless, column.dictionary.to_pylist()), pa.string()).take(column.indices)
    return pa.array((None if one is None else _harmless(one) for one in column.to_pylist()), pa.string())


def _harmless(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text
