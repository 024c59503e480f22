"""What arrays there are, and how answers about them are kept by who asked."""

import hashlib

from zarr.abc.store import Store

from api.arrays.group_cache import OpenedGroup, opened
from api.arrays.labelled import coordinate_names, dims_of
from api.arrays.schemas import ArrayDocument, ArrayList

CACHE = "private, max-age=31536000, immutable"
"""Of what never changes: whoever has an answer need not ask again."""
REVALIDATED = "private, no-cache"
"""Of what may be replaced, as a model's latents when its job is extended: whoever has an answer asks whether it holds."""


def list_arrays(store: Store, group_path: str, base_url: str) -> ArrayList:
    """Describe the arrays of a group."""
    group = opened(store, group_path)
    return ArrayList(
        items=[describe(name, group, f"{base_url}/arrays/{name}") for name in group.arrays],
        zarr=f"{base_url}/zarr",
    )


def describe(name: str, group: OpenedGroup, href: str) -> ArrayDocument:
    """Describe one array."""
    array = group.arrays[name]
    attributes = dict(array.attrs)
    return ArrayDocument(
        name=name,
        dims=list(dims_of(array)),
        shape=list(array.shape),
        dtype=str(array.dtype),
        units=str(attributes.pop("units", "")),
        description=str(attributes.pop("description", "")),
        attributes=attributes,
        coordinates=coordinate_names(name, group),
        href=href,
    )


def etag(*parts: str) -> str:
    """A strong entity tag: what is stored under a path never changes."""
    return '"' + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32] + '"'


def matches_tag(if_none_match: str | None, tag: str) -> bool:
    """Whether the header `If-None-Match` names a tag."""
    given = [item.strip().removeprefix("W/") for item in (if_none_match or "").split(",")]
    return tag in given or given == ["*"]
