"""Resumable uploads: the protocol tus 1.0.0 (https://tus.io/protocols/resumable-upload)."""

import base64
import binascii
from collections.abc import Callable, Coroutine
from email.utils import format_datetime
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from api.dependencies import DatabaseDependency, OriginalsDependency, SettingsDependency, TenantDependency
from api.errors import (
    BadRequest,
    Invalid,
    Problem,
    UnsupportedMediaType,
    WrongState,
    WrongTusVersion,
    problem_responses,
)
from api.idempotency import IdempotencyKey
from api.uploads import receiving, service
from api.uploads.schemas import UploadDocument
from api.validation_errors import FieldProblem
from store.database import Database
from store.originals import OriginalStore
from store.settings import Settings
from store.tables import Upload
from store.uploads import delete_stray_partials

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination"
_PIECE = "application/offset+octet-stream"
_MOST_METADATA = 4096

TusVersion = Annotated[
    str | None, Header(alias="Tus-Resumable", description=f"Version of the protocol: {VERSION}.")
]
UploadChecksum = Annotated[
    str | None,
    Header(
        alias="Upload-Checksum",
        description="Of the bytes of this request: `sha256` or `sha1`, a space, the digest in Base64.",
    ),
]

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _TusRoute(APIRoute):
    """A route whose answers, problems too, name the version of the protocol."""

    def get_route_handler(self) -> _Handler:
        """Wrap the handler."""
        handle = super().get_route_handler()

        async def handle_and_name(request: Request) -> Response:
            try:
                answer = await handle(request)
            except Problem as problem:
                problem.headers = {**(problem.headers or {}), "Tus-Resumable": VERSION}
                raise
            answer.headers["Tus-Resumable"] = VERSION
            return answer

        return handle_and_name


router = APIRouter(tags=["uploads"], route_class=_TusRoute)

_PIECE_BODY = {
    "description": "Bytes of the file, from the offset on.",
    "content": {_PIECE: {"schema": {"type": "string", "format": "binary"}}},
}


@router.options("/v1/uploads", operation_id="describe_uploads", status_code=204)
def describe_uploads(settings: SettingsDependency) -> Response:
    """Say what of the tus protocol is offered, and how large a file may be."""
    return Response(
        status_code=204,
        headers={
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(settings.upload_max_bytes),
            "Tus-Checksum-Algorithm": ",".join(receiving.CHECKSUMS),
        },
    )


