"""Groups of named arrays, written once: the arrays of a data set, and the latents of a model.

Each group is a Zarr v3 group with consolidated metadata. Its arrays name their dimensions, so ``xarray.open_zarr`` can read it by
URL. A coordinate is a one-dimensional array with the name of its dimension, or one that the group lists as a coordinate.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

from domain.windows import RowArray


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


class ArrayGroupWriter:
    """Writes one group, array by array. `close` consolidates its metadata.

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
        self._store, self._path = store, path
        self._group = zarr.create_group(store, path=path, attributes=attributes or {}, zarr_format=3)

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
