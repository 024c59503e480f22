"""Untrusted HDF5 files, read by h5py: what could read other files, run plugins or exhaust memory is rejected first.

Only hard links are followed. The reader checks each data set before it reads a value. It rejects a data set that lies in other
files (external storage, virtual data sets), needs a filter plugin, holds references or values of variable length, or
declares too much.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.readers.base import (
    MOST_ARRAYS,
    MOST_AXES,
    ReadOptions,
    left_out,
    refuse_giant,
    unless_needed,
)
from worker.ingest.rows import rows_per_block

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ROWS_OF_TEXT = 64
"""Rows read at a time: one long text in the file may be repeated many times."""
_MOST_TEXT_BYTES = 256 * 2**20
_SPARSE = 1000
"""A data set is rejected if it declares this many times what is stored, and more than may be read."""
LARGEST_CHUNK_BYTES = 512 * 2**20
_DEFLATE, _SHUFFLE, _FLETCHER32, _SCALEOFFSET, _LZF = 1, 2, 3, 6, 32000
ALLOWED_FILTERS = {_DEFLATE, _SHUFFLE, _FLETCHER32, _SCALEOFFSET, _LZF}
_PLAIN_TYPES = {h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM}


@dataclass
class CheckedHdf5:
    """The data sets and attributes of an HDF5 file that may be read.

    Attributes
    ----------
    datasets
        Path without the leading slash → data set of plain numbers or strings of fixed length.
    texts, references
        The same for strings of variable length, and for references if these are accepted.
    attributes
        Number attributes of the root group.
    set_aside
        Harmless objects that are not read: path → why (soft links, compound types).
    opened
        Path → declared bytes of what was opened for reading.
    unreadable
        Of `set_aside`, the data sets that the user may miss: path → the problem to report if something required is missing.
    """

    datasets: dict[str, h5py.Dataset] = field(default_factory=dict)
    texts: dict[str, h5py.Dataset] = field(default_factory=dict)
    references: dict[str, h5py.Dataset] = field(default_factory=dict)
    attributes: dict[str, float] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, Problem] = field(default_factory=dict)
    opened: dict[str, int] = field(default_factory=dict)

    def open(self, name: str, dataset: h5py.Dataset, options: ReadOptions) -> h5py.Dataset:
        """Return a data set for reading; the total that is opened is limited."""
        self.opened[name] = _declared_bytes(dataset)
        refuse_giant(sum(self.opened.values()), options)
        return dataset

    def left_out(self) -> list[Problem]:
        """Return a warning for each object that was set aside."""
        return [left_out(path.removeprefix("/"), (), why) for path, why in self.set_aside.items()]

    def refuse_giant(self, names: Iterable[str], options: ReadOptions) -> None:
        """Reject the file if the data sets to be read declare more bytes than the options allow."""
        refuse_giant(sum(_declared_bytes(self.datasets[name]) for name in names), options)


def is_hdf5(path: Path) -> bool:
    """Return whether a file begins as HDF5 does, perhaps after a user block."""
    with path.open("rb") as file:
        starts = [0, *(512 * 2**power for power in range(4))]
        return any(file.seek(start) == start and file.read(8) == _SIGNATURE for start in starts)


def looks_like(path: Path, has: Callable[[h5py.File], bool], if_damaged: bool = False) -> bool:
    """Return whether a file is HDF5 and fulfils a condition; `if_damaged` if it is too damaged to tell."""
    if not is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r", locking=False) as opened:
            return has(opened)
    except (OSError, RuntimeError, ValueError, KeyError):
        return if_damaged


def has_nwb_version(file: h5py.File) -> bool:
    """Return whether a file has a version of NWB: as an attribute, or as the data set of NWB 1."""
    return bool(h5py.h5a.exists(file.id, b"nwb_version")) or version_of_nwb_1(file) is not None


def version_of_nwb_1(file: h5py.File) -> str | None:
    """Return the version of an NWB 1 file, such as `NWB-1.0.6`; None for any other file."""
    if file.get("nwb_version", getclass=True, getlink=True) is not h5py.HardLink:
        return None
    found = file["nwb_version"]
    if not isinstance(found, h5py.Dataset) or found.size != 1 or found.dtype.kind not in "OS":
        return None
    stored = found.id.get_create_plist()
    if stored.get_layout() not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS) or stored.get_external_count():
        return None  # of another file, or compressed: nothing was checked yet
    value = found[()] if found.shape == () else found[...].reshape(-1)[0]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.strip("\x00 ")[:40] if text.startswith("NWB-1") or text.startswith("1.") else None


@contextmanager
def open_checked(path: Path, options: ReadOptions, variable_length: bool = False) -> Iterator[CheckedHdf5]:
    """Check every object of an HDF5 file, then open it for reading.

    Parameters
    ----------
    path
        The file.
    options
        A data set is rejected if it declares more than `max_expanded_bytes` while the file stores nearly nothing of it.
    variable_length
        Whether references and other values of variable length are accepted; otherwise they are rejected.
        Strings of variable length are always accepted, in `texts`.

    Raises
    ------
    RejectedFile
        If anything in the file is rejected.
    """
    with h5py.File(path, "r", locking=False) as file:
        walk = _Walk(options, variable_length)
        walk.group(file.id, "")
        walk.checked.attributes = _number_attributes(file.id)
        with unless_needed(walk.checked.unreadable):
            yield walk.checked


def blocks(dataset: h5py.Dataset, item_bytes: int | None = None) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Read a data set by blocks of whole chunks: yield the first row of a block, and the block."""
    chunk_rows = dataset.chunks[0] if dataset.chunks else 1
    rows = rows_per_block(dataset.shape, item_bytes or dataset.dtype.itemsize, chunk_rows)
    for first in range(0, dataset.shape[0], rows):
        yield first, dataset[first : first + rows]