@router.post(
    "/v1/uploads",
    operation_id="begin_upload",
    status_code=201,
    response_model=UploadDocument,
    openapi_extra={"requestBody": {**_PIECE_BODY, "required": False}},
    responses=problem_responses(400, 404, 409, 410, 412, 413, 415, 422, 423, 460),
)
async def begin_upload(
    request: Request,
    database: DatabaseDependency,
    settings: SettingsDependency,
    originals: OriginalsDependency,
    tenant_id: TenantDependency,
    upload_length: Annotated[
        int | None, Header(alias="Upload-Length", gt=0, le=2**62, description="Bytes of the whole file.")
    ] = None,
    upload_metadata: Annotated[
        str,
        Header(
            alias="Upload-Metadata",
            max_length=_MOST_METADATA,
            description="`filename`, a space, the name in Base64; further pairs after commas are kept, not used.",
        ),
    ] = "",
    tus_resumable: TusVersion = None,
    upload_checksum: UploadChecksum = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Begin a resumable upload (tus `creation`); the body may be its first bytes."""
    _check_version(tus_resumable)
    checksum = receiving.Checksum.parse(upload_checksum)
    has_bytes = _brings_piece(request)
    if upload_length is None:
        message = "expected the size of the file in bytes; there is none"
        raise Invalid(
            message, errors=[FieldProblem(pointer="Upload-Length", code="missing", message=message)]
        )
    filename = _filename(upload_metadata)

    def create() -> Upload:
        delete_stray_partials(settings)  # of this machine, which no worker may see
        with database.write() as session:
            return service.create(
                session, tenant_id, settings, upload_length, filename, upload_metadata, idempotency_key
            )

    row = await to_thread.run_sync(create)
    if has_bytes and service.offset(row, settings) == 0:
        row = await _append(request, database, settings, originals, row, 0, checksum)
    document = service.document(row, settings, originals)
    headers = {
        "Location": document.links["self"],
        "Upload-Offset": str(document.offset),
        "Upload-Expires": _http_date(row),
    }
    return JSONResponse(document.model_dump(mode="json"), status_code=201, headers=headers)


@router.head(
    "/v1/uploads/{upload_id}",
    operation_id="read_upload_offset",
    status_code=200,
    response_class=Response,
    responses={**problem_responses(404, 410, 412), 200: {"description": "Only headers."}},
)
def read_upload_offset(
    upload_id: str,
    database: DatabaseDependency,
    settings: SettingsDependency,
    tenant_id: TenantDependency,
    tus_resumable: TusVersion = None,
) -> Response:
    """Say in headers how many bytes came: where to go on."""
    _check_version(tus_resumable)
    with database.read() as session:
        row = service.find(session, tenant_id, upload_id)
    headers = {
        "Upload-Offset": str(service.offset(row, settings)),
        "Upload-Length": str(row.size_bytes),
        "Upload-Expires": _http_date(row),
        "Cache-Control": "no-store",
    }
    if row.tus_metadata:
        headers["Upload-Metadata"] = row.tus_metadata
    return Response(status_code=200, headers=headers)


@router.patch(
    "/v1/uploads/{upload_id}",
    operation_id="continue_upload",
    status_code=204,
    openapi_extra={"requestBody": {**_PIECE_BODY, "required": True}},
    responses=problem_responses(400, 404, 409, 410, 412, 413, 415, 422, 423, 460),
)
async def continue_upload(
    upload_id: str,
    request: Request,
    database: DatabaseDependency,
    settings: SettingsDependency,
    originals: OriginalsDependency,
    tenant_id: TenantDependency,
    upload_offset: Annotated[
        int | None,
        Header(
            alias="Upload-Offset", ge=0, le=2**62, description="Where the bytes go: how many came so far."
        ),
    ] = None,
    tus_resumable: TusVersion = None,
    upload_checksum: UploadChecksum = None,
) -> Response:
    """Send the next bytes of an upload; what arrives before a connection breaks is kept."""
    _check_version(tus_resumable)
    checksum = receiving.Checksum.parse(upload_checksum)
    if request.headers.get("content-type", "").partition(";")[0].strip() != _PIECE:
        raise _wrong_type(request)
    if upload_offset is None:
        message = "expected where the bytes go; HEAD says how many came so far"
        raise Invalid(
            message, errors=[FieldProblem(pointer="Upload-Offset", code="missing", message=message)]
        )

    def find() -> Upload:
        with database.read() as session:
            return service.find(session, tenant_id, upload_id)

    row = await to_thread.run_sync(find)
    row = await _append(request, database, settings, originals, row, upload_offset, checksum)
    headers = {"Upload-Offset": str(service.offset(row, settings)), "Upload-Expires": _http_date(row)}
    return Response(status_code=204, headers=headers)


@router.delete(
    "/v1/uploads/{upload_id}",
    operation_id="delete_upload",
    status_code=204,
    responses=problem_responses(404, 409, 410, 412, 423),
)
def delete_upload(
    upload_id: str,
    database: DatabaseDependency,
    settings: SettingsDependency,
    originals: OriginalsDependency,
    tenant_id: TenantDependency,
    tus_resumable: TusVersion = None,
) -> Response:
    """Give an upload up; a data set that was made of it stays."""
    _check_version(tus_resumable)
    with database.write() as session:
        service.end(session, tenant_id, settings, originals, upload_id)
    return Response(status_code=204)


async def _append(
    request: Request,
    database: Database,
    settings: Settings,
    originals: OriginalStore,
    row: Upload,
    at: int,
    checksum: receiving.Checksum | None,
) -> Upload:
    """Write the body of a request to an upload; store the whole when it is there."""
    tenant_id, upload_id = row.tenant_id, row.id
    held = service.writing(database, settings, tenant_id, upload_id)
    async with contextmanager_in_threadpool(held) as (row, descriptor):
        came = service.offset(row, settings)
        if at != came:
            raise WrongState(
                f"Upload-Offset is {at}; of the upload {upload_id}, which is {row.state}, {came} bytes came so far",
                hint="go on from there",
                headers={"Upload-Offset": str(came)},
            )
        size = await receiving.append(descriptor, request.stream(), row.size_bytes - came, checksum)
        if size == row.size_bytes:
            row = await to_thread.run_sync(
                service.store_whole, database, originals, settings, tenant_id, upload_id
            )
    return row


def _check_version(version: str | None) -> None:
    if version != VERSION:
        raise WrongTusVersion(
            f"expected the header Tus-Resumable: {VERSION}; got {version or 'none'}",
            hint="to send a file in one request without the protocol: PUT /v1/uploads",
            headers={"Tus-Version": VERSION},
        )


def _brings_piece(request: Request) -> bool:
    """Whether a request has bytes of the file for its body; any other body is refused."""
    length = request.headers.get("content-length", "0")
    if length == "0" and "transfer-encoding" not in request.headers:
        return False
    if request.headers.get("content-type", "").partition(";")[0].strip() != _PIECE:
        raise _wrong_type(request)
    return True


def _wrong_type(request: Request) -> UnsupportedMediaType:
    came = request.headers.get("content-type", "no type")
    return UnsupportedMediaType(
        f"expected bytes of a file, marked as {_PIECE}; they came as {came}",
        hint=f"add the header Content-Type: {_PIECE}",
    )


def _filename(metadata: str) -> str:
    """The name of the file, of an `Upload-Metadata`: pairs of a key and a value in Base64."""
    for pair in metadata.split(","):
        key, _, encoded = pair.strip().partition(" ")
        if key != "filename":
            continue
        try:
            name = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError):
            raise BadRequest(
                f"Upload-Metadata: expected the filename in UTF-8 and Base64; got {encoded!r}"
            ) from None
        if len(name) > 200 or "\x00" in name:
            raise BadRequest("Upload-Metadata: expected a filename of at most 200 characters, without NUL")
        return name
    return ""


def _http_date(row: Upload) -> str:
    return format_datetime(row.expires_at, usegmt=True)
