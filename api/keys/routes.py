"""Routes of keys."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example
from sqlalchemy.exc import SQLAlchemyError

from api.auth import CallerDependency
from api.dependencies import DatabaseDependency, SettingsDependency
from api.errors import problem_responses
from api.http.idempotency import IdempotencyKey
from api.http.pagination import Page, PageSize, PageToken
from api.json_bodies import JsonRoute
from api.keys import service
from api.keys.schemas import CallerDocument, CallerShare, KeyDocument, KeyRequest, NewKey
from store.tables import Tenant

router = APIRouter(tags=["keys"], route_class=JsonRoute)

_REQUESTS: dict[str, Example] = {
    "person": {"summary": "For a person of your lab", "value": {"name": "Ada's laptop"}},
    "reading": {
        "summary": "For a dashboard that only reads; the key expires",
        "value": {"name": "dashboard", "scopes": ["read"], "expires_at": "2099-01-01T00:00:00Z"},
    },
    "lab": {
        "summary": "For another lab, which then creates its own keys",
        "value": {"name": "Smith lab", "tenant": "smith", "scopes": ["read", "write", "admin"]},
    },
}


@router.post(
    "/v1/keys",
    operation_id="create_key",
    status_code=201,
    responses=problem_responses(400, 403, 409, 413, 415, 422),
)
def create_key(
    request: Annotated[KeyRequest, Body(openapi_examples=_REQUESTS)],
    response: Response,
    database: DatabaseDependency,
    caller: CallerDependency,
    settings: SettingsDependency,
    *,
    idempotency_key: IdempotencyKey = None,
) -> NewKey:
    """Create a key. Only this response contains the secret: the service stores its digest."""
    with database.write() as session:
        made = service.create(session, settings, caller, request, idempotency_key)
    response.headers["Location"] = f"/v1/keys/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("/v1/keys", operation_id="list_keys", responses=problem_responses(403, 422))
def list_keys(
    database: DatabaseDependency,
    caller: CallerDependency,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[KeyDocument]:
    """List keys, newest first, without their secrets."""
    with database.read() as session:
        return service.list_page(session, caller, page_size, page_token)


@router.get("/v1/keys/{key_id}", operation_id="get_key", responses=problem_responses(403, 404))
def get_key(key_id: str, database: DatabaseDependency, caller: CallerDependency) -> KeyDocument:
    """Return a key, without its secret."""
    with database.read() as session:
        return service.document(service.find(session, caller, key_id))


@router.delete("/v1/keys/{key_id}", operation_id="revoke_key", responses=problem_responses(403, 404))
def revoke_key(key_id: str, database: DatabaseDependency, caller: CallerDependency) -> KeyDocument:
    """Revoke a key, and the shares that it made. The service refuses them from the next request on."""
    with database.write() as session:
        return service.revoke(session, caller, key_id)


@router.get("/v1/caller", operation_id="get_caller")
def get_caller(database: DatabaseDependency, caller: CallerDependency) -> CallerDocument:
    """Return your tenant and your scopes; for a share, what it shows."""
    grant = caller.grant
    waits_for = None
    with (
        suppress(SQLAlchemyError),
        database.read() as session,
    ):  # `latentry doctor` asks without a database, too
        waits_for = session.get_one(Tenant, caller.tenant_id).pause_sentence
    return CallerDocument(
        tenant=caller.tenant_id if grant is None else None,
        name=caller.name if grant is None else None,
        scopes=sorted(caller.scopes),
        key_id=caller.key_id,
        is_operator=caller.is_operator,
        share=None
        if grant is None
        else CallerShare(kind=grant.kind, id=grant.target_id, expires_at=grant.expires_at),
        waits_for=waits_for if grant is None else None,
    )
