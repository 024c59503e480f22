"""The stored objects of a Zarr v3 group over HTTP: `xarray.open_zarr` and `zarr.open` read them."""

import re

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from zarr.abc.store import Store

from api.arrays.groups import ArrayResource
from api.arrays.responses import BINARY, Conditions, ConditionsDependency, wanted_range
from api.dependencies import ContextDependency
from api.errors import NotFound, problem_responses
from api.http.http_cache import CACHE, NOT_MODIFIED, REVALIDATED, etag, matches_tag
from store.array_store import object_size, read_object

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
"""A segment of a path in a Zarr group: names of arrays match it, and `..` does not."""
_ZARR_OBJECT = {"application/octet-stream": BINARY, "application/json": {"schema": {"type": "object"}}}


def make_zarr_router(resource: ArrayResource) -> APIRouter:
    """Return the routes of the Zarr group of one kind of resource."""
    router = APIRouter(tags=["arrays"])
    base = "/v1/" + resource.plural + "/{owner_id}"

    @router.head(
        base + "/zarr/{key:path}",
        operation_id=f"head_{resource.kind}_zarr",
        response_class=Response,
        responses={
            200: {"description": "Its size, as `Content-Length`.", "content": _ZARR_OBJECT},
            **NOT_MODIFIED,
            **problem_responses(404, 409),
        },
    )
    @router.get(
        base + "/zarr/{key:path}",
        operation_id=f"read_{resource.kind}_zarr",
        response_class=Response,
        responses={
            200: {"description": "The object.", "content": _ZARR_OBJECT},
            206: {"description": "A range of it.", "content": _ZARR_OBJECT},
            **NOT_MODIFIED,
            **problem_responses(404, 409, 416),
        },
    )
    def read_zarr(
        owner_id: str,
        key: str,
        service: ContextDependency,
        conditions: ConditionsDependency,
    ) -> Response:
        """Read an object of the Zarr v3 group: `xarray.open_zarr(".../zarr")` does this for you."""
        with service.database.read() as session:
            group = resource.find_group(session, service.tenant_id, owner_id)
        kept = REVALIDATED if group.may_change else CACHE
        return zarr_object(service.arrays, f"{group.path}/{key}", kept, conditions)

    @router.get(base + "/zarr", include_in_schema=False)
    def read_group(owner_id: str, request: Request) -> RedirectResponse:
        """Redirect from the group to its metadata."""
        return RedirectResponse(f"{request.url.path}/zarr.json")

    return router


def zarr_object(store: Store, key: str, cache_control: str, conditions: Conditions) -> Response:
    """Return one object of the array store, or a range of it."""
    # Hidden files are not part of a group, and file systems allow no name longer than 255 bytes.
    parts = key.split("/")
    if any(not _SEGMENT.fullmatch(part) for part in parts) or (size := object_size(store, key)) is None:
        raise NotFound("there is no such object in this Zarr group", hint="its arrays are listed at …/arrays")
    tag = etag(key)
    headers = {"ETag": tag, "Cache-Control": cache_control, "Accept-Ranges": "bytes"}
    media_type = "application/json" if key.endswith("zarr.json") else "application/octet-stream"
    if matches_tag(conditions.if_none_match, tag):
        return Response(status_code=304, headers=headers)
    if conditions.is_head:
        return Response(headers={**headers, "Content-Length": str(size)}, media_type=media_type)
    wanted = wanted_range(conditions.range_, conditions.if_range, tag, size)
    if wanted is None:
        return Response(read_object(store, key), headers=headers, media_type=media_type)
    headers["Content-Range"] = f"bytes {wanted.start}-{wanted.end - 1}/{size}"
    return Response(read_object(store, key, wanted), status_code=206, headers=headers, media_type=media_type)
