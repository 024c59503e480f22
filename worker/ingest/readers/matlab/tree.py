"""The content of a MATLAB file of any version: numbers, texts, cells and structs, read lazily and with a budget.

Both versions store arrays column by column, which is C order of the reversed axes: `stored` is that form, `shape` is MATLAB's.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest import rows
from worker.ingest.problems import rejected
from worker.ingest.readers.axes import Axes
from worker.ingest.readers.base import MOST_AXES, ReadOptions, refuse_giant
from worker.ingest.rows import IN_MEMORY_BYTES, RowFile, Rows

MOST_NODES = 2_000_000
"""Most values (numbers, texts, cells, structs) of one file: 10,000 trials × 200 neurons."""
DEEPEST = 32
"""Deepest nesting of cells and structs."""
LONGEST_TEXT = 1_000_000


class Budget:
    """Budget of bytes and values for one file.

    Parameters
    ----------
    options
        `max_expanded_bytes` is the limit of the uncompressed size.
    """

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self.expanded_bytes = 0
        self._nodes = 0

    def expand(self, number_of_bytes: int) -> None:
        """Count bytes, before they are read or made."""
        self.expanded_bytes += number_of_bytes
        refuse_giant(self.expanded_bytes, self._options)

    def enter(self, name: str, depth: int) -> None:
        """Count one more value at a nesting depth."""
        self._nodes += 1
        if depth > DEEPEST:
            said = f"`{name[:100]}` holds cells or structs within each other, more than {DEEPEST} deep."
            hint = "Save spikes as one cell array or struct array, not nested deeper."
            raise rejected("nested_too_deep", said, hint, f"/{name[:100]}")
        if self._nodes > MOST_NODES:
            said = f"The file holds more than {MOST_NODES} values in cells and structs."
            hint = "Put spike times into one vector, with vectors of neurons and trials beside it."
            raise rejected("too_many_arrays", said, hint)


@dataclass(slots=True)
class Numbers:
    """Real numbers.

    Attributes
    ----------
    shape
        MATLAB's.
    dtype
        Type of MATLAB's class.
    stored
        Reads the numbers in the reversed shape, perhaps in a narrower type; large arrays stay on disk.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: Callable[[], Rows]

    @property
    def size(self) -> int:
        """Number of elements."""
        return product(self.shape)

    @property
    def is_vector(self) -> bool:
        """Whether it is a row, a column, one number or empty."""
        return len(self.shape) == 2 and min(self.shape) <= 1

    @property
    def is_one(self) -> bool:
        """Whether it is one number."""
        return self.size == 1

    def array(self) -> NDArray[Any]:
        """Return all values in MATLAB's shape and type."""
        return np.asarray(self.stored()).T.astype(self.dtype, copy=False)

    def vector(self) -> NDArray[Any]:
        """Return all values in MATLAB's order as a vector."""
        return np.asarray(self.stored()).reshape(-1).astype(self.dtype, copy=False)


@dataclass(slots=True)
class Text:
    """A char array: its rows without trailing blanks; `is_cut` if the file holds another number of characters than declared."""

    lines: list[str]
    is_cut: bool = False


@dataclass(slots=True)
class Cell:
    """A cell array; `items` in MATLAB's order, the first index fastest."""

    shape: tuple[int, ...]
    items: "list[Node]"


@dataclass(slots=True)
class Struct:
    """A struct or an array of structs: for each field one value for each element, in MATLAB's order."""

    shape: tuple[int, ...]
    fields: "dict[str, list[Node]]"


@dataclass(slots=True)
class Unread:
    """A value that is not read, and why."""

    why: str


Node = Numbers | Text | Cell | Struct | Unread


@dataclass
class Tree:
    """The variables of an open file.

    Attributes
    ----------
    variables
        Name → value.
    budget
        The budget.
    """

    variables: dict[str, Node]
    budget: Budget = field(repr=False)


def product(shape: tuple[int, ...]) -> int:
    """Return the exact number of elements."""
    return math.prod(shape)


def sound_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return MATLAB's shape with at least two axes; reject an absurd shape."""
    if len(shape) > MOST_AXES or any(length < 0 for length in shape):
        said = f"`{name[:100]}` declares {len(shape)} axes, {shape[:4]}: at most {MOST_AXES} are read."
        raise rejected("absurd_shape", said, "Check how the file was written.", f"/{name[:100]}")
    return shape + (1,) * (2 - len(shape))


