"""The interface of tables: named columns of one kind each, read by batches of rows."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from worker.ingest.problems import rejected
from worker.ingest.recording import MetadataValue

MOST_COLUMNS = 20_000

Kind = Literal["whole", "number", "label", "list", "other"]
"""Kinds of columns: whole numbers, other numbers, text and truth values, lists of numbers, and what is not read."""

LabelColumn = tuple[list[MetadataValue], NDArray[np.int64]]
"""The different values, and the index of each row's value; -1 for a missing value."""


@dataclass(frozen=True)
class Batch:
    """Some rows of a table.

    Attributes
    ----------
    rows
        Number of rows.
    numbers : float64, [rows]
        Column → values; NaN for missing values.
    labels
        Column → labels.
    lists : float64, [values]; int64, [rows]
        Column → the values of all rows one after another, and the number of values in each row.
    """

    rows: int
    numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    labels: dict[str, LabelColumn] = field(default_factory=dict)
    lists: dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]] = field(default_factory=dict)


class Table(Protocol):
    """A table in a file.

    Attributes
    ----------
    format
        Name of its format.
    columns
        Name → kind, in the file's order.
    notes
        How the file was understood.
    """

    format: str
    columns: dict[str, Kind]
    notes: list[str]

    def batches(
        self, numbers: Collection[str] = (), labels: Collection[str] = (), lists: Collection[str] = ()
    ) -> Iterator[Batch]:
        """Iterate over some columns, each read as the requested kind."""


def limit_arrow() -> None:
    """Make Arrow allocate from the system as needed and use no threads: the process has tight limits."""
    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def refuse_columns(names: list[str]) -> None:
    """Reject a table with too many columns, or with two of one name."""
    if len(names) > MOST_COLUMNS:
        said = f"The table has {len(names)} columns: at most {MOST_COLUMNS} are read."
        raise rejected("too_many_columns", said, "Give one row for each trial, bin and neuron instead.")
    repeated = {name for name, number in _counted(names).items() if number > 1 and name}
    if repeated:
        name = min(repeated)
        said = f"There are {_counted(names)[name]} columns of the name `{name[:100]}`."
        raise rejected("columns_repeated", said, "Give each column a name of its own.")


def _counted(names: list[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for name in names:
        counted[name] = counted.get(name, 0) + 1
    return counted


def kind_of(dtype: pa.DataType) -> Kind:
    """Return the kind of a column of an Arrow type."""
    if pa.types.is_dictionary(dtype):
        inner = kind_of(dtype.value_type)
        return "label" if inner in ("label", "whole", "number") else "other"
    if pa.types.is_integer(dtype):
        return "whole"
    if pa.types.is_floating(dtype) or pa.types.is_decimal(dtype):
        return "number"
    if (
        pa.types.is_string(dtype)
        or pa.types.is_large_string(dtype)
        or pa.types.is_boolean(dtype)
        or pa.types.is_null(dtype)
    ):
        return "label"
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return "list" if kind_of(dtype.value_type) in ("whole", "number") else "other"
    return "other"


def as_numbers(column: pa.Array, name: str) -> NDArray[np.float64]:
    """Convert a column to float64, NaN for missing values.

    Raises
    ------
    RejectedFile
        If it does not hold numbers.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        column = column.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        said = f"`{name[:100]}` does not hold numbers, but {column.type}."
        hint = "Check which column is what: the mapping names it."
        raise rejected("cell_not_a_number", said, hint, f"/{name[:100]}") from error
    values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False)
    return values


def as_lists(column: pa.Array, name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Convert a column of lists to their values and lengths; a missing list is empty."""
    lengths = column.value_lengths().fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
    return as_numbers(column.flatten(), name), lengths


def as_labels(column: pa.Array) -> LabelColumn:
    """Return the different values of a column, and which of them each row has."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    indices = column.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return [_plain(value) for value in column.dictionary.to_pylist()], indices


def _plain(value: object) -> MetadataValue:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return str(value).replace("\x00", "")
