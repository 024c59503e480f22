"""Uploads in one request: of the whole file here, or straight into the bucket. And what is known of any upload."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.openapi.models import Example

from api.dependencies import DatabaseDependency, OriginalsDependency, SettingsDependency, TenantDependency
from api.errors import problem_responses
from api.idempotency import IdempotencyKey
from api.uploads import service
from api.uploads.receiving import receive, told_sha256
from api.uploads.schemas import DirectUpload, Filename, UploadDocument

router = APIRouter(tags=["uploads"])

ContentDigest = Annotated[
    str | None,
    Header(
        alias="Content-Digest",
        description="`sha-256=:BASE64:` (RFC 9530) of the body; anything else that comes is refused.",
    ),
]
ReprDigest = Annotated[str | None, Header(alias="Repr-Digest", description="The same, of the file.")]

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
        200: {"model": UploadDocument, "description": "The file was here already."},
        **problem_responses(400, 413, 422),
    },
)
async def put_upload(
    request: Request,
    response: Response,
    database: DatabaseDependency,
    settings: SettingsDependency,
    originals: OriginalsDependency,
    tenant_id: TenantDependency,
    filename: Annotated[Filename, Query(description="Name of the file, for the record.")] = "",
    content_digest: ContentDigest = None,
    repr_digest: ReprDigest = None,
) -> UploadDocument:
    """Send a file in one request; the answer tells its SHA-256."""
    digest = told_sha256(content_digest, repr_digest)
    received = await receive(request.stream(), settings, digest)
    row, is_new = await to_thread.run_sync(
        service.keep_whole, database, originals, settings, tenant_id, received, filename
    )
    response.status_code = 201 if is_new else 200
    document = service.document(row, settings, originals)
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
    database: DatabaseDependency,
    settings: SettingsDependency,
    originals: OriginalsDependency,
    tenant_id: TenantDependency,
    idempotency_key: IdempotencyKey = None,
) -> UploadDocument:
    """Ask for a URL to put a file straight into the bucket, where the service keeps its files in one."""
    with database.write() as session:
        row = service.create_direct(session, tenant_id, settings, originals, upload, idempotency_key)
    document = service.document(row, settings, originals)
    response.headers["Location"] = document.links["self"]
    return document


@router.get("/v1/uploads/{upload_id}", operation_id="get_upload", responses=problem_responses(404, 410))
def get_upload(
    upload_id: str,
    database: DatabaseDependency,
    settings: SettingsDependency,
    originals: OriginalsDependency,
    tenant_id: TenantDependency,
) -> UploadDocument:
    """Read an upload: its state, and how many bytes came."""
    row = service.settle(database, originals, settings, tenant_id, upload_id)
    return service.document(row, settings, originals)
