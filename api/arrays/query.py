"""A request for one array: which part of it, how it is transformed, in which format it is written."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.arrays.formats import FormatChoice
from api.arrays.groups import ArrayGroup, OpenedGroup, ReadContext, dims_of
from api.arrays.labelled import LabelledArray
from api.arrays.selection import Selection, select
from api.arrays.transformations import Transformation, depends_on, transform
from api.http.http_cache import CACHE, REVALIDATED
from api.http.links import Link


class ArrayQuery(Selection, Transformation, FormatChoice):
    """Parameters of the request; any other parameter must be the name of a dim."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


def query_array(name: str, query: ArrayQuery, context: ReadContext) -> tuple[LabelledArray, ...]:
    """Return the array that a request describes, and the arrays that belong to it, such as its standard error.

    Values are read later, block by block.

    Raises
    ------
    NotFound
        If there is no such array.
    Invalid
        If the request does not fit it.
    """
    selected = select(context.group.array(context.store, name), query, context)
    return transform(selected, query, context)


def cache_key(name: str, query: ArrayQuery, context: ReadContext) -> tuple[str, ...]:
    """Return the cache key of a request, without the format. Equal keys imply equal values.

    Raises
    ------
    Invalid
        If the request names a model that does not exist.
    """
    asked = query.model_dump_json(exclude={"format_"}, exclude_defaults=True)
    return (context.group.path, name, asked, *depends_on(query, context))


def cache_control(query: ArrayQuery, group: ArrayGroup) -> str:
    """Return the header `Cache-Control`: for ever, unless the latents, or those rotated to, may be replaced."""
    return REVALIDATED if group.may_change or query.rotate_to is not None else CACHE


class ArrayDocument(BaseModel):
    """An array: its name, axes, type and units."""

    name: str
    dims: list[str] = Field(description="Name of each axis; arrays of the same name are its coordinates.")
    shape: list[int]
    dtype: str
    units: str = ""
    description: str = ""
    attributes: dict[str, Any] = Field(default_factory=dict)
    coordinates: list[str] = Field(
        default_factory=list,
        description="Arrays that describe the entries along its dims, such as `time_s` and `split`.",
    )
    href: Link


class ArrayList(BaseModel):
    """The arrays of a data set or a model."""

    items: list[ArrayDocument]
    zarr: Link = Field(description="URL path that zarr and xarray open as a Zarr v3 group.")


def describe_arrays(group: OpenedGroup, base_url: str) -> ArrayList:
    """Describe the arrays of a group."""
    items = [_document(name, group, f"{base_url}/arrays/{name}") for name in group.arrays]
    return ArrayList(items=items, zarr=f"{base_url}/zarr")


def _document(name: str, group: OpenedGroup, href: str) -> ArrayDocument:
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
        coordinates=group.coordinate_names(name),
        href=href,
    )
