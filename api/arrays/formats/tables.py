"""Arrays as tables, for the formats that are tables: csv, arrow, parquet.

A row is one entry of each dim but the last, with its coordinates as columns. The entries of the last dim are columns, too:
``trial, time_s, split, …, factor_0, factor_1, …``. If the last dim is time, or there is only one dim, each element is a row.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from api.arrays.formats.base import Encoded, FileFormat, WriteContext
from api.arrays.formats.naming import Names
from api.arrays.formats.streams import Sink
from api.arrays.labelled import (
    Coordinate,
    LabelledArray,
    RowReader,
    as_words,
    coordinates_of,
    positions,
    words_of,
)
from api.errors import Invalid

MOST_COLUMNS = 20_000
"""Readers of tables cannot use more."""
_BATCH_BYTES = 2**18
"""Rows in memory at a time, unless one entry of the first dim has more."""
_ROW_GROUP_BYTES = 2**24
"""Size of a row group of parquet, which is in memory until it is full: larger groups are read faster."""
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\w.]*$)")
"""The beginning of a text that a spreadsheet would compute; ``-45deg`` and ``+x`` do not match."""

Index = tuple[NDArray[np.int64], ...]
"""For each dim of the rows, the position of each row along it."""


class Csv(FileFormat):
    """csv: names of columns first, then one line for each row; words in place of codes."""

    name, media_type, ending = "csv", "text/csv", "csv"

    def shrinks(self, array: LabelledArray) -> bool:
        """Return True: text shrinks."""
        return True

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write the array as a table, batch by batch."""
        return Encoded(None, _csv_pieces(tabulate(arrays, context)))


class Arrow(FileFormat):
    """arrow: a table as an IPC stream, for `pyarrow.ipc.open_stream`, polars and DuckDB."""

    name, media_type, ending = "arrow", "application/vnd.apache.arrow.stream", "arrows"

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write the array as a table, batch by batch."""
        return Encoded(None, _arrow_pieces(tabulate(arrays, context)))


class Parquet(FileFormat):
    """parquet: a table by columns, compressed, for pandas, polars, DuckDB."""

    name, media_type, ending = "parquet", "application/vnd.apache.parquet", "parquet"

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write the array as a table, one group of rows after the other."""
        return Encoded(None, _parquet_pieces(tabulate(arrays, context)))


