"""Routes of data sets."""

from collections.abc import AsyncIterator
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import Example
from pydantic import ValidationError
from starlette.datastructures import UploadFile as ReceivedUpload

from api.datasets import service
from api.datasets.schemas import DatasetDocument, SyntheticSystem, TrialDocument, UploadOptions
from api.dependencies import DatabaseDependency, SettingsDependency, TenantDependency
from api.errors import Invalid, problem_responses
from api.field_problems import FieldProblem
from api.idempotency import IdempotencyKey
from api.pagination import Page, PageSize, PageToken
from api.waiting import Prefer, wait_for
from store.states import DatasetState

router = APIRouter(tags=["data sets"])

_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file: as the body itself, or as the part `file` of a form.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string"},
                        "format": {"enum": ["npz", "lfads_hdf5"]},
                        "bin_width_s": {"type": "number", "exclusiveMinimum": 0},
                    },
                    "required": ["file"],
                    "additionalProperties": False,
                }
            },
        },
    }
}

_SYSTEMS: dict[str, Example] = {
    "paper": {"summary": "The Lorenz data of the paper", "value": {"system": "lorenz"}},
    "small": {
        "summary": "A small one, for a first try",
        "value": {"system": "lorenz", "conditions": 10, "trials_per_condition": 10, "neurons": 30, "seed": 1},
    },
    "chaotic": {"summary": "The strongly chaotic network of the paper", "value": {"system": "chaotic_rnn"}},
    "driven": {
        "summary": "A network with two inputs to infer",
        "value": {"system": "driven", "inputs": 2, "conditions": 100},
    },
    "second_session": {
        "summary": "The second of two sessions of one system",
        "value": {"system": "two_sessions", "session": 1, "neurons": 23},
    },
}


@router.post(
    "/v1/datasets",
    operation_id="upload_dataset",
    status_code=202,
    openapi_extra=_UPLOAD_BODY,
    responses=problem_responses(400, 413, 422),
)
async def upload_dataset(
    request: Request,
    response: Response,
    options: Annotated[UploadOptions, Query()],
    database: DatabaseDependency,
    settings: SettingsDependency,
    tenant_id: TenantDependency,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDocument:
    """Upload a file of spikes (NPZ, or HDF5 in the LFADS layout); it is parsed and checked in the background."""
    is_form = request.headers.get("content-type", "").startswith("multipart/form-data")
    if is_form:
        async with request.form(max_files=1, max_fields=10) as form:
            file = form.get("file")
            if not isinstance(file, ReceivedUpload):
                message = f"expected a part named `file` with a file; got {sorted(form) or 'no parts'}"
                raise Invalid(
                    message, errors=[FieldProblem(pointer="/file", code="missing", message=message)]
                )
            fields = {key: value for key, value in form.items() if key != "file" and value != ""}
            options = _form_options(options, {"filename": file.filename or "", **fields})
            received = await service.receive(_chunks(file), settings)
    else:
        received = await service.receive(request.stream(), settings)

    def create() -> DatasetDocument:
        try:
            with database.write() as session:
                return service.create_from_upload(
                    session, tenant_id, received, options, idempotency_key, settings
                )
        finally:
            received.path.unlink(missing_ok=True)

    created = await to_thread.run_sync(create)
    _accepted(response, created)
    return created


@router.post(
    "/v1/datasets:synthesize",
    operation_id="synthesize_dataset",
    status_code=202,
    responses=problem_responses(400, 413, 415, 422),
)
def synthesize_dataset(
    system: Annotated[SyntheticSystem, Body(discriminator="system", openapi_examples=_SYSTEMS)],
    response: Response,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDocument:
    """Make a synthetic data set whose true rates are known."""
    with database.write() as session:
        created = service.create_synthetic(session, tenant_id, system, idempotency_key)
    _accepted(response, created)
    return created


@router.get("/v1/datasets", operation_id="list_datasets", responses=problem_responses(422))
def list_datasets(
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[DatasetDocument]:
    """List data sets, newest first."""
    with database.read() as session:
        return service.list_page(session, tenant_id, page_size, page_token)


@router.get("/v1/datasets/{dataset_id}", operation_id="get_dataset", responses=problem_responses(404))
async def get_dataset(
    dataset_id: str, database: DatabaseDependency, tenant_id: TenantDependency, prefer: Prefer = None
) -> DatasetDocument:
    """Read a data set: its state, and the report or the reasons of its rejection."""

    def read() -> DatasetDocument:
        with database.read() as session:
            return service.document(service.find(session, tenant_id, dataset_id))

    return await wait_for(read, lambda found: found.state != DatasetState.INGESTING, prefer)


@router.get(
    "/v1/datasets/{dataset_id}/trials", operation_id="list_trials", responses=problem_responses(404, 409, 422)
)
def list_trials(
    dataset_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> Page[TrialDocument]:
    """List the trials of a data set, in the order given, with their metadata."""
    with database.read() as session:
        service.find_ready(session, tenant_id, dataset_id)
        return service.list_trials(session, dataset_id, page_size, page_token)


def _accepted(response: Response, created: DatasetDocument) -> None:
    response.headers["Location"] = created.links["self"]
    response.headers["Retry-After"] = "1"


def _form_options(options: UploadOptions, fields: dict[str, object]) -> UploadOptions:
    try:
        return UploadOptions.model_validate({**fields, **options.model_dump(exclude_unset=True)})
    except ValidationError as error:
        details = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(details, body=fields) from error


async def _chunks(file: ReceivedUpload) -> AsyncIterator[bytes]:
    while chunk := await file.read(2**20):
        yield chunk
