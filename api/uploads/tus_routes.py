"""Routes of resumable uploads, by the protocol tus 1.0.0 (https://tus.io/protocols/resumable-upload)."""

import base64
import binascii
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from email.utils import format_datetime
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import OperationalError

from api.dependencies import Context, ContextDependency, SettingsDependency
from api.errors import (
    BadRequest,
    DiskFull,
    Invalid,
    Problem,
    UnsupportedMediaType,
    WrongState,
    WrongTusVersion,
    problem_responses,
)
from api.http.idempotency import IdempotencyKey
from api.uploads import receiving, service
from api.uploads.schemas import UploadDocument
from store.disk_errors import is_disk_error
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
        description="Checksum of the bytes of this request: `sha256` or `sha1`, a space, the digest in Base64.",
    ),
]

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _TusRoute(APIRoute):
    """A route whose responses, errors included, name the version of the protocol."""

    def get_route_handler(self) -> _Handler:
        """Wrap the handler."""
        handle = super().get_route_handler()

        async def handle_with_version(request: Request) -> Response:
            try:
                response = await handle(request)
            except Problem as problem:
                problem.headers = {**(problem.headers or {}), "Tus-Resumable": VERSION}
                raise
            response.headers["Tus-Resumable"] = VERSION
            return response

        return handle_with_version


router = APIRouter(tags=["uploads"], route_class=_TusRoute)

_PIECE_BODY = {
    "description": "Bytes of the file, starting at the offset.",
    "content": {_PIECE: {"schema": {"type": "string", "format": "binary"}}},
}


