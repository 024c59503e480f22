"""Routes of jobs."""

from functools import partial
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Body, Header, Query, Response
from fastapi.openapi.models import Example
from fastapi.responses import StreamingResponse

from api import deletion
from api.auth import CallerDependency
from api.computing.computing import ComputingDependency
from api.deletion import DELETES, DeletionDocument, DryRun
from api.dependencies import (
    ContextDependency,
    DatabaseDependency,
    FeedDependency,
    SettingsDependency,
    TenantDependency,
)
from api.errors import Invalid, problem_responses
from api.events.event_poller import StreamListener
from api.events.long_poll import Prefer, wait_for
from api.http.idempotency import IdempotencyKey
from api.http.pagination import DatasetIdFilter, FiltersDependency, Page, PageSize, PageToken
from api.jobs import creation, lifecycle, service
from api.jobs.event_stream import EventStream
from api.jobs.schemas import BudgetExtension, EventDocument, JobChanges, JobDocument, JobPreview
from api.json_bodies import JsonRoute
from api.labels import LABEL_CHANGES
from api.models.schemas import ModelDocument
from api.validation_errors import FieldProblem
from domain.job_specification import JobSpecification
from domain.states import JobState
from store.tables import Job

router = APIRouter(tags=["jobs"], route_class=JsonRoute)

_SERVER_SENT_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "description": "The kind of the event."},
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "For `Last-Event-ID`."},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/EventDocument"},
        },
    },
    "required": ["event", "id", "data"],
}
_DATASET_ID = "dat_0192f3c4a5b6aabbccddeeff"
_SPECIFICATIONS: dict[str, Example] = {
    "defaults": {"summary": "A search with every default", "value": {"dataset_id": _DATASET_ID}},
    "chosen": {
        "summary": "A search over the dropout rates, with the learning rate fixed",
        "value": {
            "dataset_id": _DATASET_ID,
            "name": "first try",
            "seed": 1,
            "space": {
                "learning_rate": 0.003,
                "dropout": {"low": 0.0, "high": 0.5},
                "kl_weight_initial_condition": {"low": 1e-6, "high": 1e-3, "scale": "log"},
            },
            "architecture": {"factors": 8},
            "budget": {"models": 16, "epochs": 300, "wall_seconds": 3600},
        },
    },
    "autolfads": {
        "summary": "Population-based training as published, within six hours of device time",
        "value": {
            "dataset_id": _DATASET_ID,
            "preset": "autolfads",
            "budget": {"device_seconds": 21600},
        },
    },
    "sizes": {
        "summary": "TPE that also searches the sizes of the network, and stops the worst models early",
        "value": {
            "dataset_id": _DATASET_ID,
            "strategy": {"kind": "hyperband", "sampler": {"kind": "tpe", "models_at_once": 9}},
            "architecture": {"generator_units": [64, 100, 200], "factors": [8, 16, 32]},
            "budget": {"models": 36, "epochs": 300},
        },
    },
}