def read_texts(dataset: h5py.Dataset) -> NDArray[np.str_]:
    """Read strings of variable length with one axis or none.

    Raises
    ------
    RejectedFile
        If they need too much memory.
    """
    texts: list[str] = []
    longest = 0
    for text in texts_of(dataset):
        texts.append(text)
        longest = max(longest, len(text))
        if 4 * longest * max(dataset.size, 1) > _MOST_TEXT_BYTES:
            said = f"The texts in `{dataset.name}` take more than {_MOST_TEXT_BYTES // 2**20} MiB."
            hint = "Leave out columns of long texts."
            raise rejected("file_too_large_expanded", said, hint, str(dataset.name))
    return np.array(texts, dtype=np.str_).reshape(dataset.shape)


def texts_of(dataset: h5py.Dataset) -> Iterator[str]:
    """Yield strings of variable length, some rows at a time; bytes that are not UTF-8 are replaced."""
    for first in range(0, dataset.size, _ROWS_OF_TEXT):
        for one in dataset[first : first + _ROWS_OF_TEXT] if dataset.ndim else [dataset[()]]:
            yield one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)


def _declared_bytes(dataset: h5py.Dataset) -> int:
    return int(np.prod(dataset.shape, dtype=object)) * int(dataset.dtype.itemsize)


class _Walk:
    """Visits all objects of a file; each object is visited once, so hard links may form a cycle."""

    def __init__(self, options: ReadOptions, variable_length: bool) -> None:
        self._options, self._variable_length = options, variable_length
        self.checked = CheckedHdf5()
        self._seen: set[tuple[int, int]] = set()
        self._links = 0

    def group(self, group: h5py.h5g.GroupID, path: str) -> None:
        """Check everything in a group and in the groups within it."""
        waiting = [(group, path)]
        while waiting:
            parent, parent_path = waiting.pop()
            for raw_name in parent:
                child_path = f"{parent_path}/{raw_name.decode('utf-8', 'replace')}"[:300]
                child = self._open(parent, raw_name, child_path)
                if isinstance(child, h5py.h5g.GroupID):
                    waiting.append((child, child_path))
                elif isinstance(child, h5py.h5d.DatasetID):
                    self._dataset(child, child_path)

    def _open(
        self, parent: h5py.h5g.GroupID, name: bytes, path: str
    ) -> h5py.h5g.GroupID | h5py.h5d.DatasetID | None:
        """Open the target of a hard link, unless it was visited; set a soft link aside; reject every other kind."""
        self._links += 1
        if self._links > 10 * MOST_ARRAYS:
            said = f"The file holds more than {10 * MOST_ARRAYS} objects."
            raise rejected("too_many_arrays", said, "Put values of one kind into one data set.")
        kind = parent.links.get_info(name).type
        if kind == h5py.h5l.TYPE_SOFT:
            self.checked.set_aside[path] = "it is a soft link"
            return None
        if kind != h5py.h5l.TYPE_HARD:
            raise _refused(
                "external_link", path, "is a link to another file", "Copy the data into this file."
            )
        child = h5py.h5o.open(parent, name)
        info = h5py.h5o.get_info(child)
        identity = (info.fileno, info.addr)
        if identity in self._seen:
            self.checked.set_aside[path] = "it is a second link to the same object"
            return None
        self._seen.add(identity)
        return child

    def _dataset(self, dataset: h5py.h5d.DatasetID, path: str) -> None:
        refuse_unsafe(dataset, path, self._options)
        if (plugin := _plugin_filter(dataset)) is not None:
            hint = "Write it again with gzip or lzf, or without compression."
            self._leave_out(
                "filter_not_allowed", path, f"is compressed with filter {plugin}, which is not read", hint
            )
            return
        space, kind = dataset.get_space(), dataset.get_type()
        name = path.removeprefix("/")
        if space.get_simple_extent_type() == h5py.h5s.NULL:
            self.checked.set_aside[path] = "it is empty"
        elif kind.get_class() == h5py.h5t.REFERENCE or _is_text_of_any_length(kind):
            if not _is_text_of_any_length(kind) and not self._variable_length:
                self._leave_out_variable_length(path)
                return
            group = self.checked.texts if _is_text_of_any_length(kind) else self.checked.references
            group[name] = h5py.Dataset(dataset)
        elif kind.detect_class(h5py.h5t.VLEN) or kind.detect_class(h5py.h5t.REFERENCE):
            self._leave_out_variable_length(path)
        elif kind.get_class() not in _PLAIN_TYPES:
            self.checked.set_aside[path] = "its values are neither numbers nor strings"
        else:
            self.checked.datasets[name] = h5py.Dataset(dataset)

    def _leave_out_variable_length(self, path: str) -> None:
        hint = "Store no references and no ragged arrays."
        self._leave_out("object_array", path, "holds references or values of variable length", hint)

    def _leave_out(self, code: str, path: str, what: str, hint: str) -> None:
        """Set an unreadable data set aside: as metadata it is left out, as a required array it rejects the file."""
        self.checked.set_aside[path] = f"it {what} ({hint.rstrip('.')})"
        self.checked.unreadable[path] = Problem(code, f"`{path}` {what}.", hint, path)


