"""The route of online inference."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from api.computing.computing import COMPUTING_RESPONSES, OnlineInferenceDependency
from api.dependencies import ContextDependency
from api.errors import problem_responses
from api.inferences.online import infer, read_body
from api.inferences.schemas import OnlineLatents, OnlineQuery, OnlineRequest
from api.limits.request_turns import without_turn

router = APIRouter(tags=["inferences"])

_NPZ = "application/x-npz"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Spikes as JSON, or an array of whole numbers written by `numpy.save`, with the options in the query.",
        "content": {
            "application/json": {
                "schema": OnlineRequest.model_json_schema(),
                "example": {"spikes": [[0, 1, 0], [2, 0, 0], [0, 0, 1]], "arrays": ["factors"]},
            },
            "application/x-npy": _BINARY,
        },
    }
}


@router.post(
    "/v1/models/{model_id}:infer",
    operation_id="infer_latents",
    response_class=Response,
    openapi_extra=_BODY,
    responses={
        200: {"description": "The latents.", "model": OnlineLatents, "content": {_NPZ: _BINARY}},
        **problem_responses(400, 404, 409, 413, 415, 422),
        **COMPUTING_RESPONSES,
    },
)
async def infer_latents(
    model_id: str,
    request: Request,
    query: Annotated[OnlineQuery, Query()],
    context: ContextDependency,
    inference: OnlineInferenceDependency,
    accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
) -> Response:
    """Infer the latents of one or a few trials and return them, for closed-loop experiments. Nothing is stored."""
    async with without_turn():
        body = await request.body()
    content_type = request.headers.get("content-type", "")
    is_npz = query.format_ == "npz" or (query.format_ is None and _NPZ in accept)
    options = query.model_dump(exclude_unset=True, exclude={"format_"})

    def run() -> Response:
        latents = infer(context, model_id, read_body(content_type, body, options))
        content = latents.npz() if is_npz else latents.json(context.settings.json_max_elements)
        return Response(content, media_type=_NPZ if is_npz else "application/json")

    return await inference.run(run)
