"""Arrays as tables, for the formats that are tables: csv, arrow, parquet.

A row is one entry of each dim but the last, with its coordinates as columns; the entries of the last dim are columns too:
``trial, time_s, split, …, factor_0, factor_1, …``. Where the last dim is time, and where there is one dim only, each element
is a row of its own.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from api.arrays.formats.base import Context
from api.arrays.formats.categories import as_words, positions, words_of
from api.arrays.formats.members import coordinates_of
from api.arrays.formats.naming import Names
from api.arrays.labelled import Coordinate, LabelledArray
from api.errors import Invalid

MOST_COLUMNS = 20_000
"""A table of more is of no use to those who read tables."""
_BATCH_BYTES = 2**22
"""Of rows that are in memory at a time, where one entry of the first dim does not have more."""


@dataclass(frozen=True)
class Table:
    """A table that is read when it is asked for.

    Attributes
    ----------
    schema
        Names and types of the columns, their units, and in its metadata under ``latentry`` what the arrays are, as JSON.
    batches
        Its rows, in order.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


def tabulate(arrays: Sequence[LabelledArray], context: Context) -> Table:
    """The table of an array; arrays that belong to it are further columns.

    Raises
    ------
    Invalid
        If it would have too many columns, or an array beside it does not fit its rows.
    """
    first = arrays[0]
    rows = first.dims[:-1] if _is_wide(first) else first.dims
    sizes = first.shape[: len(rows)]
    columns = len(arrays) * (first.shape[-1] if len(rows) < len(first.dims) else 1)
    if columns > MOST_COLUMNS:
        raise Invalid(
            f"{first.name}: a table of it would have {columns} columns, one for each entry of {first.dims[-1]}; expected at most "
            f"{MOST_COLUMNS}",
            hint="ask for format=npz, or take a part of it with slice=",
        )
    names = Names()
    keys = [_Key(names.free(one.name), one, rows.index(one.dim)) for one in _keys(first, rows)]
    values = [_Values(array, first, rows, names, several=len(arrays) > 1) for array in arrays]
    fields = [key.field() for key in keys] + [field for one in values for field in one.fields()]
    schema = pa.schema(fields, {"latentry": json.dumps(_about(arrays, context), default=str)})

    def batches() -> Iterator[pa.RecordBatch]:
        feeds = [one.feed() for one in values]
        inner = int(np.prod(sizes[1:], dtype=np.int64))
        total = sizes[0] if sizes else 1
        width = sum(len(one.names) for one in values) * first.dtype.itemsize + 8 * len(keys)
        most = max(1, _BATCH_BYTES // max(1, inner * width))
        for start in range(0, total, most):
            count = min(most, total - start)
            index = _index(start, count, sizes)
            columns = [key.column(index) for key in keys]
            columns += [column for feed in feeds for column in feed(count, index)]
            yield pa.record_batch(columns, schema)

    return Table(schema, batches())


def _index(start: int, count: int, sizes: Sequence[int]) -> tuple[NDArray[np.int64], ...]:
    """Where each row of some entries of the first dim is along every dim."""
    axes = [np.arange(start, start + count), *map(np.arange, sizes[1:])]
    return tuple(axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))


def _is_wide(array: LabelledArray) -> bool:
    return len(array.dims) > 1 and not array.dims[-1].endswith("_s")


def _keys(array: LabelledArray, rows: Sequence[str]) -> list[Coordinate]:
    """Coordinates of the rows: first the index of each dim, its positions if it has none, then the others."""
    indices, others = [], []
    for dim, size in zip(rows, array.shape, strict=False):
        is_itself = array.dims == (array.name,)
        index = array.index(dim)
        if index is None and not is_itself:
            index = Coordinate(dim, dim, np.arange(size), "", "position")
        indices += [index] if index is not None else []
        others += [one for one in array.along(dim) if one.name != dim]
    return indices + others


@dataclass(frozen=True)
class _Key:
    """A column that says where a row is."""

    name: str
    coordinate: Coordinate
    axis: int

    def field(self) -> pa.Field:
        one = self.coordinate
        return _field(self.name, one.values.dtype, one.attributes, one.units, one.description)

    def column(self, index: tuple[NDArray[np.int64], ...]) -> pa.Array:
        return _column(self.coordinate.values[index[self.axis]], self.coordinate.attributes)


class _Values:
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

    def feed(self) -> Any:
        """Give the next so many rows of the first dim, as columns."""
        if not self._is_like_first:
            values = self._array.values()
            axes = [self._rows.index(dim) for dim in self._array.dims]
            return lambda _count, index: [
                _column(
                    np.broadcast_to(values[tuple(index[axis] for axis in axes)], index[0].shape),
                    self._array.attributes,
                )
            ]
        taken = _Rows(self._array)
        width = len(self.names)
        return lambda count, _index: [
            _column(column, self._array.attributes)
            for column in np.ascontiguousarray(np.moveaxis(_flat(taken.next(count), width), 1, 0))
        ]


def _flat(values: NDArray[Any], width: int) -> NDArray[Any]:
    """[rows, columns] of values whose last axes are the columns."""
    return values.reshape(values.size // width if width else 0, width)


class _Rows:
    """Takes as many rows of an array at a time as are asked for, however it is cut into blocks."""

    def __init__(self, array: LabelledArray) -> None:
        self._blocks = array.blocks()
        self._held = np.empty((0, *array.shape[1:]), array.dtype)

    def next(self, count: int) -> NDArray[Any]:
        """The next rows."""
        parts, missing = [], count
        while missing:
            if not len(self._held):
                self._held = np.atleast_1d(next(self._blocks))
                continue
            parts.append(self._held[:missing])
            self._held = self._held[missing:]
            missing -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


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


def _about(arrays: Sequence[LabelledArray], context: Context) -> dict[str, Any]:
    described = {
        one.name: {"dims": one.dims, "shape": one.shape, "dtype": str(one.dtype), "units": one.units}
        | {"description": one.description, "attributes": dict(one.attributes)}
        for one in arrays
    }
    coordinates = {
        one.name: {"dim": one.dim, "units": one.units, "description": one.description}
        for one in coordinates_of(arrays)
    }
    return {**context.origin.attributes, "arrays": described, "coordinates": coordinates}
