"""Groups of arrays that were opened before: what a group is, and its coordinates, are read from the store once.

What lies under a path never changes, and no path is used twice, so nothing here grows old. A group that was deleted meanwhile is
found to be gone when its values are read (`api.arrays.rows`).
"""

from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import zarr
from cachetools import LRUCache
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.errors import GroupNotFoundError

from api.errors import WrongState
from store.array_store import object_size
from store.arrays import open_group

MOST_GROUPS = 64
MOST_COORDINATE_BYTES = 2**26


@dataclass(frozen=True)
class OpenedGroup:
    """A group that is open for reading.

    Attributes
    ----------
    store, path
        Where it lies.
    group
        With its attributes.
    arrays
        By name, in alphabetical order.
    """

    store: Store
    path: str
    group: zarr.Group
    arrays: "dict[str, zarr.Array[Any]]"

    def values(self, name: str) -> NDArray[Any]:
        """All values of a small array, such as a coordinate; not to be written into.

        Raises
        ------
        WrongState
            If it was deleted meanwhile.
        """
        key = (id(self.store), self.path, name)
        with _lock:
            held = _values.get(key)
        if held is None or held[0] is not self.store:
            found = np.asarray(self.arrays[name][...])
            check_is_there(self.arrays[name])
            found.flags.writeable = False
            held = (self.store, found)
            with _lock:
                if found.nbytes <= MOST_COORDINATE_BYTES:
                    _values[key] = held
        return held[1]


# A store is held with what was read from it, so that another can't have its id.
_groups: LRUCache[tuple[int, str], OpenedGroup] = LRUCache(MOST_GROUPS)
_values: LRUCache[tuple[int, str, str], tuple[Store, NDArray[Any]]] = LRUCache(
    MOST_COORDINATE_BYTES, getsizeof=lambda held: held[1].nbytes
)
_lock = Lock()


def opened(store: Store, path: str) -> OpenedGroup:
    """A finished group, opened now or before.

    Raises
    ------
    WrongState
        If it is not there: it was replaced after its path was read.
    """
    key = (id(store), path)
    with _lock:
        found = _groups.get(key)
    if found is None:
        try:
            group = open_group(store, path)
        except GroupNotFoundError as error:
            raise _replaced() from error
        found = OpenedGroup(store, path, group, dict(sorted(group.arrays())))
        with _lock:
            _groups[key] = found
    return found


def check_is_there(array: "zarr.Array[Any]") -> None:
    """Refuse what was read of an array that is not there any more: for Zarr, a chunk that is not there is one of zeros.

    Raises
    ------
    WrongState
        If it was deleted, since a job computed it anew.
    """
    where = array.store_path
    if object_size(where.store, f"{where.path}/zarr.json") is None:
        raise _replaced()


def _replaced() -> WrongState:
    return WrongState("these arrays were replaced while they were read", hint="ask for them again")
