"""Routes of data sets."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, get_args

from anyio import to_thread
from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.openapi.models import Example
from starlette.datastructures import UploadFile as ReceivedUpload

from api.arrays.where import DESCRIPTION, MOST_CONDITIONS
from api.datasets import service
from api.datasets.files import create_from_file, create_from_upload
from api.datasets.options import merged_options, read_json, read_model
from api.datasets.schemas import (
    DatasetDocument,
    Derivation,
    SyntheticSystem,
    TrialDocument,
    UploadFields,
    UploadReference,
)
from api.dependencies import DatabaseDependency, OriginalsDependency, SettingsDependency, TenantDependency
from api.errors import BadRequest, Invalid, problem_responses
from api.idempotency import IdempotencyKey
from api.long_poll import Prefer, wait_for
from api.pagination import FiltersDependency, Page, PageSize, PageToken
from api.uploads.direct_routes import ContentDigest, ReprDigest
from api.uploads.receiving import receive, told_sha256
from api.validation_errors import FieldProblem
from domain.dataset_options import FileFormat
from domain.states import DatasetState

router = APIRouter(tags=["data sets"])

_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file: as the body itself, or as the part `file` of a form; or the name of an upload.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string"},
                        "format": {"enum": list(get_args(FileFormat))},
                        "bin_width_s": {"type": "number", "exclusiveMinimum": 0},
                        "options": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"$ref": "#/components/schemas/DatasetOptions"},
                        },
                    },
                    "required": ["file"],
                    "additionalProperties": False,
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "A data set to make of an upload that is complete.",
                    "properties": {
                        "upload_id": {"type": "string"},
                        "name": {"type": "string"},
                        "options": {"$ref": "#/components/schemas/DatasetOptions"},
                    },
                    "required": ["upload_id"],
                    "additionalProperties": False,
                },
                "examples": {
                    "upload": {
                        "summary": "An upload, with trials aligned to an event",
                        "value": {
                            "upload_id": "upl_0192f3c4a5b6aabbccddeeff",
                            "options": {"trials": {"align_to": "go_cue_time", "window_s": [-0.25, 0.75]}},
                        },
                    }
                },
            },
        },
    }
}

_DERIVATIONS: dict[str, Example] = {
    "window": {
        "summary": "Other trials of the same file",
        "value": {"name": "from go cue", "options": {"trials": {"align_to": "go_cue_time"}}},
    }
}

FOUND: dict[int | str, dict[str, Any]] = {
    200: {"model": DatasetDocument, "description": "The data set there was of this content already."}
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
    responses=FOUND | problem_responses(400, 404, 409, 410, 413, 415, 422),
)
async def upload_dataset(
    request: Request,
    response: Response,
    fields: Annotated[UploadFields, Query()],
    database: DatabaseDependency,
    settings: SettingsDependency,
    originals: OriginalsDependency,
    tenant_id: TenantDependency,
    content_digest: ContentDigest = None,
    repr_digest: ReprDigest = None,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDocument:
    """Upload a file of spikes, or name an upload; it is read and checked in the background.

    The same bytes with the same options are the same data set: if there is one, it is answered with 200.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip()
    digest = told_sha256(content_digest, repr_digest)
    if content_type == "application/json":
        reference = _read_reference(await request.body(), fields)
        made = await to_thread.run_sync(
            create_from_upload, database, originals, settings, tenant_id, reference, idempotency_key
        )
        return answer(response, made)
    if content_type == "multipart/form-data":
        if content_digest is not None:
            message = "a Content-Digest is that of the whole form; send Repr-Digest with that of the file"
            raise Invalid(
                message, errors=[FieldProblem(pointer="Content-Digest", code="form", message=message)]
            )
        async with request.form(max_files=1, max_fields=10) as form:
            file = form.get("file")
            if not isinstance(file, ReceivedUpload):
                message = f"expected a part named `file` with a file; got {sorted(form) or 'no parts'}"
                raise Invalid(
                    message, errors=[FieldProblem(pointer="/file", code="missing", message=message)]
                )
            parts = {key: value for key, value in form.items() if key != "file" and value != ""}
            parts = {"filename": file.filename or "", **parts}
            fields = read_model(UploadFields, {**parts, **fields.model_dump(exclude_unset=True)}, whole=parts)
            options = merged_options(fields)
            received = await receive(_chunks(file), settings, digest)
    else:
        options = merged_options(fields)
        received = await receive(request.stream(), settings, digest)
    made = await to_thread.run_sync(
        create_from_file,
        database,
        originals,
        settings,
        tenant_id,
        received,
        fields.name,
        fields.filename,
        options,
        idempotency_key,
    )
    return answer(response, made)


