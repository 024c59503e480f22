"""A MATLAB file as named arrays and cell arrays: structs become dotted names, struct arrays a cell array for each field."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest import rows
from worker.ingest.bin_width import SECONDS_PER_UNIT, stated_width
from worker.ingest.problems import rejected
from worker.ingest.readers.base import MOST_ARRAYS, ReadOptions
from worker.ingest.readers.matlab.tree import (
    MOST_NODES,
    Cell,
    Node,
    Numbers,
    Struct,
    Text,
    Tree,
    Unread,
    empty,
    in_matlab_order,
    kind_of_cell,
    product,
)
from worker.ingest.readers.variables import Variable, is_named
from worker.ingest.rows import Rows

_MOST_COLUMNS = 100
_LONGEST_COLUMN_BYTES = 2**26
OBJECTS = np.dtype(object)


def flatten(tree: Tree, options: ReadOptions) -> dict[str, Node]:
    """Return every variable by name.

    These are: `data.spikes` of a struct; for an array of structs, a cell array of all `trial(k).spikes`; and the columns
    `data(:,3)` of a cell array that has cells of several kinds or whose columns the mapping names.
    """
    leaves: dict[str, Node] = {}
    for name, node in tree.variables.items():
        _flatten(name, node, leaves)
    named = json.dumps(options.mapping.model_dump())
    for name, node in list(leaves.items()):
        is_wide = isinstance(node, Cell) and len(node.shape) == 2 and min(node.shape) > 1
        if not isinstance(node, Cell) or not is_wide or node.shape[1] > _MOST_COLUMNS:
            continue
        is_table = kind_of_cell(node) == ""
        if is_table:
            del leaves[name]
        for column in range(node.shape[1]):
            column_name, rows_of = f"{name}(:,{column + 1})", node.shape[0]
            if is_table or json.dumps(column_name) in named:
                items = node.items[column * rows_of : (column + 1) * rows_of]
                leaves[column_name] = Cell((rows_of, 1), items)
    return leaves


def _flatten(name: str, node: Node, leaves: dict[str, Node]) -> None:
    if isinstance(node, Struct) and not product(node.shape):
        node = Unread("it is an empty array of structs")
    if isinstance(node, Struct):
        for field, values in node.fields.items():
            _flatten(f"{name}.{field}", values[0] if len(values) == 1 else Cell(node.shape, values), leaves)
        return
    if isinstance(node, Cell) and (fields := _fields_of_items(name, node)):
        for field, cell in fields.items():
            _flatten(f"{name}.{field}", cell, leaves)
        return
    if len(leaves) > 10 * MOST_ARRAYS:
        said = f"The file holds more than {10 * MOST_ARRAYS} variables and fields of structs."
        raise rejected("too_many_arrays", said, "Put values of one kind into one array.")
    leaves[name] = node


def _fields_of_items(name: str, cell: Cell) -> dict[str, Cell]:
    """Return a cell array for each field of a cell array of structs; nested for a field of struct arrays."""
    structs = [item for item in cell.items if isinstance(item, Struct)]
    if not structs or len(structs) + sum(_is_empty(item) for item in cell.items) < len(cell.items):
        return {}
    fields = list(dict.fromkeys(field for item in structs for field in item.fields))
    if len(fields) * len(cell.items) > MOST_NODES:
        said = f"The structs in `{name[:100]}` have too many different fields: {len(fields)}."
        raise rejected("too_many_arrays", said, "Give all of them the same fields.")
    many = any(product(item.shape) != 1 for item in structs)

    def value(item: Node, field: str) -> Node:
        values = item.fields.get(field, []) if isinstance(item, Struct) else []
        if many and isinstance(item, Struct):
            return Cell(item.shape, values) if values else Cell((0, 0), [])
        return values[0] if values else empty()

    return {field: Cell(cell.shape, [value(item, field) for item in cell.items]) for field in fields}


def _is_empty(node: Node) -> bool:
    return isinstance(node, Numbers) and node.size == 0


def base_name(name: str) -> str:
    """Return the last part of a dotted name in lower case."""
    return name.rsplit(".", 1)[-1].lower()


def short_name(name: str, spikes: str) -> str:
    """Return the name within the struct of the spikes: `direction` for `trial.direction`."""
    prefix = prefix_of(spikes)
    while prefix:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
        prefix = prefix_of(prefix[:-1])
    return name


def prefix_of(name: str) -> str:
    """Return the struct of a dotted name with its dot; empty for a variable."""
    return name[: name.rfind(".") + 1]


@dataclass(frozen=True)
class _Entry:
    variable: Variable
    make: Callable[[], Rows]


class MatlabArrays:
    """The arrays of a MATLAB file as an `ArrayFile`, in MATLAB's order of axes; rows and columns are vectors.

    Cell arrays with one text or one number in each cell are arrays too; others are in `cells`, unreadable values in `unread`.

    Parameters
    ----------
    leaves
        The result of `flatten`.
    options
        Options of the request; the mapping tells which vector is a matrix with one column.
    """

    format = "matlab"

    def __init__(self, leaves: dict[str, Node], options: ReadOptions) -> None:
        self.variables: dict[str, Variable] = {}
        self.numbers: dict[str, float] = {}
        self.cells: dict[str, Cell] = {}
        self.why_cell: dict[str, str] = {}
        self.unread: dict[str, str] = {}
        self.cut_texts: list[str] = []
        self.notes: list[str] = []
        self._entries: dict[str, _Entry] = {}
        self._last: tuple[str, Rows] | None = None
        self._mapping = options.mapping
        for name, node in leaves.items():
            self._take(name, node)

    @property
    def names(self) -> list[str]:
        """Names of everything in the file."""
        return [*self.variables, *self.cells, *self.unread]

    def read(self, name: str) -> NDArray[Any]:
        """Read one array whole."""
        return np.asarray(self._rows(name))

    def blocks(self, name: str, item_bytes: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read one array by blocks of its first axis."""
        found = self._rows(name)
        if found.ndim == 0:
            yield 0, np.asarray(found)
            return
        yield from rows.blocks(found, item_bytes)

    def put(self, name: str, array: Rows) -> None:
        """Add an array, or replace one."""
        self._entries[name] = _Entry(Variable(array.shape, array.dtype), lambda: array)
        self.variables[name] = self._entries[name].variable
        self._last = None

    def all_variables(self) -> dict[str, Variable]:
        """Return the arrays, and the cell arrays as variables of objects."""
        return self.variables | {name: Variable(cell.shape, OBJECTS) for name, cell in self.cells.items()}

    def left_out(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return everything that is not an array: shape, and why it is not read."""
        why = "it is a cell array of another kind than spikes"
        return {name: (cell.shape, self.why_cell.get(name, why)) for name, cell in self.cells.items()} | {
            name: ((), why) for name, why in self.unread.items()
        }

    def _rows(self, name: str) -> Rows:
        if self._last is None or self._last[0] != name:
            self._last = (name, self._entries[name].make())
        return self._last[1]

    def _take(self, name: str, node: Node) -> None:
        if isinstance(node, Unread):
            self.unread[name] = node.why
        elif isinstance(node, Numbers):
            self._take_numbers(name, node)
        elif isinstance(node, Text):
            if node.is_cut:
                self.cut_texts.append(name)
            lines = node.lines if len(node.lines) > 1 else node.lines[0]
            self._add_texts(name, lines)
        elif isinstance(node, Cell):
            self._take_cell(name, node)

    def _take_numbers(self, name: str, numbers: Numbers) -> None:
        if numbers.is_one and self._is_bin_width(name, numbers):
            return
        shape = numbers.shape
        is_spikes = is_named(name, self._mapping.spikes_listed)
        axes = len(self._mapping.axes or ())
        if is_spikes and axes == len(shape) + 1:  # MATLAB drops a last axis of length 1
            shape = (*shape, 1)
        elif not is_spikes and numbers.is_vector:
            shape = () if numbers.is_one else (numbers.size,)
        self._add(name, shape, numbers.dtype, lambda: _reshaped(in_matlab_order(numbers), shape))

    def _take_cell(self, name: str, cell: Cell) -> None:
        items = cell.items
        is_column = len(cell.shape) == 2 and min(cell.shape) <= 1
        filled = [item for item in items if not _is_empty(item)]
        if is_column and filled and all(isinstance(item, Text) for item in filled):
            if any(isinstance(item, Text) and item.is_cut for item in filled):
                self.cut_texts.append(name)
            texts = [_one_text(item.lines) if isinstance(item, Text) else "" for item in items]
            self._add_texts(name, texts)
        elif is_column and filled and all(isinstance(item, Numbers) and item.is_one for item in filled):
            self.cells[name] = cell  # it may be spike times, one each
            self._add(name, (len(items),), _common_type(items), lambda: _one_each(items))
        elif items:
            self.cells[name] = cell
        else:
            self.unread[name] = "it is empty"

    def _is_bin_width(self, name: str, numbers: Numbers) -> bool:
        """Return whether a number has a name of a bin width that only MATLAB users have; if so, record it."""
        base = base_name(name)
        if base in SECONDS_PER_UNIT or name == self._mapping.bin_width:
            return False
        found = stated_width(name, float(numbers.vector()[0]), self.notes)
        if found is not None:
            self.numbers[found[0]] = found[1]
        return found is not None

    def _add_texts(self, name: str, texts: list[str] | str) -> None:
        lines = [texts] if isinstance(texts, str) else texts
        longest = max(map(len, lines), default=0)
        if 4 * max(longest, 1) * len(lines) > _LONGEST_COLUMN_BYTES:
            self.unread[name] = f"its texts are too long, up to {longest} letters"
            return
        array = np.array(texts, f"U{max(longest, 1)}")
        self._add(name, array.shape, array.dtype, lambda: array)

    def _add(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], make: Callable[[], Rows]) -> None:
        self._entries[name] = _Entry(Variable(shape, dtype), make)
        self.variables[name] = self._entries[name].variable


def _one_text(lines: list[str]) -> str:
    """Return one text of a char array, which may be a column of letters."""
    return ("" if max(map(len, lines)) <= 1 else " ").join(lines)


def _reshaped(array: Rows, shape: tuple[int, ...]) -> Rows:
    return array.reshape(shape) if isinstance(array, np.ndarray) else array.reshape(*shape)


def _common_type(items: list[Node]) -> np.dtype[Any]:
    if any(_is_empty(item) for item in items):
        return np.dtype(np.float64)
    types = {item.dtype for item in items if isinstance(item, Numbers)}
    return types.pop() if len(types) == 1 else np.dtype(np.float64)


def _one_each(items: list[Node]) -> NDArray[Any]:
    """Return the number in each item; NaN where the item is empty."""
    values = [item.vector()[0] if isinstance(item, Numbers) and item.size else np.nan for item in items]
    return np.array(values, _common_type(items))
