"""An NWB file as names and values: links are followed, references become names, attributes are read one by one.

`open_checked` has rejected every link to other files, so the target of each link is in this file and was checked.
"""

from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import RejectedFile, rejected
from worker.ingest.readers.base import ReadOptions, metadata_values
from worker.ingest.readers.hdf5.safety import CheckedHdf5, texts_of
from worker.ingest.recording import MetadataValue

MOST_TEXT_BYTES = 64 * 2**20
_LONGEST_ATTRIBUTE = 4096
_LEADS_NOWHERE = (KeyError, OSError, RuntimeError, ValueError, TypeError)
"""What h5py raises if a link, a reference or an attribute cannot be followed."""


class NwbFile:
    """The data sets of a checked NWB file, by path without the leading slash.

    Attributes
    ----------
    numbers
        Data sets of numbers or of strings of fixed length; the target of a link also under the link's path.
    texts, references
        Data sets of strings of any length, and of references to other objects.
    set_aside
        Objects that are not read: path → why.
    """

    def __init__(self, checked: CheckedHdf5, options: ReadOptions) -> None:
        self.numbers, self.texts = dict(checked.datasets), dict(checked.texts)
        self.references = dict(checked.references)
        self.set_aside = {path.strip("/"): why for path, why in checked.set_aside.items()}
        self._checked, self._options = checked, options
        self._text_bytes = 0
        every = (*self.numbers.values(), *self.texts.values(), *self.references.values())
        self._file: h5py.File | None = every[0].file if every else None
        self._follow_links()
        self._members: dict[str, list[str]] = {}
        for path in sorted({*self.numbers, *self.texts, *self.references, *self.set_aside}):
            group, _, name = path.rpartition("/")
            self._members.setdefault(group, []).append(name)

    @property
    def groups(self) -> list[str]:
        """Return the sorted paths of all groups that hold a data set."""
        return sorted(self._members)

    def members(self, group: str) -> list[str]:
        """Return the sorted names of the data sets in a group."""
        return self._members.get(group, [])

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape of a data set; empty if it was set aside."""
        found = self.numbers.get(path) or self.texts.get(path) or self.references.get(path)
        return () if found is None else tuple(found.shape)

    def is_numbers(self, path: str) -> bool:
        """Return whether a data set holds numbers."""
        return path in self.numbers and self.numbers[path].dtype.kind in "buif"

    def open(self, path: str) -> h5py.Dataset:
        """Return a data set of numbers for reading; the total that is opened is limited."""
        return self._checked.open(path, self.numbers[path], self._options)

    def read(self, path: str) -> NDArray[Any]:
        """Read a data set of numbers whole."""
        return np.asarray(self.open(path)[()])

    def column(self, path: str) -> list[MetadataValue]:
        """Read a data set with one axis as plain values: numbers, texts, or names of referenced objects."""
        if path in self.texts:
            before = self._text_bytes
            try:
                return list(self._read_texts(self.texts[path]))
            except RejectedFile:
                self._text_bytes = before  # the column is left out, others may be read
                raise
        if path in self.references:
            return [self._name_of(reference) for reference in self.references[path][()].reshape(-1)]
        return metadata_values(self.read(path))

    def type_of(self, path: str) -> str:
        """Return the `neurodata_type` of an object; empty if it has none."""
        return self.text_attribute(path, "neurodata_type")

    def text_attribute(self, path: str, name: str) -> str:
        """Return a text attribute of an object; empty without one."""
        value = self._attribute(path, name)
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return value.replace("\x00", "") if isinstance(value, str) else ""

    def number_attribute(self, path: str, name: str, default: float) -> float:
        """Return a finite number attribute of an object; the default without one."""
        value = self._attribute(path, name)
        is_number = isinstance(value, int | float | np.number) and bool(np.isfinite(value))
        return float(value) if is_number else default

    def _attribute(self, path: str, name: str) -> Any:
        """Return an attribute of an object that is a single number or short text, else None."""
        if self._file is None:
            return None
        try:
            attributes = self._file[path or "/"].attrs
            if name not in attributes:
                return None
            stored = attributes.get_id(name)
            kind = stored.get_type()
            plain = kind.get_class() in (h5py.h5t.STRING, h5py.h5t.INTEGER, h5py.h5t.FLOAT)
            if not plain or stored.shape not in ((), (1,)) or kind.get_size() > _LONGEST_ATTRIBUTE:
                return None
            value = attributes[name]
        except _LEADS_NOWHERE:
            return None
        return value.reshape(-1)[0] if isinstance(value, np.ndarray) else value

    def _follow_links(self) -> None:
        """Replace links by the data sets that they lead to."""
        links = [path for path, why in self.set_aside.items() if "link" in why]
        if not links or self._file is None:
            return
        known = {
            _identity(dataset): (kind, dataset)
            for kind in (self.numbers, self.texts, self.references)
            for dataset in kind.values()
        }
        for path in links:
            try:
                target = self._file[path]
                found = known.get(_identity(target)) if isinstance(target, h5py.Dataset) else None
            except _LEADS_NOWHERE:
                self.set_aside[path] = "it is a link that leads nowhere"
                continue
            if found is not None:
                found[0][path] = found[1]
                del self.set_aside[path]

    def _read_texts(self, dataset: h5py.Dataset) -> Iterable[str]:
        for text in texts_of(dataset):
            self._text_bytes += len(text)
            if self._text_bytes > MOST_TEXT_BYTES:
                said = f"The texts in the tables of this file are more than {MOST_TEXT_BYTES // 2**20} MiB."
                hint = f"Leave out columns of long texts, such as `{dataset.name}`."
                raise rejected("file_too_large_expanded", said, hint)
            yield text.replace("\x00", "")

    def _name_of(self, reference: Any) -> str | None:
        """Return the name of the referenced object; None if the reference is empty."""
        try:
            path = h5py.h5r.get_name(reference, self._file.id) if reference and self._file else None
        except _LEADS_NOWHERE:
            return None
        return path.decode("utf-8", "replace").rpartition("/")[2] if path else None


def _identity(item: Any) -> tuple[int, int]:
    info = h5py.h5o.get_info(item.id)
    return info.fileno, info.addr


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return a short name for each path: its last part, with more parts where needed to be unique."""
    paths = list(paths)
    names = dict.fromkeys(paths, "")
    for parts in range(1, max((path.count("/") for path in paths), default=0) + 2):
        open_names = {path: ".".join(path.split("/")[-parts:]) for path in paths if not names[path]}
        taken = list(open_names.values())
        for path, name in open_names.items():
            if taken.count(name) == 1:
                names[path] = name
    return {path: name or path.replace("/", ".") for path, name in names.items()}
