"""The objects of a Zarr v3 group over HTTP, as they are stored: what `xarray.open_zarr` and `zarr.open` read."""

import re
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import RedirectResponse
from zarr.abc.store import Store

from api.arrays.group import FindGroup
from api.arrays.ranges import wanted_range
from api.arrays.service import CACHE, REVALIDATED, etag, matches_tag
from api.dependencies import ArraysDependency, DatabaseDependency, TenantDependency
from api.errors import NotFound, problem_responses
from store.array_store import object_size, read_object

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
"""A part of a path in a Zarr group; names of arrays are made so, and `..` is none."""
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ZARR_OBJECT = {"application/octet-stream": _BINARY, "application/json": {"schema": {"type": "object"}}}


def make_zarr_router(kind: str, plural: str, find_group: FindGroup) -> APIRouter:
    """Routes of the Zarr group of one kind of resource; parameters as `make_router`'s."""
    router = APIRouter(tags=["arrays"])
    base = "/v1/" + plural + "/{owner_id}"

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
        if_range: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Read an object of the Zarr v3 group: `xarray.open_zarr(".../zarr")` does this for you."""
        with database.read() as session:
            group = find_group(session, tenant_id, owner_id)
        kept = REVALIDATED if group.may_change else CACHE
        return zarr_object(
            arrays, f"{group.path}/{key}", kept, request.method, range_, if_none_match, if_range
        )

    @router.get(base + "/zarr", include_in_schema=False)
    def read_group(owner_id: str, request: Request) -> RedirectResponse:
        """Lead whoever opens the address of the group to its metadata."""
        return RedirectResponse(f"{request.url.path}/zarr.json")

    return router


def zarr_object(
    store: Store,
    key: str,
    kept: str,
    method: str,
    range_header: str | None,
    if_none_match: str | None,
    if_range: str | None = None,
) -> Response:
    """Answer one object of the array store, or a range of it."""
    # Hidden files are none of ours, and a file system knows no name that is longer than 255 bytes.
    parts = key.split("/")
    if any(not _SEGMENT.fullmatch(part) for part in parts) or (size := object_size(store, key)) is None:
        raise NotFound("there is no such object in this Zarr group", hint="its arrays are listed at …/arrays")
    tag = etag(key)
    headers = {"ETag": tag, "Cache-Control": kept, "Accept-Ranges": "bytes"}
    media_type = "application/json" if key.endswith("zarr.json") else "application/octet-stream"
    if matches_tag(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    if method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(size)}, media_type=media_type)
    wanted = wanted_range(range_header, if_range, tag, size)
    if wanted is None:
        return Response(read_object(store, key), headers=headers, media_type=media_type)
    headers["Content-Range"] = f"bytes {wanted.start}-{wanted.end - 1}/{size}"
    return Response(read_object(store, key, wanted), status_code=206, headers=headers, media_type=media_type)
