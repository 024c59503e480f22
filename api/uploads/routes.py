"""Routes of uploads: a whole file in one request, an upload into the bucket, and the state of any upload."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.openapi.models import Example

from api.dependencies import ContextDependency
from api.errors import problem_responses
from api.http.idempotency import IdempotencyKey
from api.json_bodies import JsonRoute
from api.uploads import service
from api.uploads.receiving import expected_sha256, receive
from api.uploads.schemas import DirectUpload, Filename, UploadDocument

router = APIRouter(tags=["uploads"], route_class=JsonRoute)

ContentDigest = Annotated[
    str | None,
    Header(
        alias="Content-Digest",
        description="`sha-256=:BASE64:` (RFC 9530) of the body. The server refuses a body with another digest.",
    ),
]
ReprDigest = Annotated[
    str | None, Header(alias="Repr-Digest", description="`sha-256=:BASE64:` (RFC 9530) of the file.")
]

_DIRECT: dict[str, Example] = {
    "recording": {
        "summary": "A recording of 2 GB",
        "value": {
            "filename": "session.nwb",
            "bytes": 2_000_000_000,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
    }
}


def body_size(request: Request) -> int | None:
    """Return the size of the body that the client announces; None if it sends the body in chunks."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else None


@router.put(
    "/v1/uploads",
    operation_id="put_upload",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The file.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    responses={
        200: {"model": UploadDocument, "description": "The service has this file already."},
        **problem_responses(400, 409, 413, 422),
    },
)
async def put_upload(
    request: Request,
    response: Response,
    context: ContextDependency,
    *,
    filename: Annotated[Filename, Query(description="Name of the file, for the record.")] = "",
    content_digest: ContentDigest = None,
    repr_digest: ReprDigest = None,
) -> UploadDocument:
    """Upload a file in one request. The response contains its SHA-256."""
    digest = expected_sha256(content_digest, repr_digest)
    async with contextmanager_in_threadpool(service.reserved(context, body_size(request))):
        received = await receive(request.stream(), context.settings, digest)
    row, is_new = await to_thread.run_sync(service.store_received, context, received, filename)
    response.status_code = 201 if is_new else 200
    document = service.document(row, context)
    response.headers["Location"] = document.links["self"]
    return document


@router.post(
    "/v1/uploads:direct",
    operation_id="begin_direct_upload",
    status_code=201,
    responses=problem_responses(400, 404, 409, 410, 413, 415, 422),
)
def begin_direct_upload(
    upload: Annotated[DirectUpload, Body(openapi_examples=_DIRECT)],
    response: Response,
    context: ContextDependency,
    idempotency_key: IdempotencyKey = None,
) -> UploadDocument:
    """Get a signed URL that takes a file directly into the bucket, if the service stores files in a bucket."""
    row = service.create_direct(context, upload, idempotency_key)
    document = service.document(row, context)
    response.headers["Location"] = document.links["self"]
    return document


@router.get("/v1/uploads/{upload_id}", operation_id="get_upload", responses=problem_responses(404, 410))
def get_upload(upload_id: str, context: ContextDependency) -> UploadDocument:
    """Return an upload: its state, and the number of bytes received."""
    return service.document(service.complete_if_whole(context, upload_id), context)