@router.options("/v1/uploads", operation_id="describe_uploads", status_code=204)
def describe_uploads(settings: SettingsDependency) -> Response:
    """Return the supported tus extensions and the maximum file size, in headers."""
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
    context: ContextDependency,
    *,
    upload_length: Annotated[
        int | None, Header(alias="Upload-Length", gt=0, le=2**62, description="Size of the whole file.")
    ] = None,
    upload_metadata: Annotated[
        str,
        Header(
            alias="Upload-Metadata",
            max_length=_MOST_METADATA,
            description="`filename`, a space, the name in Base64. More pairs may follow after commas; the server stores them and "
            "does not use them.",
        ),
    ] = "",
    tus_resumable: TusVersion = None,
    upload_checksum: UploadChecksum = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start a resumable upload (tus `creation`). The body may contain its first bytes."""
    _check_version(tus_resumable)
    checksum = receiving.Checksum.parse(upload_checksum)
    has_bytes = _has_piece(request)
    if upload_length is None:
        raise Invalid.field("Upload-Length", "missing", "expected the size of the file in bytes; got none")
    filename = _filename(upload_metadata)

    def create() -> Upload:
        delete_stray_partials(context.settings)  # workers may not see the disk of this machine
        return service.create(context, upload_length, filename, upload_metadata, idempotency_key)

    row = await to_thread.run_sync(create)
    if has_bytes and service.offset(row, context.settings) == 0:
        row = await _append(request, context, row.id, 0, checksum)
    document = service.document(row, context)
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
    upload_id: str, context: ContextDependency, tus_resumable: TusVersion = None
) -> Response:
    """Return in headers how many bytes have arrived. The upload continues at this offset."""
    _check_version(tus_resumable)
    with context.database.read() as session:
        row = service.find(session, context.tenant_id, upload_id)
    headers = {
        "Upload-Offset": str(service.offset(row, context.settings)),
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
    context: ContextDependency,
    *,
    upload_offset: Annotated[
        int | None,
        Header(
            alias="Upload-Offset",
            ge=0,
            le=2**62,
            description="Position of the first byte: the number of bytes received so far.",
        ),
    ] = None,
    tus_resumable: TusVersion = None,
    upload_checksum: UploadChecksum = None,
) -> Response:
    """Send the next bytes of an upload. If the connection breaks, the server keeps the bytes that have arrived."""
    _check_version(tus_resumable)
    checksum = receiving.Checksum.parse(upload_checksum)
    if request.headers.get("content-type", "").partition(";")[0].strip() != _PIECE:
        raise _wrong_type(request)
    if upload_offset is None:
        message = "expected the position of the first byte; got none (HEAD returns it)"
        raise Invalid.field("Upload-Offset", "missing", message)
    row = await _append(request, context, upload_id, upload_offset, checksum)
    headers = {"Upload-Offset": str(service.offset(row, context.settings)), "Upload-Expires": _http_date(row)}
    return Response(status_code=204, headers=headers)


@router.delete(
    "/v1/uploads/{upload_id}",
    operation_id="delete_upload",
    status_code=204,
    responses=problem_responses(404, 409, 410, 412, 423),
)
def delete_upload(upload_id: str, context: ContextDependency, tus_resumable: TusVersion = None) -> Response:
    """Delete an upload. A data set that was made from it stays."""
    _check_version(tus_resumable)
    service.delete(context, upload_id)
    return Response(status_code=204)


async def _append(
    request: Request, context: Context, upload_id: str, start: int, checksum: receiving.Checksum | None
) -> Upload:
    """Append the body of a request to an upload, and store the file once it is whole."""
    async with (
        full_disk_as_problem(),
        contextmanager_in_threadpool(service.writing(context, upload_id)) as (row, descriptor),
    ):
        offset = service.offset(row, context.settings)
        if start != offset:
            raise WrongState(
                f"Upload-Offset is {start}, but the upload {upload_id} is {row.state} and has {offset} bytes",
                hint="continue at this offset",
                headers={"Upload-Offset": str(offset)},
            )
        size = await receiving.append(
            descriptor, request.stream(), row.size_bytes - offset, checksum, settings=context.settings
        )
        if size == row.size_bytes:
            row = await to_thread.run_sync(service.store_file, context, upload_id)
    return row


@asynccontextmanager
async def full_disk_as_problem() -> AsyncIterator[None]:
    """Turn the error of a full disk into `DiskFull`, whose response names the version of the protocol."""
    try:
        yield
    except (OSError, OperationalError) as error:
        if is_disk_error(error):
            raise DiskFull.of_service() from error
        raise


def _check_version(version: str | None) -> None:
    if version != VERSION:
        raise WrongTusVersion(
            f"expected the header Tus-Resumable: {VERSION}; got {version or 'none'}",
            hint="to upload a file in one request without tus: PUT /v1/uploads",
            headers={"Tus-Version": VERSION},
        )


def _has_piece(request: Request) -> bool:
    """Return whether the body contains bytes of the file; raise `UnsupportedMediaType` for any other body."""
    length = request.headers.get("content-length", "0")
    if length == "0" and "transfer-encoding" not in request.headers:
        return False
    if request.headers.get("content-type", "").partition(";")[0].strip() != _PIECE:
        raise _wrong_type(request)
    return True


def _wrong_type(request: Request) -> UnsupportedMediaType:
    given = request.headers.get("content-type", "none")
    return UnsupportedMediaType(
        f"expected the Content-Type {_PIECE}; got {given}",
        hint=f"add the header Content-Type: {_PIECE}",
    )


def _filename(metadata: str) -> str:
    """Return the file name in `Upload-Metadata`, which has pairs of a key and a value in Base64."""
    for pair in metadata.split(","):
        key, _, encoded = pair.strip().partition(" ")
        if key != "filename":
            continue
        try:
            name = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError):
            raise BadRequest(
                f"Upload-Metadata: expected the file name in UTF-8 and Base64; got {encoded!r}"
            ) from None
        if len(name) > 200 or "\x00" in name:
            raise BadRequest("Upload-Metadata: expected a file name of at most 200 characters, without NUL")
        return name
    return ""


def _http_date(row: Upload) -> str:
    return format_datetime(row.expires_at, usegmt=True)