@dataclass(frozen=True)
class Table:
    """A table that is read batch by batch.

    Attributes
    ----------
    schema
        Names, types and units of the columns; its metadata describe the arrays under ``latentry``, as JSON.
    batches
        Its rows, in order.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


def _csv_pieces(table: Table) -> Iterator[bytes]:
    sink = Sink()
    schema = pa.schema(
        pa.field(_harmless(field.name), pa.string() if _is_text(field.type) else field.type)
        for field in table.schema
    )
    with csv.CSVWriter(pa.PythonFile(sink, mode="w"), schema) as writer:
        for batch in table.batches:
            cells = [_text(column) if _is_text(column.type) else column for column in batch.columns]
            writer.write_batch(pa.record_batch(cells, schema))
            yield sink.taken()
    yield sink.taken()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) or pa.types.is_string(kind))


def _text(column: pa.Array) -> pa.Array:
    """Return words that a spreadsheet does not take for a formula."""
    if pa.types.is_dictionary(column.type):
        return pa.array(map(_harmless, column.dictionary.to_pylist()), pa.string()).take(column.indices)
    return pa.array((None if one is None else _harmless(one) for one in column.to_pylist()), pa.string())


def _harmless(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _arrow_pieces(table: Table) -> Iterator[bytes]:
    sink = Sink()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), table.schema) as writer:
        for batch in table.batches:
            writer.write_batch(batch)
            yield sink.taken()
    yield sink.taken()


def _parquet_pieces(table: Table) -> Iterator[bytes]:
    sink = Sink()
    # A dictionary helps where values are repeated: coordinates, codes and counts.
    repeated = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
    file = pa.PythonFile(sink, mode="w")
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": repeated}
    with parquet.ParquetWriter(file, table.schema, **options) as writer:
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


def tabulate(arrays: Sequence[LabelledArray], context: WriteContext) -> Table:
    """Return the table of an array; arrays that belong to it are further columns.

    Raises
    ------
    Invalid
        If it would have too many columns, or another array does not fit its rows.
    """
    first = arrays[0]
    rows = first.dims[:-1] if _is_wide(first) else first.dims
    sizes = first.shape[: len(rows)]
    width = len(arrays) * (first.shape[-1] if len(rows) < len(first.dims) else 1)
    if width > MOST_COLUMNS:
        raise Invalid(
            f"{first.name}: a table of it would have {width} columns, one for each entry of {first.dims[-1]}; expected at most "
            f"{MOST_COLUMNS}",
            hint="ask for format=npz, or take a part of it with slice=",
        )
    names = Names()
    keys = [(names.free(one.name), one, rows.index(one.dim)) for one in _keys(first, rows)]
    values = [_ValueColumns(array, first, rows, names, several=len(arrays) > 1) for array in arrays]
    fields = [
        _field(name, one.values.dtype, one.attributes, one.units, one.description) for name, one, _ in keys
    ]
    fields += [field for one in values for field in one.fields()]
    schema = pa.schema(fields, {"latentry": json.dumps(_about(arrays, context), default=str)})

    def batches() -> Iterator[pa.RecordBatch]:
        readers = [one.reader() for one in values]
        inner = int(np.prod(sizes[1:], dtype=np.int64))
        row_bytes = sum(len(one.names) for one in values) * first.dtype.itemsize + 8 * len(keys)
        most = max(1, _BATCH_BYTES // max(1, inner * row_bytes))
        total = sizes[0] if sizes else 1
        for start in range(0, total, most):
            count = min(most, total - start)
            index = _index(start, count, sizes)
            columns = [_column(one.values[index[axis]], one.attributes) for _, one, axis in keys]
            columns += [column for read in readers for column in read(count, index)]
            yield pa.record_batch(columns, schema)

    return Table(schema, batches())


def _index(start: int, count: int, sizes: Sequence[int]) -> Index:
    """Return the position along every dim of each row of some entries of the first dim."""
    axes = [np.arange(start, start + count), *map(np.arange, sizes[1:])]
    return tuple(axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))


def _is_wide(array: LabelledArray) -> bool:
    return len(array.dims) > 1 and not array.dims[-1].endswith("_s")


def _keys(array: LabelledArray, rows: Sequence[str]) -> list[Coordinate]:
    """Return the coordinates of the rows: first the index of each dim, or else its positions, then the others."""
    indices, others = [], []
    for dim, size in zip(rows, array.shape, strict=False):
        is_itself = array.dims == (array.name,)
        index = array.index(dim)
        if index is None and not is_itself:
            index = Coordinate(dim, dim, np.arange(size), "", "position")
        indices += [index] if index is not None else []
        others += [one for one in array.along(dim) if one.name != dim]
    return indices + others


class _ValueColumns:
    """The columns of an array."""

    def __init__(
        self, array: LabelledArray, first: LabelledArray, rows: Sequence[str], names: Names, *, several: bool
    ) -> None:
        self._array, self._rows = array, rows
        self._is_like_first = array.dims == first.dims and array.shape == first.shape
        if not self._is_like_first and not set(array.dims) <= set(rows):
            raise Invalid(
                f"{array.name} has the dims {list(array.dims)} and does not fit a table of {first.name}, {list(first.dims)}",
                hint="ask for format=npz, hdf5 or zarr, which hold several arrays",
            )
        if not self._is_like_first or len(rows) == len(array.dims):
            self.names = [names.free(array.name)]
            return
        dim = array.dims[-1]
        index = array.index(dim)
        labels = np.arange(array.shape[-1]) if index is None else as_words(index.values, index.attributes)
        beginning = f"{array.name}_{dim}" if several else dim
        self.names = [names.free(f"{beginning}_{label}") for label in labels]

    def fields(self) -> list[pa.Field]:
        one = self._array
        return [
            _field(name, one.dtype, one.attributes, one.units, one.description if at == 0 else "")
            for at, name in enumerate(self.names)
        ]

    def reader(self) -> Callable[[int, Index], list[pa.Array]]:
        """Return a function that reads the next entries of the first dim, as columns."""
        array, width = self._array, len(self.names)
        if not self._is_like_first:
            values = array.values()
            axes = [self._rows.index(dim) for dim in array.dims]

            def of_rows(_count: int, index: Index) -> list[pa.Array]:
                found = np.broadcast_to(values[tuple(index[axis] for axis in axes)], index[0].shape)
                return [_column(found, array.attributes)]

            return of_rows
        rows = RowReader(array.blocks())

        def next_rows(count: int, _index: Index) -> list[pa.Array]:
            found = rows.next(count)
            flat = found.reshape(found.size // width if width else 0, width)
            return [_column(column, array.attributes) for column in np.ascontiguousarray(flat.T)]

        return next_rows


def _field(
    name: str, dtype: np.dtype[Any], attributes: Mapping[str, Any], units: str, description: str
) -> pa.Field:
    told = {key: value for key, value in (("units", units), ("description", description)) if value}
    if dtype.kind in "iu" and words_of(attributes):
        return pa.field(name, pa.dictionary(pa.int32(), pa.string()), metadata=told)
    return pa.field(name, pa.from_numpy_dtype(dtype) if dtype.kind in "biuf" else pa.string(), metadata=told)


def _column(values: NDArray[Any], attributes: Mapping[str, Any]) -> pa.Array:
    words = words_of(attributes)
    if words and values.dtype.kind in "iu":
        places = positions(values, words)
        return pa.DictionaryArray.from_arrays(
            pa.array(places, mask=places < 0), pa.array(list(words.values()), pa.string())
        )
    if values.dtype.kind in "biuf":
        return pa.array(values)
    return pa.array([None if value is None else str(value) for value in values.tolist()], pa.string())


def _about(arrays: Sequence[LabelledArray], context: WriteContext) -> dict[str, Any]:
    described = {
        one.name: {"dims": one.dims, "shape": one.shape, "dtype": str(one.dtype), "units": one.units}
        | {"description": one.description, "attributes": dict(one.attributes)}
        for one in arrays
    }
    coordinates = {
        one.name: {"dim": one.dim, "units": one.units, "description": one.description}
        for one in coordinates_of(arrays)
    }
    return {**context.provenance.attributes, "arrays": described, "coordinates": coordinates}
