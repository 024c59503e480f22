"""The route of latents at once."""

from typing import Annotated, Any

import anyio
from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request, Response

from api.dependencies import DatabaseDependency, SettingsDependency, TenantDependency
from api.errors import problem_responses
from api.inferences.online import infer
from api.inferences.online_body import read_body
from api.inferences.online_schemas import NowAnswer, NowQuery, NowRequest

router = APIRouter(tags=["inferences"])

_NPZ = "application/x-npz"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Spikes as JSON, or an array of whole numbers as `numpy.save` writes it, with the options in the query.",
        "content": {
            "application/json": {
                "schema": NowRequest.model_json_schema(),
                "example": {"spikes": [[0, 1, 0], [2, 0, 0], [0, 0, 1]], "arrays": ["factors"]},
            },
            "application/x-npy": _BINARY,
        },
    }
}

_waiting = anyio.CapacityLimiter(16)
"""Threads that may wait for the worker, apart from those of other requests: if it is away, only these wait."""


@router.post(
    "/v1/models/{model_id}:infer",
    operation_id="infer_latents",
    response_class=Response,
    openapi_extra=_BODY,
    responses={
        200: {"description": "The latents.", "model": NowAnswer, "content": {_NPZ: _BINARY}},
        **problem_responses(400, 404, 409, 413, 415, 422),
    },
)
async def infer_latents(
    model_id: str,
    request: Request,
    query: Annotated[NowQuery, Query()],
    database: DatabaseDependency,
    settings: SettingsDependency,
    tenant_id: TenantDependency,
    accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
) -> Response:
    """Latents of one or a few trials, at once: for closed loops, and for looking around. Nothing is stored."""
    body = await request.body()
    content_type = request.headers.get("content-type", "")
    is_npz = query.format_ == "npz" or (query.format_ is None and _NPZ in accept)
    options = query.model_dump(exclude_unset=True, exclude={"format_"})

    def answer() -> bytes:
        found = infer(database, settings, tenant_id, model_id, read_body(content_type, body, options))
        return found.npz() if is_npz else found.json(settings.json_max_elements)

    content = await to_thread.run_sync(answer, limiter=_waiting)
    return Response(content, media_type=_NPZ if is_npz else "application/json")