def refuse_unsafe(dataset: h5py.h5d.DatasetID, path: str, options: ReadOptions) -> None:
    """Reject a data set that is stored elsewhere or declares too much, before any value is read."""
    _refuse_storage(dataset, path)
    space = dataset.get_space()
    shape = space.get_simple_extent_dims() if space.get_simple_extent_type() == h5py.h5s.SIMPLE else ()
    if len(shape) > MOST_AXES:
        raise _refused("absurd_shape", path, f"declares {len(shape)} axes: at most {MOST_AXES} are read")
    item_bytes = dataset.get_type().get_size()
    _refuse_chunks(dataset, path, item_bytes)
    declared = int(np.prod(shape, dtype=object)) * item_bytes
    if declared > _SPARSE * max(dataset.get_storage_size(), 1):
        refuse_giant(declared, options)


def _refuse_storage(dataset: h5py.h5d.DatasetID, path: str) -> None:
    properties = dataset.get_create_plist()
    hint = "Copy the values into this file: h5repack, or read them and write them again."
    if properties.get_external_count() > 0:
        raise _refused("external_storage", path, "stores its values in another file", hint)
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        raise _refused(
            "virtual_dataset", path, "is a virtual data set, whose values are stored elsewhere", hint
        )


def _plugin_filter(dataset: h5py.h5d.DatasetID) -> int | None:
    """Return the code of a filter that is not part of HDF5 itself, if there is one."""
    properties = dataset.get_create_plist()
    codes = [int(properties.get_filter(number)[0]) for number in range(properties.get_nfilters())]
    return next((code for code in codes if code not in ALLOWED_FILTERS), None)


def refuse_plugins(dataset: h5py.h5d.DatasetID, path: str) -> None:
    """Reject a data set that only a plugin could read."""
    code = _plugin_filter(dataset)
    if code is not None:
        hint = "Write it again with gzip or lzf, or without compression."
        raise _refused(
            "filter_not_allowed", path, f"is compressed with filter {code}, which is not read", hint
        )


def _refuse_chunks(dataset: h5py.h5d.DatasetID, path: str, item_bytes: int) -> None:
    properties = dataset.get_create_plist()
    if properties.get_layout() == h5py.h5d.CHUNKED:
        chunk_bytes = int(np.prod(properties.get_chunk(), dtype=object)) * item_bytes
        if chunk_bytes > LARGEST_CHUNK_BYTES:
            raise _refused(
                "absurd_shape", path, f"has chunks of {chunk_bytes} bytes", "Write it in smaller chunks."
            )


def _is_text_of_any_length(kind: h5py.h5t.TypeID) -> bool:
    return kind.get_class() == h5py.h5t.STRING and bool(kind.is_variable_str())


def _refused(code: str, path: str, what: str, hint: str = "Check how the file was written.") -> RejectedFile:
    return rejected(code, f"`{path}` {what}.", hint, path)


def _number_attributes(root: h5py.h5g.GroupID) -> dict[str, float]:
    """Read the root group's attributes that are single numbers."""
    found = {}
    for number in range(min(h5py.h5a.get_num_attrs(root), MOST_ARRAYS)):
        attribute = h5py.h5a.open(root, index=number)
        plain = attribute.get_type().get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
        if plain and attribute.get_space().get_simple_extent_npoints() == 1:
            value = np.zeros(attribute.shape, np.float64)
            attribute.read(value)
            found[attribute.name.decode("utf-8", "replace")] = float(value.reshape(()))
    return found
