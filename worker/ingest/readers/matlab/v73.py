"""MATLAB files of version 7.3: HDF5 with MATLAB's classes in attributes, and cells and struct arrays as references.

Stands for pymatreader, which holds whole files in memory and follows links to other files. Here objects are checked one by one,
as references lead to them; an object that no variable leads to is never opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worker.ingest.problems import rejected
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.hdf5.safety import blocks, is_hdf5, refuse_plugins, refuse_unsafe
from worker.ingest.readers.matlab.tree import (
    LONGEST_TEXT,
    Budget,
    Cell,
    Node,
    Numbers,
    Struct,
    Tree,
    Unread,
    copied,
    empty,
    full,
    product,
    sound_shape,
    stays_on_disk,
    text_of,
)
from worker.ingest.rows import Rows

_HEADER = b"MATLAB 7.3 MAT-file"
_NUMBERS = {
    "double",
    "single",
    "logical",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
_PLAIN = {*_NUMBERS, "char", ""}
_OWN_GROUPS = (b"#refs#", b"#subsystem#")
_SMALL_BYTES, _SMALL_IN_ALL_BYTES = 2**16, 2**26
"""Arrays up to the first size are read at once, up to the second size in total: opening them again is slow."""


def is_v73(path: Path) -> bool:
    """Return whether a file is HDF5 by MATLAB: by its header, or by the class of a variable if the header was cut off."""
    if not is_hdf5(path):
        return False
    with path.open("rb") as file:
        if file.read(len(_HEADER)) == _HEADER:
            return True
    with h5py.File(path, "r", locking=False) as file:
        for raw_name in islice(file.id, 100):
            is_hard = file.id.links.get_info(raw_name).type == h5py.h5l.TYPE_HARD
            if is_hard and h5py.h5a.exists(h5py.h5o.open(file.id, raw_name), b"MATLAB_class"):
                return True
    return False


@contextmanager
def open_tree(path: Path, options: ReadOptions) -> Iterator[Tree]:
    """Open a file of version 7.3.

    Raises
    ------
    RejectedFile
        If the file declares more than may be read, or an object in it is rejected.
    """
    with h5py.File(path, "r", locking=False) as file:
        budget = Budget(options)
        yield Tree(_V73(file, options, budget).variables(), budget)


MOST_NAMES = 20_000


class _V73:
    """Reads the objects of one file."""

    def __init__(self, file: h5py.File, options: ReadOptions, budget: Budget) -> None:
        self._file, self._options, self._budget = file, options, budget
        self._containers: set[tuple[int, int]] = set()
        self._small_bytes = 0

    def variables(self) -> dict[str, Node]:
        """Return every variable by name."""
        return {
            name: self._member(self._file.id, raw_name, name, 0)
            for raw_name in _names(self._file.id, "the file")
            if raw_name not in _OWN_GROUPS and (name := raw_name.decode("utf-8", "replace"))
        }

    def _member(self, group: h5py.h5g.GroupID, raw_name: bytes, path: str, depth: int) -> Node:
        kind = group.links.get_info(raw_name).type
        if kind == h5py.h5l.TYPE_SOFT:
            return Unread("it is a soft link")
        if kind != h5py.h5l.TYPE_HARD:
            said = f"`{path[:300]}` is a link to another file."
            raise rejected("external_link", said, "Copy the data into this file.", f"/{path[:300]}")
        return self._node(h5py.h5o.open(group, raw_name), path, depth)

    def _node(self, found: Any, path: str, depth: int) -> Node:
        """Return the value of an object; the object is closed afterwards."""
        self._budget.enter(path, depth)
        if isinstance(found, h5py.h5g.GroupID):
            self._enter_container(found, path)
            return self._group(found, path, depth)
        if not isinstance(found, h5py.h5d.DatasetID):
            return Unread("it is neither values nor a struct")
        refuse_unsafe(found, path, self._options)
        refuse_plugins(found, path)
        return self._dataset(found, path, depth)

    def _enter_container(self, found: Any, path: str) -> None:
        """Reject a cell array or struct that was met before: it may contain itself, and MATLAB writes each once."""
        info = h5py.h5o.get_info(found)
        if (info.fileno, info.addr) in self._containers:
            said = f"`{path[:300]}` refers to a cell array or struct that is used elsewhere too, perhaps within itself."
            hint = "Load the file in MATLAB and save it again with -v7.3."
            raise rejected("cyclic_reference", said, hint, f"/{path[:300]}")
        self._containers.add((info.fileno, info.addr))

    def _group(self, group: h5py.h5g.GroupID, path: str, depth: int) -> Node:
        if h5py.h5a.exists(group, b"MATLAB_sparse"):
            return self._sparse(group, path, depth)
        if _is_object(group) or _class(group) not in ("struct", ""):
            return Unread("it is an object, such as a table or a string array")
        arrays: dict[str, list[Node]] = {}
        scalars: dict[str, list[Node]] = {}
        shapes = set()
        for raw_name in _names(group, path):
            name = raw_name.decode("utf-8", "replace")
            within = f"{path}.{name}"
            value = self._member(group, raw_name, within, depth + 1)
            # In an array of structs each field is a data set of references without a class.
            if isinstance(value, Cell) and not _class(h5py.h5o.open(group, raw_name)):
                arrays[name] = value.items
                shapes.add(value.shape)
            else:
                scalars[name] = [value]
        if arrays and not scalars and len(shapes) == 1:
            return Struct(shapes.pop(), arrays)
        unlike: dict[str, list[Node]] = {
            name: [Unread("it holds references that belong to no array of structs")] for name in arrays
        }
        return Struct((1, 1), {**scalars, **unlike})

    def _dataset(self, dataset: h5py.h5d.DatasetID, path: str, depth: int) -> Node:
        matlab_class, kind = _class(dataset), dataset.get_type().get_class()
        if kind == h5py.h5t.REFERENCE or matlab_class in ("cell", "struct"):
            self._enter_container(dataset, path)
        if dataset.get_space().get_simple_extent_type() == h5py.h5s.NULL:
            return empty()
        if _is_marked(dataset, b"MATLAB_empty"):
            return self._empty(dataset, path, matlab_class)
        shape = sound_shape(path, _reversed(dataset.shape))
        if kind == h5py.h5t.REFERENCE:
            return self._cell(dataset, path, depth, shape)
        numeric = kind in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
        if _is_object(dataset) or matlab_class not in _PLAIN or not numeric:
            return Unread(_why_unread(matlab_class, numeric))
        if matlab_class == "char":
            return self._text(dataset, shape)
        return self._numbers(dataset, matlab_class, shape)

    def _empty(self, dataset: h5py.h5d.DatasetID, path: str, matlab_class: str) -> Node:
        lengths = h5py.Dataset(dataset)
        if lengths.size > 64 or lengths.dtype.kind not in "iu":
            raise ValueError(f"the shape of {path[:100]}, which is empty, cannot be read")
        shape = sound_shape(path, tuple(int(length) for length in lengths[()].reshape(-1)))
        if product(shape) > 0:
            raise ValueError(f"{path[:100]} is empty, of shape {shape}")
        if matlab_class == "char":
            return text_of("", (0, 0))
        made: dict[str, Node] = {"cell": Cell(shape, []), "struct": Struct(shape, {})}
        return made.get(matlab_class, empty(shape))

    def _cell(self, dataset: h5py.h5d.DatasetID, path: str, depth: int, shape: tuple[int, ...]) -> Node:
        if not dataset.get_type().equal(h5py.h5t.STD_REF_OBJ):
            return Unread("it holds references to parts of arrays")
        self._budget.expand(product(shape) * 8)
        items: list[Node] = []
        for reference in h5py.Dataset(dataset)[()].reshape(-1) if product(shape) else ():
            if not reference:
                items.append(empty())
                continue
            items.append(self._node(h5py.h5r.dereference(reference, self._file.id), path, depth + 1))
        return Cell(shape, items)

    def _text(self, dataset: h5py.h5d.DatasetID, shape: tuple[int, ...]) -> Node:
        if product(shape) > LONGEST_TEXT:
            return Unread(f"its text is {product(shape)} letters long")
        codes = h5py.Dataset(dataset)[()].reshape(-1).astype(np.int64) % 0x10000
        return text_of("".join(map(chr, codes.tolist())), shape)

    def _numbers(self, dataset: h5py.h5d.DatasetID, matlab_class: str, shape: tuple[int, ...]) -> Node:
        stored_shape, own = shape[::-1], dataset.dtype
        dtype = np.dtype(np.bool_) if matlab_class == "logical" else own.newbyteorder("=")
        size = product(shape) * own.itemsize
        if size <= _SMALL_BYTES and self._small_bytes + size <= _SMALL_IN_ALL_BYTES:
            self._small_bytes += size
            self._budget.expand(size)
            values = np.empty(dataset.shape, own)
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
            values = values.reshape(stored_shape)
            return Numbers(shape, dtype, lambda: values)
        reference = h5py.h5r.create(dataset, b".", h5py.h5r.OBJECT)
        uncounted = [size]

        def read() -> Rows:
            self._budget.expand(uncounted.pop() if uncounted else 0)
            again = h5py.Dataset(h5py.h5r.dereference(reference, self._file.id))
            if stays_on_disk(size):
                return copied(blocks(again), again.shape, own).reshape(*stored_shape)
            return np.asarray(again[()]).reshape(stored_shape)

        return Numbers(shape, dtype, read)

    def _sparse(self, group: h5py.h5g.GroupID, path: str, depth: int) -> Node:
        parts = []
        for name in (b"ir", b"jc", b"data"):
            node = self._member(group, name, path, depth + 1) if name in group else empty()
            if not isinstance(node, Numbers) or stays_on_disk(node.size * 8):
                return Unread("it is a sparse matrix that is complex or very large: save full(...) of it")
            parts.append(node.vector())
        attribute = h5py.h5a.open(group, b"MATLAB_sparse")
        if attribute.shape not in ((), (1,)) or attribute.get_type().get_class() != h5py.h5t.INTEGER:
            raise ValueError(f"the number of rows of {path[:100]}, a sparse matrix, cannot be read")
        height = np.zeros(attribute.shape, np.int64)
        attribute.read(height)
        shape = sound_shape(path, (int(height.reshape(())), max(parts[1].size - 1, 0)))
        return full(path, shape, parts[0], parts[1], parts[2], budget=self._budget)


def _why_unread(matlab_class: str, numeric: bool) -> str:
    if matlab_class == "function_handle":
        return "it is a function handle"
    if matlab_class in _NUMBERS and not numeric:
        return "its numbers are complex"
    return "it is an object, or of a class that is not read"


def _reversed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if len(shape) == 1 else tuple(shape[::-1])


def _names(group: h5py.h5g.GroupID, path: str) -> Iterator[bytes]:
    """Yield the names in a group; reject a group with very many, which HDF5 lists slowly."""
    if len(group) > MOST_NAMES:
        said = f"`{path[:100]}` holds {len(group)} variables or fields: at most {MOST_NAMES} are read."
        hint = "Put values of one kind into one array or cell array."
        raise rejected("too_many_arrays", said, hint)
    yield from group


def _is_object(found: Any) -> bool:
    return bool(h5py.h5a.exists(found, b"MATLAB_object_decode"))


def _class(found: Any) -> str:
    """Return MATLAB's class from the attribute; empty without one."""
    if not h5py.h5a.exists(found, b"MATLAB_class"):
        return ""
    attribute = h5py.h5a.open(found, b"MATLAB_class")
    kind = attribute.get_type()
    if (
        kind.get_class() != h5py.h5t.STRING
        or kind.is_variable_str()
        or kind.get_size() > 100
        or attribute.shape
    ):
        return "?"
    value = np.zeros((), f"S{kind.get_size()}")
    attribute.read(value)
    return bytes(value.item()).decode("latin-1")


def _is_marked(found: Any, name: bytes) -> bool:
    """Return whether an attribute is a single whole number other than 0."""
    if not h5py.h5a.exists(found, name):
        return False
    attribute = h5py.h5a.open(found, name)
    if attribute.get_type().get_class() != h5py.h5t.INTEGER or attribute.shape not in ((), (1,)):
        return False
    value = np.zeros(attribute.shape, np.int64)
    attribute.read(value)
    return bool(value.reshape(()) != 0)