def kind_of_cell(cell: Cell) -> str:
    """Return what a cell array holds: `times` (vectors), `nested` (cells of vectors), `matrices`, `empty`, or an empty text."""
    items = [
        item for item in cell.items if not (isinstance(item, Numbers | Cell) and not product(item.shape))
    ]
    if items and all(isinstance(item, Cell) and kind_of_cell(item) in ("times", "empty") for item in items):
        return "nested"
    if not all(isinstance(item, Numbers) for item in items):
        return ""
    if not items:
        return "empty"
    if all(isinstance(item, Numbers) and item.is_vector for item in items):
        return "times"
    return "matrices" if all(isinstance(item, Numbers) and len(item.shape) == 2 for item in items) else ""


def empty(shape: tuple[int, ...] = (0, 0)) -> Numbers:
    """Return an empty array of numbers."""
    return Numbers(shape, np.dtype(np.float64), lambda: np.zeros(shape[::-1]))


def text_of(codes: str, shape: tuple[int, ...]) -> Node:
    """Return the rows of a char array from its characters in MATLAB's order.

    Characters beyond the declared shape are cut; rows that lack some are shorter.
    """
    if len(shape) != 2 or not 1 < shape[0] <= len(codes):
        return Text([codes.rstrip(" \x00")])
    declared = product(shape)
    is_cut = len(codes) != declared
    codes = codes[:declared]
    return Text([codes[row :: shape[0]].rstrip(" \x00") for row in range(shape[0])], is_cut)


def full(
    name: str,
    shape: tuple[int, ...],
    rows_of: NDArray[Any],
    ends: NDArray[Any],
    values: NDArray[Any],
    *,
    budget: Budget,
) -> Numbers:
    """Convert a sparse matrix to a full one, on disk if it is large.

    Parameters
    ----------
    name, shape
        Name and shape of the matrix.
    rows_of, values
        Row and value of each element that is stored, column by column.
    ends : [columns + 1]
        Start of each column's elements, and end of the last column.
    budget
        Limits the size of the full matrix.
    """
    stored = product(shape)
    budget.expand(stored * values.dtype.itemsize)
    ends, rows_of = ends.astype(np.int64), rows_of.astype(np.int64)
    count = int(ends[-1]) if len(ends) else 0
    sound = (
        len(shape) == 2
        and len(ends) == shape[1] + 1
        and (np.diff(ends, prepend=0) >= 0).all()
        and ends[0] == 0
    )
    rows_of, values = rows_of[:count], values[:count]
    if not sound or len(rows_of) != count or len(values) != count:
        raise ValueError(f"the sparse matrix {name[:100]} does not fit its index")
    if count and (rows_of.min() < 0 or rows_of.max() >= shape[0]):
        raise ValueError(f"the sparse matrix {name[:100]} has elements outside its shape")
    out = rows.zeros((shape[1], shape[0]), values.dtype)
    step = rows.rows_per_block(out.shape, values.dtype.itemsize)
    for first in range(0, shape[1], step):
        last = min(first + step, shape[1])
        block = np.zeros((last - first, shape[0]), values.dtype)
        part = slice(ends[first], ends[last])
        column = np.repeat(np.arange(last - first), np.diff(ends[first : last + 1]))
        block[column, rows_of[part]] = values[part]
        out[first:last] = block
    return Numbers(shape, values.dtype, lambda: out)


def in_matlab_order(numbers: Numbers) -> Rows:
    """Return the values in MATLAB's order of axes; large arrays are transposed on disk, as uint8 if possible."""
    stored = numbers.stored()
    if isinstance(stored, np.ndarray) or len(numbers.shape) > 3:
        return np.ascontiguousarray(np.asarray(stored).T.astype(numbers.dtype, copy=False))
    if numbers.is_vector:
        return stored.reshape(*numbers.shape)
    stored = _narrowed(stored)
    if len(numbers.shape) == 3:
        return Axes(("neuron", "bin", "trial")).arranged(stored)
    columns, length = stored.shape
    turned = Axes(("neuron", "bin")).arranged(stored.reshape(columns, 1, length))
    return turned.reshape(length, columns)


def _narrowed(stored: RowFile) -> Rows:
    """Return a copy as uint8 if all values are whole numbers from 0 to 255: an eighth of the size of doubles."""
    narrow = rows.zeros(stored.shape, np.uint8)
    for first, block in rows.blocks(stored):
        with np.errstate(invalid="ignore"):
            narrowed = block.astype(np.uint8)
        if not (narrowed == block).all():
            return stored
        narrow[first : first + len(block)] = narrowed
    return narrow


def copied(blocks: Iterator[tuple[int, NDArray[Any]]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Rows:
    """Return blocks of the first axis as one array, on disk if it is large."""
    out = rows.zeros(shape, dtype)
    for first, block in blocks:
        out[first : first + len(block)] = block
    return out


def stays_on_disk(number_of_bytes: int) -> bool:
    """Return whether an array is too large to be kept in memory."""
    return number_of_bytes > IN_MEMORY_BYTES
