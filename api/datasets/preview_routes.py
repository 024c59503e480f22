"""Routes of what a data set looks like: as JSON, and drawn."""

import json
from typing import Annotated, Any, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse
from zarr.abc.store import Store

from api.arrays.service import etag, matches_tag
from api.datasets.preview_schemas import PreviewDocument
from api.datasets.service import find_ready
from api.dependencies import ArraysDependency, DatabaseDependency, TenantDependency
from api.errors import NotFound, problem_responses
from store.array_store import read_object
from store.database import Database
from store.tables import Dataset

router = APIRouter(tags=["data sets"])

DRAWING = "1"
"""Goes up when the drawing changes, so that nobody keeps the old one."""
_MEDIA_TYPES = {"png": "image/png", "svg": "image/svg+xml"}
_CACHE = "private, max-age=31536000, immutable"
_ONE_DRAWING = CapacityLimiter(1)
"""matplotlib is not made for threads, and a drawing takes a core for a second."""

IfNoneMatch = Annotated[str | None, Header()]


@router.get(
    "/v1/datasets/{dataset_id}/preview",
    operation_id="get_dataset_preview",
    response_model=PreviewDocument,
    responses={304: {"description": "You have it already."}, **problem_responses(404, 409)},
)
def get_dataset_preview(
    dataset_id: str,
    database: DatabaseDependency,
    arrays: ArraysDependency,
    tenant_id: TenantDependency,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Read what a data set looks like: spikes of some trials, mean rates by condition, the session, the rates."""
    row, document = _find(database, arrays, tenant_id, dataset_id)
    headers = {"ETag": etag(row.array_path or "", "preview"), "Cache-Control": _CACHE}
    if matches_tag(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return JSONResponse(document, headers=headers)


@router.get(
    "/v1/datasets/{dataset_id}/preview.png",
    operation_id="draw_dataset_preview",
    response_class=Response,
    responses={
        200: {
            "description": "The picture, 1200 × 800.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "You have it already."},
        **problem_responses(404, 409),
    },
)
async def draw_dataset_preview(
    dataset_id: str,
    database: DatabaseDependency,
    arrays: ArraysDependency,
    tenant_id: TenantDependency,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Draw what a data set looks like, as PNG."""
    return await _draw("png", dataset_id, database, arrays, tenant_id, if_none_match)


@router.get(
    "/v1/datasets/{dataset_id}/preview.svg",
    operation_id="draw_dataset_preview_svg",
    response_class=Response,
    responses={
        200: {"description": "The picture.", "content": {"image/svg+xml": {"schema": {"type": "string"}}}},
        304: {"description": "You have it already."},
        **problem_responses(404, 409),
    },
)
async def draw_dataset_preview_svg(
    dataset_id: str,
    database: DatabaseDependency,
    arrays: ArraysDependency,
    tenant_id: TenantDependency,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Draw what a data set looks like, as SVG."""
    return await _draw("svg", dataset_id, database, arrays, tenant_id, if_none_match)


def read_preview(arrays: Store, row: Dataset) -> dict[str, Any] | None:
    """Read the preview that the ingest of a data set left; None if there is none."""
    stored = None if row.array_path is None else read_object(arrays, f"{row.array_path}/preview.json")
    if stored is None:
        return None
    document: dict[str, Any] = json.loads(stored)
    return document


async def _draw(
    kind: Literal["png", "svg"],
    dataset_id: str,
    database: Database,
    arrays: Store,
    tenant_id: str,
    if_none_match: str | None,
) -> Response:
    row, document = await to_thread.run_sync(_find, database, arrays, tenant_id, dataset_id)
    tag = etag(row.array_path or "", f"preview.{kind}", DRAWING, ascii(row.name))
    headers = {"ETag": tag, "Cache-Control": _CACHE}
    if matches_tag(if_none_match, tag):
        return Response(status_code=304, headers=headers)

    def draw() -> bytes:
        from api.datasets.preview_picture import draw_preview  # matplotlib takes a second to import

        return draw_preview(document, row.name, kind)

    picture = await to_thread.run_sync(draw, limiter=_ONE_DRAWING)
    return Response(picture, media_type=_MEDIA_TYPES[kind], headers=headers)


def _find(
    database: Database, arrays: Store, tenant_id: str, dataset_id: str
) -> tuple[Dataset, dict[str, Any]]:
    with database.read() as session:
        row = find_ready(session, tenant_id, dataset_id)
    document = read_preview(arrays, row)
    if document is None:
        sessions = " and ".join(f"/v1/datasets/{one}/preview" for one in row.source.get("dataset_ids", ()))
        raise NotFound(
            f"the data set {row.id} has no preview",
            hint=f"it was combined of several; its sessions have one each: {sessions}"
            if sessions
            else "it was read by an older version; upload the file again to have one",
        )
    return row, document
