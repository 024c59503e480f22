"""Routes of data sets."""

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Any, get_args

from anyio import to_thread
from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.openapi.models import Example
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile as ReceivedUpload
from starlette.exceptions import HTTPException

from api import deletion
from api.arrays.grammar import MOST_CONDITIONS, WHERE_DESCRIPTION
from api.datasets import service
from api.datasets.combine import Combination, combine
from api.datasets.files import create_from_file, create_from_upload, merged_options
from api.datasets.schemas import (
    DatasetDocument,
    Derivation,
    SyntheticSystem,
    TrialDocument,
    UploadFields,
    UploadReference,
)
from api.datasets.service import DatasetFilters
from api.deletion import DELETES, Cascade, DeletionDocument, DryRun
from api.dependencies import Context, ContextDependency, DatabaseDependency, FeedDependency, TenantDependency
from api.errors import BadRequest, CarriedProblem, Invalid, problem_responses
from api.events.long_poll import Prefer, wait_for
from api.http.idempotency import IdempotencyKey
from api.http.on_loop import on_loop
from api.http.pagination import FiltersDependency, Page, PageSize, PageToken
from api.json_bodies import JsonRoute
from api.labels import LABEL_CHANGES, LabelChanges
from api.limits.disk import DiskWatch
from api.limits.request_turns import without_turn
from api.uploads.receiving import ReceivedFile, expected_sha256, receive
from api.uploads.routes import ContentDigest, ReprDigest, body_size
from api.uploads.service import reserved
from api.validation_errors import read_json, read_model
from domain.dataset_options import DatasetOptions, FileFormat
from domain.states import DatasetState
from store.settings import Settings
from store.tables import Dataset

router = APIRouter(tags=["data sets"], route_class=JsonRoute)

_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file as the body itself or as the part `file` of a form; or a JSON document that names an upload.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string"},
                        "notes": {"type": "string"},
                        "tags": {"type": "array", "items": {"type": "string"}},
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
                    "description": "A request to make a data set from a complete upload.",
                    "properties": {
                        "upload_id": {"type": "string"},
                        "name": {"type": "string"},
                        "notes": {"type": "string"},
                        "tags": {"type": "array", "items": {"type": "string"}},
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
        "summary": "Trials aligned to another event",
        "value": {"name": "from go cue", "options": {"trials": {"align_to": "go_cue_time"}}},
    }
}

_FOUND: dict[int | str, dict[str, Any]] = {
    200: {"model": DatasetDocument, "description": "The existing data set of equal content."}
}

_COMBINATIONS: dict[str, Example] = {
    "two_days": {
        "summary": "Two days of one animal",
        "value": {
            "name": "both days",
            "dataset_ids": ["dat_0192f3c4a5b6aabbccddeeff", "dat_0192f3c4a5b6001122334455"],
        },
    }
}

