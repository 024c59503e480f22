"""What arrays there are, and how answers about them are kept by who asked."""

import hashlib
from typing import Any

import zarr
from zarr.abc.store import Store

from api.arrays.labelled import dims_of
from api.arrays.schemas import ArrayDocument, ArrayList
from store.arrays import open_group

CACHE = "private, max-age=31536000, immutable"
"""What is stored never changes: whoever has an answer need not ask again."""


def list_arrays(store: Store, group_path: str, base_url: str) -> ArrayList:
    """Describe the arrays of a group."""
    group = open_group(store, group_path)
    arrays = sorted(group.arrays(), key=lambda member: member[0])
    return ArrayList(
        items=[describe(name, array, f"{base_url}/arrays/{name}") for name, array in arrays],
        zarr=f"{base_url}/zarr",
    )


def describe(name: str, array: "zarr.Array[Any]", href: str) -> ArrayDocument:
    """Describe one array."""
    attributes = dict(array.attrs)
    return ArrayDocument(
        name=name,
        dims=list(dims_of(array)),
        shape=list(array.shape),
        dtype=str(array.dtype),
        units=str(attributes.pop("units", "")),
        description=str(attributes.pop("description", "")),
        attributes=attributes,
        href=href,
    )


def etag(*parts: str) -> str:
    """A strong entity tag: what is stored under a path never changes."""
    return '"' + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32] + '"'


def matches_tag(if_none_match: str | None, tag: str) -> bool:
    """Whether the header `If-None-Match` names a tag."""
    given = [item.strip().removeprefix("W/") for item in (if_none_match or "").split(",")]
    return tag in given or given == ["*"]
