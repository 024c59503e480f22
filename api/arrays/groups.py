"""Groups of arrays in the array store: the arrays of a data set, or the latents of a model or an inference.

An opened group and its coordinates are cached. A path is used once and its contents never change, so the cache needs no expiry.
If a group is deleted meanwhile, this is found when its values are read (`check_exists`).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Any

import numpy as np
import zarr
from cachetools import LRUCache
from numpy.typing import NDArray
from sqlalchemy.orm import Session
from zarr.abc.store import Store
from zarr.errors import GroupNotFoundError

from api.arrays.labelled import Coordinate, LabelledArray
from api.caches import of_resources
from api.dependencies import Context
from api.errors import NotFound, WrongState
from domain.cancellation import cancellation_point
from store.array_store import object_size
from store.arrays import open_group

MOST_GROUPS = 64
MOST_COORDINATE_BYTES = 2**26
_MOST_CHUNKS_AT_ONCE = 10
"""Most chunks that are read by one query, and are in memory together: 10 MiB."""

Taken = int | slice | NDArray[np.int64]
"""What is taken along an axis: one entry, and the axis is dropped; a range with a step of 1 or more; or increasing positions."""


@dataclass(frozen=True)
class ArrayGroup:
    """Where the arrays of a resource lie, and whose trials they hold.

    Attributes
    ----------
    path
        Path in the array store; its contents never change.
    dataset_id
        The data set whose trials, in its order, are the rows of the dim ``trial``.
    owner
        The resource in words: ``the model mod_…``.
    may_change
        Whether the resource may get another group later.
    """

    path: str
    dataset_id: str
    owner: str
    may_change: bool = False

    def opened(self, store: Store) -> "OpenedGroup":
        """Return the group, opened now or before."""
        return open_cached(store, self.path)

    def array(self, store: Store, name: str) -> LabelledArray:
        """Return one of the arrays, whole.

        Raises
        ------
        NotFound
            If there is no such array; the hint lists the names.
        """
        group = self.opened(store)
        if name not in group.arrays:
            raise NotFound(f"{self.owner} has no array {name!r}", hint=f"it has {', '.join(group.arrays)}")
        return group.labelled(name)


FindGroup = Callable[[Session, str, str], ArrayGroup]
"""(session, tenant, id of the resource) → its group. Raises `NotFound` or `WrongState`."""


@dataclass(frozen=True)
class ArrayResource:
    """A kind of resource that has arrays.

    Attributes
    ----------
    kind, plural
        ``dataset`` and ``datasets``, ``model`` and ``models``, …
    find_group
        Finds the group of a resource of this kind.
    find_reference
        Finds the latents of a model, which other latents may be rotated to.
    """

    kind: str
    plural: str
    find_group: FindGroup
    find_reference: FindGroup

    def context(self, session: Session, service: Context, owner_id: str) -> "ReadContext":
        """Return what a request for the arrays of a resource may read.

        Raises
        ------
        NotFound, WrongState
            If the resource does not exist, or has no arrays.
        """
        group = self.find_group(session, service.tenant_id, owner_id)
        return ReadContext(session, service.arrays, service.tenant_id, group, self.find_reference)


@dataclass(frozen=True)
class ReadContext:
    """What a request may read beside the array that it names.

    Attributes
    ----------
    session
        Session of the database, for reading.
    store
        The array store.
    tenant_id
        The tenant of the request.
    group
        The group of the array.
    find_reference
        As `ArrayResource` has it.
    """

    session: Session
    store: Store
    tenant_id: str
    group: ArrayGroup
    find_reference: FindGroup

    @property
    def opened(self) -> "OpenedGroup":
        """Return the group, opened."""
        return self.group.opened(self.store)


@dataclass(frozen=True)
class OpenedGroup:
    """A group that is open for reading.

    Attributes
    ----------
    store, path
        Where it lies.
    group
        The Zarr group, with its attributes.
    arrays
        By name, in alphabetical order.
    """

    store: Store
    path: str
    group: zarr.Group
    arrays: "dict[str, zarr.Array[Any]]"

    def values(self, name: str) -> NDArray[Any]:
        """Return all values of a small array, such as a coordinate; read-only.

        Raises
        ------
        WrongState
            If the group was deleted meanwhile.
        """
        key = (id(self.store), self.path, name)
        with _lock:
            held = _values.get(key)
        if held is None or held[0] is not self.store:
            found = np.asarray(self.arrays[name][...])
            check_exists(self.arrays[name])
            found.flags.writeable = False
            held = (self.store, found)
            with _lock:
                if found.nbytes <= MOST_COORDINATE_BYTES:
                    _values[key] = held
        return held[1]

    def labelled(self, name: str) -> LabelledArray:
        """Return an array whole, with the coordinates that the group has for its dims."""
        array = self.arrays[name]
        attributes = dict(array.attrs)
        whole = tuple(slice(0, size, 1) for size in array.shape)
        return LabelledArray(
            name=name,
            dims=dims_of(array),
            shape=tuple(array.shape),
            dtype=np.dtype(array.dtype),
            units=str(attributes.pop("units", "")),
            description=str(attributes.pop("description", "")),
            coordinates=tuple(map(self._coordinate, self.coordinate_names(name))),
            attributes=attributes,
            blocks=StoredRows(array, whole),
            missing=self.missing_rows(name, whole),
        )

    def missing_rows(self, name: str, taken: tuple[Taken, ...]) -> "StoredRows | None":
        """Return the flags of missing counts for a part of `spikes` (of one session); None if all were observed."""
        found = re.fullmatch(r"spikes(_[0-9]+)?", name)
        array = self.arrays.get(f"missing{found[1] or ''}") if found else None
        return None if array is None or array.shape != self.arrays[name].shape else StoredRows(array, taken)

    def coordinate_names(self, name: str) -> list[str]:
        """Return the names of an array's coordinates.

        They lie along one of its dims, and have the name of a dim or are listed as coordinates by the group.
        """
        dims = dims_of(self.arrays[name])
        named = set(str(self.group.attrs.get("coordinates", "")).split()) | set(dims)
        return [
            other
            for other, array in self.arrays.items()
            if other in named and other != name and array.ndim == 1 and dims_of(array)[0] in dims
        ]

    def _coordinate(self, name: str) -> Coordinate:
        array = self.arrays[name]
        attributes = dict(array.attrs)
        units, description = str(attributes.pop("units", "")), str(attributes.pop("description", ""))
        return Coordinate(name, dims_of(array)[0], self.values(name), units, description, attributes)


# The cache holds the store itself, so that another store cannot have the same id.
_lock = Lock()
_groups: LRUCache[tuple[int, str], OpenedGroup] = of_resources(LRUCache(MOST_GROUPS), _lock)
_values: LRUCache[tuple[int, str, str], tuple[Store, NDArray[Any]]] = of_resources(
    LRUCache(MOST_COORDINATE_BYTES, getsizeof=lambda held: held[1].nbytes), _lock
)


def open_cached(store: Store, path: str) -> OpenedGroup:
    """Return a finished group, opened now or before.

    Raises
    ------
    WrongState
        If it does not exist: it was replaced after its path was read.
    """
    key = (id(store), path)
    with _lock:
        found = _groups.get(key)
    if found is None:
        try:
            group = open_group(store, path)
        except GroupNotFoundError as error:
            raise replaced() from error
        found = OpenedGroup(store, path, group, dict(sorted(group.arrays())))
        with _lock:
            _groups[key] = found
    return found


def dims_of(array: "zarr.Array[Any]") -> tuple[str, ...]:
    """Return the names of the axes."""
    names = getattr(array.metadata, "dimension_names", None) or [None] * array.ndim
    return tuple(name or f"axis_{axis}" for axis, name in enumerate(names))


def check_exists(array: "zarr.Array[Any]") -> None:
    """Refuse values that were read from a deleted array: Zarr reads a chunk that does not exist as zeros.

    Raises
    ------
    WrongState
        If the array was deleted because a job computed it again.
    """
    where = array.store_path
    if object_size(where.store, f"{where.path}/zarr.json") is None:
        raise replaced()


def replaced() -> WrongState:
    """Return the error of arrays that were replaced while a request read them."""
    return WrongState("these arrays were replaced while they were read", hint="ask for them again")


def taken_entries(part: slice | NDArray[np.int64]) -> int:
    """Return how many entries of an axis are taken."""
    return len(range(part.start, part.stop, part.step)) if isinstance(part, slice) else len(part)


class StoredRows:
    """The blocks of a part of a stored array, from the beginning or from any row on.

    Only chunks that hold some of the part are read, each of them once.

    Parameters
    ----------
    array
        The stored array, in chunks of whole rows.
    taken
        What is taken along each axis.
    """

    def __init__(self, array: "zarr.Array[Any]", taken: tuple[Taken, ...]) -> None:
        self._array = array
        self._first, others = (taken[0], taken[1:]) if taken else (0, ())
        # The range around the positions is read, and the positions are picked in memory: a chunk is read whole anyway.
        self._others = tuple(_around(part) if isinstance(part, np.ndarray) else part for part in others)
        first_axes = 0 if isinstance(self._first, int) else 1
        kept = [part for part in others if not isinstance(part, int)]
        self._picked = [
            (axis, part - part[0])
            for axis, part in enumerate(kept, first_axes)
            if isinstance(part, np.ndarray) and len(part)
        ]

    def __call__(self) -> Iterator[NDArray[Any]]:
        """Return all blocks, cut along the first axis at the edges of chunks."""
        return self.starting_at(0)

    def starting_at(self, row: int) -> Iterator[NDArray[Any]]:
        """Yield the blocks from a row on; earlier rows are not read, and chunks of which little is taken are read together.

        Example: with chunks of 10 rows, all of 25 rows taken and `row` 12, the blocks are the rows 12–19 and 20–24.
        """
        if isinstance(self._first, int):
            block = self._read(self._first) if self._array.ndim else self._checked(self._array[...])
            yield block[row:] if block.ndim else block
            return
        taken = np.r_[self._first]
        # Where each chunk's rows end, among the rows that are taken.
        ends = np.append(np.flatnonzero(np.diff(taken // self._array.chunks[0])) + 1, len(taken))
        ends = ends[ends > row]
        at_once = self._chunks_at_once(len(taken) / len(ends)) if len(ends) else 1
        for last in (*ends[at_once - 1 :: at_once], *ends[-1:]):
            if row < last:
                yield self._read_rows(taken[row:last])
                row = int(last)

    def _chunks_at_once(self, rows_of_chunk: float) -> int:
        """Return how many chunks are read together: more than one if little is taken of each."""
        taken = rows_of_chunk * prod(
            1 if isinstance(one, int) else taken_entries(one) for one in self._others
        )
        return int(max(1, min(_MOST_CHUNKS_AT_ONCE, prod(self._array.chunks) // max(1.0, taken))))

    def _read_rows(self, taken: NDArray[np.int64]) -> NDArray[Any]:
        """Return rows in increasing order."""
        first, last, rows = int(taken[0]), int(taken[-1]) + 1, self._array.chunks[0]
        if isinstance(self._first, slice):
            return self._read(slice(first, last, self._first.step))
        if first // rows == (last - 1) // rows:
            return self._read(slice(first, last))[taken - first]
        return self._read(taken)

    def _read(self, first: int | slice | NDArray[np.int64]) -> NDArray[Any]:
        cancellation_point()
        where = (first, *self._others)
        whole = self._array.oindex[where] if isinstance(first, np.ndarray) else self._array[where]
        block = self._checked(whole)
        for axis, positions in self._picked:
            block = np.take(block, positions, axis)
        return block

    def _checked(self, values: Any) -> NDArray[Any]:
        # A chunk of zeros may never have been written, or have been deleted meanwhile; any other chunk was read.
        # Of several chunks, some may have been deleted, so each row is looked at.
        block = np.asarray(values)
        if not (block.any(axis=tuple(range(1, block.ndim))).all() if block.ndim else block):
            check_exists(self._array)
        return block


def _around(positions: NDArray[np.int64]) -> slice:
    """Return the shortest range that contains all positions."""
    return slice(int(positions[0]), int(positions[-1]) + 1, 1) if len(positions) else slice(0, 0, 1)
