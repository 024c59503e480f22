"""Routes of models: documents, learning curves, cards and exports."""

from functools import partial
from typing import Annotated

import anyio
from anyio import to_thread
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from api import deletion
from api.computing.computing import COMPUTING_RESPONSES, ComputingDependency
from api.computing.streamed_response import Streamed
from api.deletion import DELETES, DeletionDocument, DryRun
from api.dependencies import ContextDependency, DatabaseDependency, TenantDependency
from api.errors import problem_responses
from api.http.http_cache import NOT_MODIFIED, REVALIDATED, etag, matches_tag
from api.models import service
from api.models.card import ModelCard
from api.models.dynamics import DynamicsDocument, DynamicsQuery, find_generator
from api.models.export import ProgramKind, find_card, find_export
from api.models.methods import MethodsDocument, MethodsFormat, find_methods, formatted
from api.models.schemas import LearningCurve, ModelDocument

router = APIRouter(tags=["models"])

_making_programs = anyio.CapacityLimiter(4)
"""Threads that wait for programs, which are made one at a time. Other requests have other threads."""
_METHODS_TYPES = {"text": "text/plain", "markdown": "text/markdown", "bibtex": "application/x-bibtex"}
_ZIP = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}


@router.get("/v1/models/{model_id}", operation_id="get_model", responses=problem_responses(404))
def get_model(model_id: str, database: DatabaseDependency, tenant_id: TenantDependency) -> ModelDocument:
    """Read a model: hyperparameters, state, scores."""
    with database.read() as session:
        return service.find_document(session, tenant_id, model_id)


@router.get(
    "/v1/models/{model_id}/learning_curve",
    operation_id="get_learning_curve",
    responses=problem_responses(404, 410),
)
def get_learning_curve(
    model_id: str, database: DatabaseDependency, tenant_id: TenantDependency
) -> LearningCurve:
    """Read the learning curve of a model, as far as it has come."""
    with database.read() as session:
        return service.learning_curve(session, tenant_id, model_id)


@router.delete(
    "/v1/models/{model_id}/latents", operation_id="delete_latents", status_code=202, responses=DELETES
)
def delete_latents(
    model_id: str, response: Response, context: ContextDependency, dry_run: DryRun = False
) -> DeletionDocument:
    """Delete the latents of a model whose job has ended. Its weights and scores stay, and `:apply` computes latents again."""
    find = partial(service.find, tenant_id=context.tenant_id, model_id=model_id)
    response.status_code = 200 if dry_run else 202
    return deletion.delete_latents(context, find, dry_run=dry_run)


@router.get("/v1/models/{model_id}/card", operation_id="get_model_card", responses=problem_responses(404))
def get_model_card(model_id: str, context: ContextDependency) -> ModelCard:
    """Read the card of a model: all that must be known of it, to be kept with its weights or for a paper's methods."""
    with context.database.read() as session:
        return find_card(session, context.arrays, context.tenant_id, model_id)


@router.get(
    "/v1/models/{model_id}/methods",
    operation_id="get_model_methods",
    response_model=MethodsDocument,
    responses={
        200: {"content": {name: {"schema": {"type": "string"}} for name in _METHODS_TYPES.values()}},
        **problem_responses(404, 422),
        **COMPUTING_RESPONSES,
    },
)
async def get_model_methods(
    model_id: str,
    context: ContextDependency,
    computing: ComputingDependency,
    form: Annotated[
        MethodsFormat,
        Query(
            alias="format",
            description="`json`, or the paragraph as `text` or `markdown`, or the citations as `bibtex`.",
        ),
    ] = "json",
) -> Response:
    """Return a paragraph about a model for the methods of a paper, with its numbers and citations."""

    def work() -> Response:
        with context.database.read() as session:
            found = find_methods(session, context.arrays, context.tenant_id, model_id)
        if form == "json":
            return Response(found.model_dump_json(), media_type="application/json")
        return Response(formatted(found, form), media_type=_METHODS_TYPES[form])

    return await computing.run(work)


@router.get(
    "/v1/models/{model_id}/dynamics",
    operation_id="get_model_dynamics",
    response_model=DynamicsDocument,
    responses={**NOT_MODIFIED, **problem_responses(404, 409, 422), **COMPUTING_RESPONSES},
)
async def get_model_dynamics(
    model_id: str,
    query: Annotated[DynamicsQuery, Query()],
    context: ContextDependency,
    computing: ComputingDependency,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Analyse what the generator of a model has learnt: eigenvalues, and fixed points with those of their Jacobians.

    All of it is without inputs: inferred and external inputs are 0.
    """

    def work() -> Response:
        with context.database.read() as reading:
            found = find_generator(reading, context.arrays, context.tenant_id, model_id)
        tag = etag(*found.cache_key, query.model_dump_json())
        headers = {"ETag": tag, "Cache-Control": REVALIDATED}
        if matches_tag(if_none_match, tag):
            return Response(status_code=304, headers=headers)
        return Response(
            found.analyse(query).model_dump_json(), headers=headers, media_type="application/json"
        )

    return await computing.run(work)


@router.get(
    "/v1/models/{model_id}/export",
    operation_id="export_model",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A zip: `model.safetensors`, `card.json`, `load.py`, `README.md`, and the program if asked for.",
            "content": _ZIP,
        },
        **NOT_MODIFIED,
        **problem_responses(404, 409, 422),
    },
)
async def export_model(
    model_id: str,
    context: ContextDependency,
    program: Annotated[
        ProgramKind | None,
        Query(
            description="Add the model as a program that does not need Latentry: `torch_export` (`model.pt2`, for torch) or "
            "`onnx` (`model.onnx`, for ONNX runtimes, if the service is set up for it). It takes some seconds to make."
        ),
    ] = None,
    session: Annotated[
        int | None,
        Query(
            ge=0,
            le=10_000,
            description="The session whose neurons the program reads, for a model of several sessions: 0, 1, …",
        ),
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Export a model: its best weights with a card, and a loader that needs only torch."""

    def make() -> Response:
        with context.database.read() as reading:
            found = find_export(
                reading,
                context.arrays,
                context.tenant_id,
                model_id,
                program=program,
                session_number=session,
            )
        headers = {"ETag": found.etag(), "Cache-Control": REVALIDATED}
        if matches_tag(if_none_match, found.etag().removeprefix("W/")):
            return Response(status_code=304, headers=headers)
        headers["Content-Disposition"] = f'attachment; filename="latentry-{model_id}.zip"'
        return Streamed(found.pieces(), headers=headers, media_type="application/zip")

    return await to_thread.run_sync(make, limiter=None if program is None else _making_programs)