@router.post(
    "/v1/datasets/{dataset_id}:derive",
    operation_id="derive_dataset",
    status_code=202,
    responses=FOUND | problem_responses(400, 404, 409, 413, 415, 422),
)
def derive_dataset(
    dataset_id: str,
    derivation: Annotated[Derivation, Body(openapi_examples=_DERIVATIONS)],
    response: Response,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDocument:
    """Make another data set of the same file, with changes to the options; this works on rejected data sets too."""
    with database.write() as session:
        made = service.derive(session, tenant_id, dataset_id, derivation, idempotency_key)
    return answer(response, made)


@router.post(
    "/v1/datasets/{dataset_id}:retry",
    operation_id="retry_dataset",
    status_code=202,
    responses=problem_responses(404, 409),
)
def retry_dataset(
    dataset_id: str, response: Response, database: DatabaseDependency, tenant_id: TenantDependency
) -> DatasetDocument:
    """Read the file of a failed data set again, after the service was repaired."""
    with database.write() as session:
        found = service.retry(session, tenant_id, dataset_id)
    return answer(response, service.Made(found, is_new=True))


@router.post(
    "/v1/datasets:synthesize",
    operation_id="synthesize_dataset",
    status_code=202,
    responses=FOUND | problem_responses(400, 413, 415, 422),
)
def synthesize_dataset(
    system: Annotated[SyntheticSystem, Body(discriminator="system", openapi_examples=_SYSTEMS)],
    response: Response,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDocument:
    """Make a synthetic data set whose true rates are known; the same parameters give the same data set."""
    with database.write() as session:
        made = service.create_synthetic(session, tenant_id, system, idempotency_key)
    return answer(response, made)


@router.get("/v1/datasets", operation_id="list_datasets", responses=problem_responses(422))
def list_datasets(
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    filters: FiltersDependency,
    state: Annotated[DatasetState | None, Query(description="Only those in this state.")] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[DatasetDocument]:
    """List data sets, newest first."""
    with database.read() as session:
        return service.list_page(session, tenant_id, filters, state, page_size, page_token)


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
    where: Annotated[
        list[str], Query(default_factory=list, max_length=MOST_CONDITIONS, description=DESCRIPTION)
    ],
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> Page[TrialDocument]:
    """List the trials of a data set, or those of which conditions hold, in the order given, with their metadata."""
    with database.read() as session:
        service.find_ready(session, tenant_id, dataset_id)
        return service.list_trials(session, dataset_id, where, page_size, page_token)


def answer(response: Response, made: service.Made) -> DatasetDocument:
    """Answer 202 with a new data set, or 200 with the one there is."""
    response.headers["Location"] = made.document.links["self"]
    response.status_code = 202 if made.is_new else 200
    if made.document.state == DatasetState.INGESTING:
        response.headers["Retry-After"] = "1"
    return made.document


def _read_reference(body: bytes, fields: UploadFields) -> UploadReference:
    if fields.model_fields_set:
        message = "with a body of JSON everything stands in the body"
        name = sorted(fields.model_fields_set)[0]
        raise Invalid(message, errors=[FieldProblem(pointer=name, code="in_query", message=message)])

    def refuse(reason: str) -> BadRequest:
        return BadRequest(
            f"expected JSON; {reason}", hint="send a file as Content-Type: application/octet-stream"
        )

    return read_model(UploadReference, read_json(body, refuse))


async def _chunks(file: ReceivedUpload) -> AsyncIterator[bytes]:
    while chunk := await file.read(2**20):
        yield chunk
