"""Routes of inferences: run a trained model on a data set."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from api import deletion
from api.deletion import DELETES, DeletionDocument, DryRun
from api.dependencies import ContextDependency, DatabaseDependency, FeedDependency, TenantDependency
from api.errors import problem_responses
from api.events.long_poll import Prefer, wait_for
from api.http.idempotency import IdempotencyKey
from api.http.on_loop import on_loop
from api.http.pagination import Page, PageSize, PageToken
from api.inferences import service
from api.inferences.schemas import Application, InferenceDocument
from api.inferences.service import InferenceFilters
from api.json_bodies import JsonRoute
from store.tables import Inference

router = APIRouter(tags=["inferences"], route_class=JsonRoute)

_APPLICATIONS: dict[str, Example] = {
    "own": {"summary": "Latents of a model that was not selected", "value": {}},
    "other": {
        "summary": "Another recording of the same neurons",
        "value": {"dataset_id": "dat_0192f3c4a5b6aabbccddeeff", "arrays": ["rates", "factors"]},
    },
}


@router.post(
    "/v1/models/{model_id}:apply",
    operation_id="apply_model",
    status_code=202,
    responses=problem_responses(400, 404, 409, 413, 415, 422),
)
def apply_model(
    model_id: str,
    wanted: Annotated[Application, Body(openapi_examples=_APPLICATIONS)],
    response: Response,
    context: ContextDependency,
    idempotency_key: IdempotencyKey = None,
) -> InferenceDocument:
    """Run a trained model on a data set: another data set of the same neurons, or its own.

    Workers prefer inferences over training. Latents of the model's own data set also appear as arrays of the model.
    """
    with context.database.write() as session:
        created = service.create(
            session, context.settings, context.tenant_id, model_id, wanted, idempotency_key
        )
    response.headers["Location"] = created.links["self"]
    response.headers["Retry-After"] = "1"
    return created


@router.get("/v1/inferences", operation_id="list_inferences", responses=problem_responses(422))
def list_inferences(
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    wanted: Annotated[InferenceFilters, on_loop(InferenceFilters)],
    *,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[InferenceDocument]:
    """List inferences, newest first, optionally of one model, one job or one data set."""
    with database.read() as session:
        return service.list_page(session, tenant_id, wanted, page_size, page_token)


@router.get("/v1/inferences/{inference_id}", operation_id="get_inference", responses=problem_responses(404))
async def get_inference(
    inference_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    feed: FeedDependency,
    prefer: Prefer = None,
) -> InferenceDocument:
    """Return an inference: its state, its progress, and its scores once it is done."""

    def read() -> InferenceDocument:
        with database.read() as session:
            return service.find_document(session, tenant_id, inference_id)

    return await wait_for(feed, Inference, read, lambda found: found.state.is_final, prefer)


@router.delete(
    "/v1/inferences/{inference_id}", operation_id="delete_inference", status_code=202, responses=DELETES
)
def delete_inference(
    inference_id: str, response: Response, context: ContextDependency, dry_run: DryRun = False
) -> DeletionDocument:
    """Delete an inference with its latents, in the background. If it runs, it ends."""
    find = partial(service.find, tenant_id=context.tenant_id, inference_id=inference_id)
    response.status_code = 200 if dry_run else 202
    return deletion.delete_inference(context, find, dry_run=dry_run)


@router.post(
    "/v1/inferences/{inference_id}:cancel",
    operation_id="cancel_inference",
    responses=problem_responses(404, 409, 413),
)
def cancel_inference(
    inference_id: str, database: DatabaseDependency, tenant_id: TenantDependency
) -> InferenceDocument:
    """Cancel an inference. Its results are deleted."""
    with database.write() as session:
        return service.cancel(session, tenant_id, inference_id)
