"""Reading arrays for HTTP: whole chunks go through, never a whole large array at once."""

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

from api.arrays.schemas import ArrayDocument, ArrayList, ArrayValues
from api.arrays.slices import Part, length, sliced_shape
from api.errors import Invalid, NotFound
from store.arrays import open_group


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
        dims=dims(array),
        shape=list(array.shape),
        dtype=str(array.dtype),
        units=str(attributes.pop("units", "")),
        description=str(attributes.pop("description", "")),
        attributes=attributes,
        href=href,
    )


def dims(array: "zarr.Array[Any]") -> list[str]:
    """Names of the axes."""
    names = getattr(array.metadata, "dimension_names", None) or [None] * array.ndim
    return [name or f"axis_{axis}" for axis, name in enumerate(names)]


def find_array(store: Store, group_path: str, name: str, owner: str) -> "zarr.Array[Any]":
    """Return an array of a group, or raise `NotFound` with the names there are."""
    arrays = dict(open_group(store, group_path).arrays())
    if name not in arrays:
        raise NotFound(f"{owner} has no array {name!r}", hint=f"it has {', '.join(sorted(arrays))}")
    return arrays[name]


def etag(*parts: str) -> str:
    """A strong entity tag: what is stored under a path never changes."""
    return '"' + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32] + '"'


def matches_tag(if_none_match: str | None, tag: str) -> bool:
    """Whether the header `If-None-Match` names a tag."""
    given = [item.strip().removeprefix("W/") for item in (if_none_match or "").split(",")]
    return tag in given or given == ["*"]


def npy_stream(array: "zarr.Array[Any]", parts: tuple[Part, ...]) -> tuple[int, Iterator[bytes]]:
    """An npy file of a slice, made chunk by chunk.

    Returns
    -------
    tuple of int and iterator of bytes
        Its size in bytes, and its pieces.
    """
    shape = sliced_shape(parts)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
    )
    size = len(head.getvalue()) + int(np.prod(shape, dtype=np.int64)) * array.dtype.itemsize

    def pieces() -> Iterator[bytes]:
        yield head.getvalue()
        for block in _blocks(array, parts):
            yield np.ascontiguousarray(block).tobytes()

    return size, pieces()


def _blocks(array: "zarr.Array[Any]", parts: tuple[Part, ...]) -> Iterator[NDArray[Any]]:
    """The values of a slice in order, cut along the first axis at the edges of chunks."""
    if not parts or not isinstance(parts[0], slice):
        yield np.asarray(array[parts])
        return
    first, others = parts[0], parts[1:]
    rows = max(1, array.chunks[0] // first.step)
    for begin in range(0, length(first), rows):
        count = min(rows, length(first) - begin)
        start = first.start + begin * first.step
        stop = start + (count - 1) * first.step + 1
        yield np.asarray(array[(slice(start, stop, first.step), *others)])


def json_values(
    name: str, array: "zarr.Array[Any]", parts: tuple[Part, ...], text: str | None, most: int
) -> ArrayValues:
    """Values of a slice as a document.

    Raises
    ------
    Invalid
        If it has more elements than are answered as JSON.
    """
    shape = sliced_shape(parts)
    elements = int(np.prod(shape, dtype=np.int64))
    if elements > most:
        raise Invalid(
            f"{name}: this slice has {elements} elements; JSON answers at most {most}",
            hint="ask for format=npy, open the Zarr URL, or take a smaller slice",
        )
    values = np.asarray(array[parts]) if parts else np.asarray(array[...])
    named = [dim for dim, part in zip(dims(array), parts, strict=True) if isinstance(part, slice)]
    return ArrayValues(
        name=name,
        dims=named,
        shape=list(shape),
        dtype=str(array.dtype),
        units=str(array.attrs.get("units", "")),
        slice=text or "",
        values=_without_nan(values).tolist(),
    )


def _without_nan(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind != "f" or bool(np.isfinite(values).all()):
        return values
    as_objects = values.astype(object)
    as_objects[~np.isfinite(values)] = None
    return as_objects
