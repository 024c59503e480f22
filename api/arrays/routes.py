"""Routes of arrays, the same for data sets and for models."""

import re
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from zarr.abc.store import RangeByteRequest, Store

from api.arrays import service
from api.arrays.schemas import ArrayList, ArrayValues
from api.arrays.slices import parse_slice
from api.dependencies import ArraysDependency, DatabaseDependency, SettingsDependency, TenantDependency
from api.errors import NotFound, RangeNotSatisfiable, UnsupportedFormat, problem_responses
from store.array_store import object_size, read_object

FindGroup = Callable[[Session, str, str], str]
"""(session, tenant, id) → path of the group in the array store; raises the problem to answer."""

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
"""A part of a path in a Zarr group; names of arrays are made so, and `..` is none."""
_WEIGHT = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*")
_CACHE = "private, max-age=31536000, immutable"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ZARR_OBJECT = {"application/octet-stream": _BINARY, "application/json": {"schema": {"type": "object"}}}


def make_router(kind: str, plural: str, find_group: FindGroup) -> APIRouter:
    """Routes of the arrays of one kind of resource.

    Parameters
    ----------
    kind, plural
        ``dataset`` and ``datasets``, or ``model`` and ``models``.
    find_group
        Finds the group of a resource.
    """
    router = APIRouter(tags=["arrays"])
    base = "/v1/" + plural + "/{owner_id}"

    @router.get(base + "/arrays", operation_id=f"list_{kind}_arrays", responses=problem_responses(404, 409))
    def list_arrays(
        owner_id: str, database: DatabaseDependency, arrays: ArraysDependency, tenant_id: TenantDependency
    ) -> ArrayList:
        """List the arrays with their dims, units and types."""
        with database.read() as session:
            path = find_group(session, tenant_id, owner_id)
        return service.list_arrays(arrays, path, f"/v1/{plural}/{owner_id}")

    @router.get(
        base + "/arrays/{name}",
        operation_id=f"read_{kind}_array",
        response_class=Response,
        responses={
            200: {
                "description": "The values.",
                "model": ArrayValues,
                "content": {"application/octet-stream": _BINARY},
            },
            304: {"description": "You have them already."},
            **problem_responses(404, 406, 409, 422),
        },
    )
    def read_array(
        owner_id: str,
        name: str,
        database: DatabaseDependency,
        arrays: ArraysDependency,
        settings: SettingsDependency,
        tenant_id: TenantDependency,
        slice_: Annotated[
            str | None, Query(alias="slice", max_length=400, description="E.g. `0:5,::2,3`.")
        ] = None,
        format_: Annotated[
            Literal["npy", "json"] | None,
            Query(
                alias="format", description="`npy` (the default) or `json`; or say it by the header Accept."
            ),
        ] = None,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Read an array, or a slice of it, as npy or JSON."""
        with database.read() as session:
            path = find_group(session, tenant_id, owner_id)
        array = service.find_array(arrays, path, name, f"the {kind} {owner_id}")
        chosen = format_ or _accepted_format(accept)
        parts = parse_slice(slice_, array.shape)
        tag = service.etag(path, name, str(parts), chosen)
        headers = {"ETag": tag, "Cache-Control": _CACHE, "Vary": "Accept"}
        if service.matches_tag(if_none_match, tag):
            return Response(status_code=304, headers=headers)
        if chosen == "json":
            values = service.json_values(name, array, parts, slice_, settings.json_max_elements)
            return Response(values.model_dump_json(), media_type="application/json", headers=headers)
        size, pieces = service.npy_stream(array, parts)
        headers |= {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{name}.npy"'}
        return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)

    @router.head(
        base + "/zarr/{key:path}",
        operation_id=f"head_{kind}_zarr",
        response_class=Response,
        responses={
            200: {"description": "Its size, as `Content-Length`.", "content": _ZARR_OBJECT},
            304: {"description": "You have it already."},
            **problem_responses(404, 409),
        },
    )
    @router.get(
        base + "/zarr/{key:path}",
        operation_id=f"read_{kind}_zarr",
        response_class=Response,
        responses={
            200: {"description": "The object.", "content": _ZARR_OBJECT},
            206: {"description": "A range of it.", "content": _ZARR_OBJECT},
            304: {"description": "You have it already."},
            **problem_responses(404, 409, 416),
        },
    )
    def read_zarr(
        owner_id: str,
        key: str,
        request: Request,
        database: DatabaseDependency,
        arrays: ArraysDependency,
        tenant_id: TenantDependency,
        range_: Annotated[str | None, Header(alias="Range")] = None,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Read an object of the Zarr v3 group: `xarray.open_zarr(".../zarr")` does this for you."""
        with database.read() as session:
            path = find_group(session, tenant_id, owner_id)
        return zarr_object(arrays, f"{path}/{key}", request.method, range_, if_none_match)

    return router


def zarr_object(
    store: Store, key: str, method: str, range_header: str | None, if_none_match: str | None
) -> Response:
    """Answer one object of the array store, or a range of it."""
    # Hidden files are none of ours, and a file system knows no name that is longer than 255 bytes.
    parts = key.split("/")
    if any(not _SEGMENT.fullmatch(part) for part in parts) or (size := object_size(store, key)) is None:
        raise NotFound("there is no such object in this Zarr group", hint="its arrays are listed at …/arrays")
    tag = service.etag(key)
    headers = {"ETag": tag, "Cache-Control": _CACHE, "Accept-Ranges": "bytes"}
    media_type = "application/json" if key.endswith("zarr.json") else "application/octet-stream"
    if service.matches_tag(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    if method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(size)}, media_type=media_type)
    wanted = parse_range(range_header, size)
    if wanted is None:
        return Response(read_object(store, key), headers=headers, media_type=media_type)
    headers["Content-Range"] = f"bytes {wanted.start}-{wanted.end - 1}/{size}"
    return Response(read_object(store, key, wanted), status_code=206, headers=headers, media_type=media_type)


def parse_range(header: str | None, size: int) -> RangeByteRequest | None:
    """Parse a `Range` header; None for none, for several ranges and for other units, which are answered whole.

    Raises
    ------
    RangeNotSatisfiable
        If it begins beyond the end.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or not match[1] + match[2]:
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
    if start >= size or (first == "" and int(last) == 0):
        raise RangeNotSatisfiable(
            f"the range {header!r} lies outside an object of {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return RangeByteRequest(start, end) if start < end else None


def _accepted_format(accept: str) -> str:
    offered = {"application/json": "json"} | dict.fromkeys(
        ("*/*", "application/*", "application/octet-stream", "application/x-npy", ""), "npy"
    )
    for kind in _by_preference(accept):
        if kind in offered:
            return offered[kind]
    raise UnsupportedFormat(
        f"arrays are offered as application/octet-stream (npy) and application/json; Accept is {accept!r}"
    )


def _by_preference(accept: str) -> list[str]:
    """Media types of an `Accept` header, the wanted first; those of `q=0` are not wanted."""
    weighted = []
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = next((_WEIGHT.fullmatch(part) for part in parameters if part.startswith("q=")), None)
        weighted.append((float(weight[1]) if weight else 1.0, kind))
    return [kind for quality, kind in sorted(weighted, key=lambda one: -one[0]) if quality > 0]
