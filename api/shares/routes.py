"""Routes of shares."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from fastapi.openapi.models import Example

from api.dependencies import DatabaseDependency, SettingsDependency, TenantDependency
from api.errors import problem_responses
from api.http.idempotency import IdempotencyKey
from api.http.pagination import NO_NUL, Page, PageSize, PageToken
from api.json_bodies import JsonRoute
from api.shares import service
from api.shares.schemas import NewShare, ShareDocument, ShareRequest

router = APIRouter(tags=["shares"], route_class=JsonRoute)

_REQUESTS: dict[str, Example] = {
    "job": {
        "summary": "A job for a colleague, for a week",
        "value": {"job_id": "job_0192f3c4a5b6aabbccddeeff", "label": "for the PI", "expires_in_days": 7},
    },
    "dataset": {"summary": "A data set", "value": {"dataset_id": "dat_0192f3c4a5b6aabbccddeeff"}},
}


@router.post(
    "/v1/shares",
    operation_id="create_share",
    status_code=201,
    responses=problem_responses(400, 404, 409, 413, 415, 422),
)
def create_share(
    request: Annotated[ShareRequest, Body(openapi_examples=_REQUESTS)],
    response: Response,
    database: DatabaseDependency,
    settings: SettingsDependency,
    tenant_id: TenantDependency,
    idempotency_key: IdempotencyKey = None,
) -> NewShare:
    """Share a data set, a job or a model, read-only. Only this response contains the token: the service stores its digest."""
    with database.write() as session:
        made = service.create(session, settings, tenant_id, request, idempotency_key)
    response.headers["Location"] = made.links["self"]
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("/v1/shares", operation_id="list_shares", responses=problem_responses(422))
def list_shares(
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    *,
    target_id: Annotated[
        str | None,
        Query(max_length=40, pattern=NO_NUL, description="Only shares of this data set, job or model."),
    ] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[ShareDocument]:
    """List the shares of your lab, newest first, without their tokens."""
    with database.read() as session:
        return service.list_page(session, tenant_id, target_id, page_size, page_token)


@router.get("/v1/shares/{share_id}", operation_id="get_share", responses=problem_responses(404))
def get_share(share_id: str, database: DatabaseDependency, tenant_id: TenantDependency) -> ShareDocument:
    """Return a share, without its token."""
    with database.read() as session:
        return service.documents(session, [service.find(session, tenant_id, share_id)])[0]


@router.delete("/v1/shares/{share_id}", operation_id="revoke_share", responses=problem_responses(404))
def revoke_share(share_id: str, database: DatabaseDependency, tenant_id: TenantDependency) -> ShareDocument:
    """Revoke a share. The service refuses its token from the next request on, and ends its event streams."""
    with database.write() as session:
        return service.revoke(session, tenant_id, share_id)