@router.post(
    "/v1/jobs",
    operation_id="create_job",
    status_code=202,
    response_model=None,
    responses={
        200: {"model": JobPreview, "description": "With `validate_only`: what the job would do."},
        202: {"model": JobDocument, "description": "The job, queued. `Location` has its path."},
        **problem_responses(400, 404, 409, 413, 415, 422, 429, 504),
    },
)
async def create_job(
    specification: Annotated[JobSpecification, Body(openapi_examples=_SPECIFICATIONS)],
    response: Response,
    context: ContextDependency,
    computing: ComputingDependency,
    *,
    validate_only: Annotated[bool, Query(description="Check and preview the job; do not create it.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> JobDocument | JobPreview:
    """Begin a search over models of a data set."""
    if not creation.is_split_known(specification):
        await computing.run(partial(creation.split_ahead, context, specification))
    if validate_only:
        response.status_code = 200
        return await to_thread.run_sync(service.preview, context, specification)
    created = await to_thread.run_sync(service.create, context, specification, idempotency_key)
    response.headers["Location"] = created.links["self"]
    response.headers["Retry-After"] = "5"
    return created


@router.get("/v1/jobs", operation_id="list_jobs", responses=problem_responses(422))
def list_jobs(
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    filters: FiltersDependency,
    *,
    state: Annotated[
        list[JobState] | None,
        Query(max_length=20, description="Only jobs in one of these states. Repeatable."),
    ] = None,
    dataset_id: DatasetIdFilter = None,
    include: Annotated[
        list[Literal["curve"]] | None,
        Query(max_length=5, description="`curve`: add a small learning curve of the best model of each job."),
    ] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[JobDocument]:
    """List jobs, newest first."""
    with database.read() as session:
        return service.list_page(
            session,
            tenant_id,
            filters,
            state=state or (),
            dataset_id=dataset_id,
            with_curves=bool(include),
            page_size=page_size,
            page_token=page_token,
        )


@router.get("/v1/jobs/{job_id}", operation_id="get_job", responses=problem_responses(404))
async def get_job(
    job_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    feed: FeedDependency,
    prefer: Prefer = None,
) -> JobDocument:
    """Read a job: its state, its progress, and the selected model once it is done."""

    def read() -> JobDocument:
        with database.read() as session:
            return service.document(session, service.find(session, tenant_id, job_id))

    return await wait_for(feed, Job, read, lambda found: found.state.is_final, prefer)


@router.patch(
    "/v1/jobs/{job_id}", operation_id="change_job", responses=problem_responses(400, 404, 409, 413, 415, 422)
)
def change_job(
    job_id: str,
    changes: Annotated[JobChanges, Body(openapi_examples=LABEL_CHANGES)],
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    settings: SettingsDependency,
) -> JobDocument:
    """Change the name, the notes, the tags or the priority of a job."""
    with database.write() as session:
        return service.amend(session, settings, tenant_id, job_id, changes)


@router.delete("/v1/jobs/{job_id}", operation_id="delete_job", status_code=202, responses=DELETES)
def delete_job(
    job_id: str, response: Response, context: ContextDependency, dry_run: DryRun = False
) -> DeletionDocument:
    """Delete a job that has ended, with its models, their weights and latents, and their inferences, in the background."""
    find = partial(service.find, tenant_id=context.tenant_id, job_id=job_id)
    response.status_code = 200 if dry_run else 202
    return deletion.delete_job(context, find, dry_run=dry_run)


_CHANGES_STATE = problem_responses(404, 409, 413)


@router.post("/v1/jobs/{job_id}:pause", operation_id="pause_job", responses=_CHANGES_STATE)
def pause_job(job_id: str, database: DatabaseDependency, tenant_id: TenantDependency) -> JobDocument:
    """Pause a job. Models in training finish their epoch, and their weights are kept. Paused time does not count."""
    with database.write() as session:
        return service.change_state(session, tenant_id, job_id, lifecycle.pause)


@router.post("/v1/jobs/{job_id}:resume", operation_id="resume_job", responses=_CHANGES_STATE)
def resume_job(job_id: str, database: DatabaseDependency, tenant_id: TenantDependency) -> JobDocument:
    """Resume a paused job where it was."""
    with database.write() as session:
        return service.change_state(session, tenant_id, job_id, lifecycle.resume)


@router.post("/v1/jobs/{job_id}:stop", operation_id="stop_job", responses=_CHANGES_STATE)
def stop_job(job_id: str, database: DatabaseDependency, tenant_id: TenantDependency) -> JobDocument:
    """End the training of a job: select the best model so far and compute its latents."""
    with database.write() as session:
        return service.change_state(session, tenant_id, job_id, lifecycle.stop)


@router.post("/v1/jobs/{job_id}:cancel", operation_id="cancel_job", responses=_CHANGES_STATE)
def cancel_job(job_id: str, database: DatabaseDependency, tenant_id: TenantDependency) -> JobDocument:
    """Cancel a job now. Results of its models so far stay readable; latents are not computed."""
    with database.write() as session:
        return service.change_state(session, tenant_id, job_id, lifecycle.cancel)


@router.post("/v1/jobs/{job_id}:retry", operation_id="retry_job", responses=_CHANGES_STATE)
def retry_job(
    job_id: str, database: DatabaseDependency, tenant_id: TenantDependency, settings: SettingsDependency
) -> JobDocument:
    """Continue a job that failed or was cancelled, from the last weights of its models."""
    with database.write() as session:
        return service.retry(session, settings, tenant_id, job_id)


@router.post(
    "/v1/jobs/{job_id}:extend",
    operation_id="extend_job",
    responses=problem_responses(400, 404, 409, 413, 415, 422),
)
def extend_job(
    job_id: str,
    more: BudgetExtension,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    settings: SettingsDependency,
    idempotency_key: IdempotencyKey = None,
) -> JobDocument:
    """Add to the budget of a job, which may be done: models that have trained all their epochs continue, and new models begin."""
    with database.write() as session:
        return service.extend(session, settings, tenant_id, job_id, more, idempotency_key)


@router.get("/v1/jobs/{job_id}/models", operation_id="list_models", responses=problem_responses(404, 422))
def list_models(
    job_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> Page[ModelDocument]:
    """List the models of a job with their hyperparameters and scores."""
    with database.read() as session:
        job = service.find(session, tenant_id, job_id)
        return service.list_models(session, job, page_size, page_token)


@router.get(
    "/v1/jobs/{job_id}/events", operation_id="list_events", responses=problem_responses(404, 410, 422)
)
def list_events(
    job_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    newest_first: Annotated[bool, Query(description="Whether the last event comes first.")] = False,
) -> Page[EventDocument]:
    """List the events of a job so far, in order. `events/stream` also sends later events."""
    with database.read() as session:
        service.find(session, tenant_id, job_id)
        return service.list_events(session, job_id, page_size, page_token, newest_first=newest_first)


@router.get(
    "/v1/jobs/{job_id}/events/stream",
    operation_id="stream_events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events; the data of each is an EventDocument.",
            "content": {"text/event-stream": {"schema": _SERVER_SENT_EVENT}},
        },
        **problem_responses(404, 410, 422, 429),
    },
)
async def stream_events(
    job_id: str,
    caller: CallerDependency,
    database: DatabaseDependency,
    settings: SettingsDependency,
    feed: FeedDependency,
    last_event_id: Annotated[
        str | None, Header(description="Id of the last event you have; later events follow.")
    ] = None,
    replay: Annotated[
        bool, Query(description="Whether to begin with the first event. `false` sends only new events.")
    ] = True,
) -> Response:
    """Stream the events of a job, from the first or from `Last-Event-ID`, until the job ends.

    If the stream ends before the job, its last message has the field `retry`: connect again with `Last-Event-ID`.
    """
    given = _event_id(last_event_id)

    def check_job() -> int:
        with database.read() as session:
            job = service.find(session, caller.tenant_id, job_id)
            if given:
                return given
            service.require_events(session, job)
            return 0 if replay else service.last_event_id(session, job_id)

    after = await to_thread.run_sync(check_job)
    listener = StreamListener(job_id, caller.tenant_id, caller.key_id, after)
    return EventStream(feed, database, listener, settings.streams_per_key)


def _event_id(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        message = f"expected the id of an event, an integer; got {text!r}"
        raise Invalid(
            f"Last-Event-ID: {message}",
            errors=[FieldProblem(pointer="Last-Event-ID", code="event_id", message=message)],
        )
    return int(text)
