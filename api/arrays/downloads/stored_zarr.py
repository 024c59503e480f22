"""The Zarr group as it is stored, as a zip archive: nothing is read apart or compressed anew."""

import json
from collections.abc import Iterable, Iterator

from zarr.abc.store import Store
from zarr.core.sync import sync

from api.arrays.downloads.whole import Whole
from api.arrays.formats import Encoded
from api.arrays.formats.zips import zip_pieces
from api.errors import WrongState
from store.array_store import read_object

_METADATA = "zarr.json"


def encode_stored_zarr(whole: Whole) -> Encoded:
    """Every object of the wanted arrays and of their coordinates, sent one after the other.

    Raises
    ------
    WrongState
        If the group is not there any more. If it goes while it is sent, the answer ends early.
    """
    path = whole.group.path + "/"
    root = _root(_read(whole.store, path + _METADATA), whole.names)
    return Encoded(None, zip_pieces(_objects(whole.store, path, root, sorted(whole.names))))


def _objects(
    store: Store, path: str, root: bytes, names: Iterable[str]
) -> Iterator[tuple[str, Iterable[bytes]]]:
    yield _METADATA, (root,)
    for name in names:
        keys = {f"{path}{name}/{_METADATA}", *sync(_listed(store, f"{path}{name}/"))}
        for key in sorted(keys):
            yield key.removeprefix(path), (_read(store, key),)


def _read(store: Store, key: str) -> bytes:
    found = read_object(store, key)
    if found is None:
        raise WrongState("these arrays were replaced while they were read", hint="ask for them again")
    return found


def _root(stored: bytes, names: set[str]) -> bytes:
    """The group's metadata, which tells of all its arrays, with those that are in the archive."""
    document = json.loads(stored)
    consolidated = document.get("consolidated_metadata") or {}
    members = consolidated.get("metadata", {})
    if set(members) <= names:
        return stored
    consolidated["metadata"] = {name: told for name, told in members.items() if name in names}
    return json.dumps(document).encode()


async def _listed(store: Store, prefix: str) -> list[str]:
    return [key async for key in store.list_prefix(prefix)]
