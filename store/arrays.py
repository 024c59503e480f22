"""Groups of named arrays, written once: the arrays of a data set, and the latents of a model.

Each group is a Zarr v3 group with consolidated metadata. Its arrays name their dimensions, so ``xarray.open_zarr`` can read it by
URL. A coordinate is a one-dimensional array with the name of its dimension, or one that the group lists as a coordinate.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from domain.windows import RowArray
from store.array_store import SqlArrayStore
from store.database import Database


class StoredArray(RowArray, Protocol):
    """An array with all that a store writes: also its type and its number of axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""

    @property
    def ndim(self) -> int:
        """Number of axes."""


CHUNK_BYTES = 2**20
"""Target size of a chunk: small enough to read a slice over HTTP, large enough to need few rows of the database."""


@dataclass(frozen=True)
class NamedArray:
    """An array with its description.

    Parameters
    ----------
    name
        Its name in the group.
    values
        The values. They are written in chunks of the first axis, so they may be on disk.
    dims
        Name of each axis.
    units
        E.g. ``spikes/s``; empty for numbers without unit.
    description
        One sentence.
    attributes
        Further attributes, e.g. ``flag_meanings``.
    """

    name: str
    values: StoredArray
    dims: tuple[str, ...]
    units: str = ""
    description: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the shape of a chunk: whole rows of the first axis, about `CHUNK_BYTES` in all."""
    row_bytes = max(1, int(np.prod(shape[1:])) * itemsize)
    rows = min(max(1, CHUNK_BYTES // row_bytes), max(1, shape[0])) if shape else 1
    return (rows, *(max(1, size) for size in shape[1:])) if shape else ()


_GATHERED_BYTES = 2 * CHUNK_BYTES
"""What one transaction writes, about. SQLite needs some milliseconds for it, and other writers wait meanwhile."""


class _GatheringStore(SqlArrayStore):
    """A store that writes objects together: the arrays of a small data set are 30 objects, and each transaction waits for others.

    Parameters
    ----------
    database, read_only
        As of `SqlArrayStore`.
    """

    def __init__(self, database: Database, *, read_only: bool = False) -> None:
        super().__init__(database, read_only=read_only)
        self._gathered: dict[str, bytes] = {}
        self._lock = Lock()

    def flush(self) -> None:
        """Write what is gathered."""
        with self._lock:
            if self._gathered:
                super()._set(self._gathered)
                self._gathered = {}

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return another store of the same objects."""
        self.flush()
        return super().with_read_only(read_only)

    def _set(self, values: Mapping[str, bytes]) -> None:
        with self._lock:
            self._gathered |= values
            is_full = sum(map(len, self._gathered.values())) >= _GATHERED_BYTES
        if is_full:
            self.flush()

    def _values_of(self, keys: Sequence[str]) -> dict[str, bytes]:
        with self._lock:
            held = {key: self._gathered[key] for key in keys if key in self._gathered}
        others = [key for key in keys if key not in held]
        return held | (super()._values_of(others) if others else {})

    def _size(self, key: str) -> int | None:
        with self._lock:
            held = self._gathered.get(key)
        return super()._size(key) if held is None else len(held)

    def _reading(self) -> AbstractContextManager[Session]:
        """Open a transaction, after a flush."""
        self.flush()
        return super()._reading()


class ArrayGroupWriter:
    """Writes one group, array by array. `close` consolidates its metadata; before, a database may lack some of its objects.

    Parameters
    ----------
    store
        The array store.
    path
        Path of the group, which must not exist yet.
    attributes
        Attributes of the group.
    """

    def __init__(self, store: Store, path: str, attributes: dict[str, Any] | None = None) -> None:
        self._path = path
        self._store = _GatheringStore(store.database) if isinstance(store, SqlArrayStore) else store
        self._group = zarr.create_group(self._store, path=path, attributes=attributes or {}, zarr_format=3)

    def create(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: Any,
        dims: tuple[str, ...],
        *,
        units: str = "",
        description: str = "",
        attributes: dict[str, Any] | None = None,
    ) -> "zarr.Array[Any]":
        """Create an array that the caller fills by whole chunks of its first axis."""
        details = {"units": units, "description": description, **(attributes or {})}
        return self._group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=chunk_shape(shape, np.dtype(dtype).itemsize) if shape else "auto",
            dimension_names=dims,
            attributes={key: value for key, value in details.items() if value != ""},
            fill_value=None,
        )

    def write(self, array: NamedArray) -> None:
        """Write a whole array, chunk by chunk."""
        target = self.create(
            array.name,
            array.values.shape,
            array.values.dtype,
            array.dims,
            units=array.units,
            description=array.description,
            attributes=array.attributes,
        )
        rows = target.chunks[0] if array.values.ndim else 1
        if array.values.ndim == 0:
            target[...] = array.values[...]
            return
        for start in range(0, array.values.shape[0], rows):
            target[start : start + rows] = np.ascontiguousarray(array.values[start : start + rows])

    def write_all(self, arrays: Iterable[NamedArray]) -> None:
        """Write several arrays."""
        for array in arrays:
            self.write(array)

    def close(self) -> None:
        """Consolidate the metadata, so that a reader by URL does not have to list objects."""
        with warnings.catch_warnings():
            # Zarr says that consolidated metadata is not yet part of its specification; xarray by URL needs it.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(self._store, path=self._path, zarr_format=3)
        if isinstance(self._store, _GatheringStore):
            self._store.flush()


class RowWriter:
    """Collects rows of the first axis, and writes them to an array of `ArrayGroupWriter.create` in whole chunks.

    Parameters
    ----------
    target
        The array. Its rows must all be appended.
    """

    def __init__(self, target: "zarr.Array[Any]") -> None:
        self.array = target
        self._waiting = np.empty((target.chunks[0], *target.shape[1:]), target.dtype)
        self._held = self._written = 0

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows. Rows that do not fill a chunk are kept for the next call."""
        while len(rows):
            part = rows[: len(self._waiting) - self._held]
            self._waiting[self._held : self._held + len(part)] = part
            self._held += len(part)
            rows = rows[len(part) :]
            if self._held == len(self._waiting):
                self._flush()

    def close(self) -> None:
        """Write the rows that are kept.

        Raises
        ------
        ValueError
            If the array has more rows than were appended.
        """
        self._flush()
        if self._written != self.array.shape[0]:
            raise ValueError(f"{self.array.name}: expected {self.array.shape[0]} rows, got {self._written}")

    def _flush(self) -> None:
        if self._held:
            self.array[self._written : self._written + self._held] = self._waiting[: self._held]
        self._written, self._held = self._written + self._held, 0


def open_group(store: Store, path: str) -> zarr.Group:
    """Open a finished group for reading."""
    return zarr.open_group(store, path=path, mode="r", zarr_format=3)


def open_array(store: Store, path: str, name: str) -> "zarr.Array[Any] | None":
    """Open an array of a finished group; return None if the group does not have it."""
    member = open_group(store, path).get(name)
    return member if isinstance(member, zarr.Array) else None
