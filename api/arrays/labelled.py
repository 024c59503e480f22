"""An array on its way out: its values as blocks that are read when they are asked for, with dims, units and coordinates.

Selections and transformations make one of another; formats write it. None holds more than a few blocks at a time unless its
result is small, so what the server needs does not grow with what is asked for.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from api.arrays.group_cache import OpenedGroup
from api.arrays.rows import StoredRows, Taken


@dataclass(frozen=True)
class Coordinate:
    """What is known of each entry along one dim: its time, its neuron, the condition of its trial.

    Attributes
    ----------
    name
        The dim's own for its index; else e.g. ``split`` or ``condition``.
    dim
        Along which it goes.
    values
        One for each entry: numbers, or codes whose meanings are in the attributes ``flag_values`` and ``flag_meanings``.
    """

    name: str
    dim: str
    values: NDArray[Any]
    units: str = ""
    description: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def taken(self, where: Any) -> "Coordinate":
        """That of some entries, by anything that NumPy indexes one axis with and keeps it."""
        return Coordinate(
            self.name, self.dim, self.values[where], self.units, self.description, self.attributes
        )


@dataclass(frozen=True)
class LabelledArray:
    """Values with what they mean.

    Attributes
    ----------
    name, dims, shape, dtype, units, description
        As in the array store; units are empty for numbers without any.
    coordinates
        Of its dims, any number for each.
    attributes
        Further ones, such as ``flag_meanings`` where the values are codes, or how a transformation was done.
    blocks
        Reads the values from the beginning: rows of the first axis, in order, in blocks of about a chunk; one block of no dims
        where there are no dims. May be called again.
    missing
        Reads in the same way what says of each spike count whether it was not observed (not 0); None if all were observed. Its
        blocks may be cut at other rows.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    units: str
    description: str
    coordinates: tuple[Coordinate, ...]
    attributes: Mapping[str, Any]
    blocks: Callable[[], Iterator[NDArray[Any]]]
    missing: Callable[[], Iterator[NDArray[Any]]] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the values, uncompressed."""
        return self.size * self.dtype.itemsize

    def values(self) -> NDArray[Any]:
        """All of them, in memory."""
        found = np.empty(self.shape, self.dtype)
        row = 0
        for block in self.blocks():
            if not self.dims:
                found[...] = block
                continue
            found[row : row + len(block)] = block
            row += len(block)
        return found

    def along(self, dim: str) -> tuple[Coordinate, ...]:
        """Coordinates of a dim."""
        return tuple(one for one in self.coordinates if one.dim == dim)

    def index(self, dim: str) -> Coordinate | None:
        """The coordinate that has the name of its dim, such as ``time_s``."""
        return next((one for one in self.along(dim) if one.name == dim), None)


def labelled(name: str, group: OpenedGroup) -> LabelledArray:
    """An array of a finished group whole, with the coordinates that the group has for its dims."""
    array = group.arrays[name]
    attributes = dict(array.attrs)
    whole = tuple(slice(0, size, 1) for size in array.shape)
    return LabelledArray(
        name=name,
        dims=dims_of(array),
        shape=tuple(array.shape),
        dtype=np.dtype(array.dtype),
        units=str(attributes.pop("units", "")),
        description=str(attributes.pop("description", "")),
        coordinates=tuple(_coordinate(other, group) for other in coordinate_names(name, group)),
        attributes=attributes,
        blocks=StoredRows(array, whole),
        missing=missing_rows(name, group, whole),
    )


def missing_rows(name: str, group: OpenedGroup, taken: tuple[Taken, ...]) -> StoredRows | None:
    """Return what says which counts of a part of `spikes` (of one session) were not observed; None if all were."""
    found = re.fullmatch(r"spikes(_[0-9]+)?", name)
    array = group.arrays.get(f"missing{found[1] or ''}") if found else None
    return None if array is None or array.shape != group.arrays[name].shape else StoredRows(array, taken)


def dims_of(array: "zarr.Array[Any]") -> tuple[str, ...]:
    """Names of the axes."""
    names = getattr(array.metadata, "dimension_names", None) or [None] * array.ndim
    return tuple(name or f"axis_{axis}" for axis, name in enumerate(names))


def coordinate_names(name: str, group: OpenedGroup) -> list[str]:
    """Names of an array's coordinates: what goes along one of its dims, and has its name or is said to be one by the group."""
    dims = dims_of(group.arrays[name])
    named = set(str(group.group.attrs.get("coordinates", "")).split()) | set(dims)
    return [
        other
        for other, array in group.arrays.items()
        if other in named and other != name and array.ndim == 1 and dims_of(array)[0] in dims
    ]


def _coordinate(name: str, group: OpenedGroup) -> Coordinate:
    array = group.arrays[name]
    attributes = dict(array.attrs)
    units, description = str(attributes.pop("units", "")), str(attributes.pop("description", ""))
    return Coordinate(name, dims_of(array)[0], group.values(name), units, description, attributes)
