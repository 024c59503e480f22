"""Routes that give models away."""

from typing import Annotated

import anyio
from anyio import to_thread
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from api.dependencies import ArraysDependency, DatabaseDependency, TenantDependency
from api.errors import problem_responses
from api.http_cache import matches_tag
from api.models.card import ModelCard
from api.models.export import ProgramKind, find_card, find_export
from api.streamed import Streamed

router = APIRouter(tags=["models"])

_waiting = anyio.CapacityLimiter(4)
"""Threads that may wait for programs, apart from those of other requests: they are made one at a time."""
_ZIP = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}


@router.get("/v1/models/{model_id}/card", operation_id="get_model_card", responses=problem_responses(404))
def get_model_card(
    model_id: str, database: DatabaseDependency, arrays: ArraysDependency, tenant_id: TenantDependency
) -> ModelCard:
    """Read the card of a model: all that must be known of it, to lie beside its weights or in a paper's methods."""
    with database.read() as session:
        return find_card(session, arrays, tenant_id, model_id)


@router.get(
    "/v1/models/{model_id}/export",
    operation_id="export_model",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A zip: `model.safetensors`, `card.json`, `load.py`, `README.md`, and the program if asked for.",
            "content": _ZIP,
        },
        304: {"description": "You have it already."},
        **problem_responses(404, 409, 422),
    },
)
async def export_model(
    model_id: str,
    database: DatabaseDependency,
    arrays: ArraysDependency,
    tenant_id: TenantDependency,
    program: Annotated[
        ProgramKind | None,
        Query(
            description="Add the model as a program that needs no Latentry: `torch_export` (`model.pt2`, for torch) or `onnx` "
            "(`model.onnx`, for ONNX runtimes, where the service is set up for it). It takes some seconds to make."
        ),
    ] = None,
    session: Annotated[
        int | None,
        Query(
            ge=0,
            le=10_000,
            description="Whose neurons the program reads, of a model of several sessions: 0, 1, …",
        ),
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Take a model away: its best weights with a card, and a loader that needs only torch."""

    def make() -> Response:
        with database.read() as reading:
            found = find_export(reading, arrays, tenant_id, model_id, program, session)
        headers = {"ETag": found.etag(), "Cache-Control": "private, no-cache"}
        if matches_tag(if_none_match, found.etag().removeprefix("W/")):
            return Response(status_code=304, headers=headers)
        headers["Content-Disposition"] = f'attachment; filename="latentry-{model_id}.zip"'
        return Streamed(found.pieces(), headers=headers, media_type="application/zip")

    return await to_thread.run_sync(make, limiter=None if program is None else _waiting)
