"""What a download holds: arrays of one group, with their coordinates; and the Zarr group as a zip archive."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.sync import sync

from api.arrays.formats import Encoded, WriteContext
from api.arrays.formats.streams import zip_pieces
from api.arrays.groups import ArrayGroup, replaced
from api.arrays.labelled import LabelledArray, as_words, coordinates_of, in_memory
from api.arrays.messages import invalid_parameter
from store.array_store import read_object

_METADATA = "zarr.json"


@dataclass(frozen=True)
class Contents:
    """The arrays of a download.

    Attributes
    ----------
    group, store
        Where they lie.
    arrays
        The requested arrays, without those that are coordinates of others.
    context
        Where they come from.
    is_dataset
        Whether they belong to a data set, not to latents.
    attributes
        Attributes of the group.
    """

    group: ArrayGroup
    store: Store
    arrays: tuple[LabelledArray, ...]
    context: WriteContext
    is_dataset: bool
    attributes: dict[str, Any]

    @property
    def names(self) -> set[str]:
        """Return the names of the arrays and of their coordinates."""
        return {array.name for array in self.arrays} | {one.name for one in coordinates_of(self.arrays)}

    @property
    def bin_width_s(self) -> float:
        """Return the width of a bin, in seconds."""
        return float(self.attributes.get("bin_width_s", self.context.provenance.bin_width_s))

    def with_facts(self) -> tuple[LabelledArray, ...]:
        """Return the arrays, the width of the bins, and of a data set the split of its trials as it came."""
        width = in_memory("bin_width_s", np.array(self.bin_width_s), (), units="s")
        if not self.is_dataset:
            return (*self.arrays, width)
        codes = {"train": 0, "valid": 1, "gap": -2}
        split = [codes.get(one.split or "", -1) for one in self.context.provenance.trials()]
        return (
            *self.arrays,
            width,
            in_memory(
                "split",
                np.array(split, np.int8),
                ("trial",),
                description="part that the trial is for, as given",
                attributes={"flag_values": [-2, -1, 0, 1], "flag_meanings": "gap none train valid"},
            ),
        )

    def splits(self) -> NDArray[np.str_]:
        """Return the split of every trial of the data set: of latents the job's, of a data set as it came.

        Trials without one are ``test``; if no trial has one, all are ``train``.
        """
        stored = self.group.opened(self.store)
        if not self.is_dataset and "split" in stored.arrays:
            return as_words(stored.values("split"), dict(stored.arrays["split"].attrs)).astype(str)
        given = [one.split or "test" for one in self.context.provenance.trials()]
        return np.array(given if "train" in given else ["train"] * len(given), np.str_)


def gather(
    group: ArrayGroup, store: Store, wanted: list[str] | None, context: WriteContext, *, is_dataset: bool
) -> Contents:
    """Return the requested arrays of a group: all of them unless names are given.

    Raises
    ------
    Invalid
        If a name does not exist.
    """
    opened = group.opened(store)
    missing = [name for name in wanted or () if name not in opened.arrays]
    if missing:
        message, hint = f"{group.owner} has no array {missing[0]!r}", f"it has {', '.join(opened.arrays)}"
        raise invalid_parameter("arrays", message, hint, code="array")
    found = [opened.labelled(name) for name in dict.fromkeys(wanted or opened.arrays)]
    kept = _without_coordinates(found)
    return Contents(group, store, kept, context, is_dataset, dict(opened.group.attrs))


def _without_coordinates(arrays: list[LabelledArray]) -> tuple[LabelledArray, ...]:
    """Return the arrays without those that come as coordinates of others."""
    told = {one.name for array in arrays for one in array.coordinates}
    kept = [array for array in arrays if array.name not in told]
    for array in arrays:
        if array.name not in {one.name for one in kept} | {one.name for one in coordinates_of(kept)}:
            kept.append(array)
    return tuple(kept)


def encode_stored_zarr(contents: Contents) -> Encoded:
    """Return every stored object of the arrays and of their coordinates in a zip archive, without compressing it again.

    Raises
    ------
    WrongState
        If the group no longer exists. If it is deleted while it is sent, the response ends early.
    """
    path = contents.group.path + "/"
    root = _root(_read(contents.store, path + _METADATA), contents.names)
    return Encoded(None, zip_pieces(_objects(contents.store, path, root, sorted(contents.names))))


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
        raise replaced()
    return found


def _root(stored: bytes, names: set[str]) -> bytes:
    """Return the group's metadata, which lists its arrays, with only those that are in the archive."""
    document = json.loads(stored)
    consolidated = document.get("consolidated_metadata") or {}
    members = consolidated.get("metadata", {})
    if set(members) <= names:
        return stored
    consolidated["metadata"] = {name: told for name, told in members.items() if name in names}
    return json.dumps(document).encode()


async def _listed(store: Store, prefix: str) -> list[str]:
    return [key async for key in store.list_prefix(prefix)]