_SYSTEMS: dict[str, Example] = {
    "paper": {"summary": "The Lorenz data of the paper", "value": {"system": "lorenz"}},
    "small": {
        "summary": "A small data set for a first test",
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
    responses=_FOUND | problem_responses(400, 404, 409, 410, 413, 415, 422),
)
async def upload_dataset(
    request: Request,
    response: Response,
    fields: Annotated[UploadFields, Query()],
    context: ContextDependency,
    *,
    content_digest: ContentDigest = None,
    repr_digest: ReprDigest = None,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDocument:
    """Upload a file of spikes, or name an existing upload. The service reads and checks the file in the background.

    The same bytes with the same options are the same data set: if it exists, the response is 200 and the existing data set.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip()
    digest = expected_sha256(content_digest, repr_digest)
    if content_type == "application/json":
        body = await request.body()
        reference = await to_thread.run_sync(_read_reference, body, fields)
        created = await to_thread.run_sync(create_from_upload, context, reference, idempotency_key)
        return respond(response, created)
    is_form = content_type == "multipart/form-data"
    if is_form and content_digest is not None:
        message = (
            "Content-Digest is the digest of the whole form; send Repr-Digest with the digest of the file"
        )
        raise Invalid.field("Content-Digest", "form", message)
    async with contextmanager_in_threadpool(reserved(context, body_size(request))):
        if is_form:
            fields, options, received = await _receive_form(request, fields, context, digest)
        else:
            fields, options = await to_thread.run_sync(_read_fields, fields)
            received = await receive(request.stream(), context.settings, digest)
    created = await to_thread.run_sync(create_from_file, context, received, fields, options, idempotency_key)
    return respond(response, created)


@router.post(
    "/v1/datasets/{dataset_id}:derive",
    operation_id="derive_dataset",
    status_code=202,
    responses=_FOUND | problem_responses(400, 404, 409, 413, 415, 422),
)
def derive_dataset(
    dataset_id: str,
    derivation: Annotated[Derivation, Body(openapi_examples=_DERIVATIONS)],
    response: Response,
    context: ContextDependency,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDocument:
    """Create another data set from the same file, with changed options. This also works for rejected data sets."""
    with context.database.write() as session:
        created = service.derive(
            session, context.settings, context.tenant_id, dataset_id, derivation, idempotency_key
        )
    return respond(response, created)


@router.post(
    "/v1/datasets/{dataset_id}:retry",
    operation_id="retry_dataset",
    status_code=202,
    responses=problem_responses(404, 409),
)
def retry_dataset(
    dataset_id: str, response: Response, database: DatabaseDependency, tenant_id: TenantDependency
) -> DatasetDocument:
    """Read the file of a failed data set again, after the service is repaired."""
    with database.write() as session:
        found = service.retry(session, tenant_id, dataset_id)
    return respond(response, service.Creation(found, is_new=True))


@router.post(
    "/v1/datasets:synthesize",
    operation_id="synthesize_dataset",
    status_code=202,
    responses=_FOUND | problem_responses(400, 409, 413, 415, 422),
)
def synthesize_dataset(
    system: Annotated[SyntheticSystem, Body(discriminator="system", openapi_examples=_SYSTEMS)],
    response: Response,
    context: ContextDependency,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDocument:
    """Create a synthetic data set with known rates. The same parameters give the same data set."""
    with context.database.write() as session:
        created = service.create_synthetic(
            session, context.settings, context.tenant_id, system, idempotency_key
        )
    return respond(response, created)


@router.post(
    "/v1/datasets:combine",
    operation_id="combine_datasets",
    status_code=202,
    responses=_FOUND | problem_responses(400, 404, 409, 413, 415, 422),
)
def combine_datasets(
    combination: Annotated[Combination, Body(openapi_examples=_COMBINATIONS)],
    response: Response,
    context: ContextDependency,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDocument:
    """Combine data sets into one data set of several sessions. The same sessions in the same order are the same data set."""
    with context.database.write() as session:
        created = combine(session, context.settings, context.tenant_id, combination, idempotency_key)
    return respond(response, created)


@router.get("/v1/datasets", operation_id="list_datasets", responses=problem_responses(422))
def list_datasets(
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    filters: FiltersDependency,
    wanted: Annotated[DatasetFilters, on_loop(DatasetFilters)],
    *,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[DatasetDocument]:
    """List data sets, newest first."""
    with database.read() as session:
        return service.list_page(
            session, tenant_id, filters, wanted, page_size=page_size, page_token=page_token
        )


@router.get("/v1/datasets/{dataset_id}", operation_id="get_dataset", responses=problem_responses(404))
async def get_dataset(
    dataset_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    feed: FeedDependency,
    prefer: Prefer = None,
) -> DatasetDocument:
    """Return a data set: its state, and its report or the reasons for its rejection."""

    def read() -> DatasetDocument:
        with database.read() as session:
            return service.document(service.find(session, tenant_id, dataset_id))

    return await wait_for(feed, Dataset, read, lambda found: found.state != DatasetState.INGESTING, prefer)


@router.delete("/v1/datasets/{dataset_id}", operation_id="delete_dataset", status_code=202, responses=DELETES)
def delete_dataset(
    dataset_id: str,
    response: Response,
    context: ContextDependency,
    *,
    cascade: Cascade = False,
    dry_run: DryRun = False,
) -> DeletionDocument:
    """Delete a data set with its arrays, and its file unless another data set uses it. The service does it in the background."""
    find = partial(service.find, tenant_id=context.tenant_id, dataset_id=dataset_id)
    response.status_code = 200 if dry_run else 202
    return deletion.delete_dataset(context, find, cascade=cascade, dry_run=dry_run)


@router.patch(
    "/v1/datasets/{dataset_id}",
    operation_id="change_dataset",
    responses=problem_responses(400, 404, 409, 413, 415, 422),
)
def change_dataset(
    dataset_id: str,
    changes: Annotated[LabelChanges, Body(openapi_examples=LABEL_CHANGES)],
    context: ContextDependency,
) -> DatasetDocument:
    """Change the name, the notes or the tags of a data set. They are no part of its content."""
    with context.database.write() as session:
        return service.amend(session, context.settings, context.tenant_id, dataset_id, changes)


@router.get(
    "/v1/datasets/{dataset_id}/trials", operation_id="list_trials", responses=problem_responses(404, 409, 422)
)
def list_trials(
    dataset_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    where: Annotated[
        list[str], Query(default_factory=list, max_length=MOST_CONDITIONS, description=WHERE_DESCRIPTION)
    ],
    *,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> Page[TrialDocument]:
    """List the trials of a data set that satisfy the conditions, in your order, with their metadata."""
    with database.read() as session:
        service.find_ready(session, tenant_id, dataset_id)
        return service.list_trials(session, dataset_id, where, page_size, page_token)


def respond(response: Response, created: service.Creation) -> DatasetDocument:
    """Set the status to 202 for a new data set and to 200 for an existing one, and return the document."""
    response.headers["Location"] = created.document.links["self"]
    response.status_code = 202 if created.is_new else 200
    if created.document.state == DatasetState.INGESTING:
        response.headers["Retry-After"] = "1"
    return created.document


def _read_fields(
    fields: UploadFields, parts: dict[str, Any] | None = None
) -> tuple[UploadFields, DatasetOptions]:
    """Return the fields of a query and of the parts of a form, and the options in them."""
    if parts is not None:
        fields = read_model(UploadFields, {**parts, **fields.model_dump(exclude_unset=True)}, body=parts)
    return fields, merged_options(fields)


def _read_reference(body: bytes, fields: UploadFields) -> UploadReference:
    if fields.model_fields_set:
        name = sorted(fields.model_fields_set)[0]
        raise Invalid.field(name, "in_query", "expected this field in the JSON body, not in the query")

    def refuse(reason: str) -> BadRequest:
        return BadRequest(
            f"expected JSON; {reason}", hint="send a file as Content-Type: application/octet-stream"
        )

    return read_model(UploadReference, read_json(body, refuse))


_MOST_FIELDS, _MOST_FIELD_BYTES = 30, 256 * 2**10
"""Limits of a form besides its file. python-multipart limits the headers of a part: 8 of at most 4 KiB."""


class _FormRequest(Request):
    """A request whose form may not fill the disk: the framework writes its file to the temporary folder."""

    def __init__(self, request: Request, settings: Settings) -> None:
        super().__init__(request.scope, request.receive)
        self._settings, self._folder = settings, Path(gettempdir())

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body, or raise `DiskFull`."""
        disk = DiskWatch(self._settings, self._folder)
        async for chunk in super().stream():
            await disk.count(len(chunk))
            yield chunk


async def _receive_form(
    request: Request, fields: UploadFields, context: Context, digest: str | None
) -> tuple[UploadFields, DatasetOptions, ReceivedFile]:
    """Receive a form; return the fields of query and form, the options, and the file."""
    _require_utf8(request.headers["content-type"])
    request = _FormRequest(request, context.settings)
    async with without_turn():
        try:
            await request.form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=_MOST_FIELD_BYTES)
        except CarriedProblem:
            raise
        except HTTPException as error:
            raise BadRequest(
                f"the form cannot be read: {error.detail}",
                hint=f"send one part `file` and at most {_MOST_FIELDS} others of at most {_MOST_FIELD_BYTES} bytes; each part "
                "may have 8 headers of at most 4 KiB",
            ) from None
    async with request.form() as form:
        file = form.get("file")
        if not isinstance(file, ReceivedUpload):
            message = f"expected a part named `file` with a file; got {sorted(form) or 'no parts'}"
            raise Invalid.field("/file", "missing", message)
        parts: dict[str, Any] = {key: value for key, value in form.items() if key != "file" and value != ""}
        parts = {"filename": file.filename or "", **parts}
        if tags := form.getlist("tags"):
            parts["tags"] = tags
        fields, options = await to_thread.run_sync(_read_fields, fields, parts)
        return fields, options, await receive(_chunks(file), context.settings, digest)


def _require_utf8(content_type: str) -> None:
    """Raise `Invalid` if a form names another character set: the framework would decode its fields, for minutes with Punycode."""
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8"):
        message = f"expected a form in UTF-8; got charset={charset[:40]!r}"
        raise Invalid.field("Content-Type", "charset", message, "leave out `charset`")


async def _chunks(file: ReceivedUpload) -> AsyncIterator[bytes]:
    while chunk := await file.read(2**20):
        yield chunk
