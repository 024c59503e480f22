"""Routes of webhooks."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from api import deletion
from api.deletion import DELETES, DeletionDocument, DryRun
from api.dependencies import ContextDependency, DatabaseDependency, SettingsDependency, TenantDependency
from api.errors import problem_responses
from api.http.idempotency import IdempotencyKey
from api.http.pagination import Page, PageSize, PageToken
from api.json_bodies import JsonRoute
from api.webhooks import service
from api.webhooks.schemas import DeliveryDocument, NewWebhook, WebhookDocument, WebhookRequest

router = APIRouter(tags=["webhooks"], route_class=JsonRoute)

_REQUESTS: dict[str, Example] = {
    "all": {"summary": "Report every end", "value": {"url": "https://lab.example.org/latentry"}},
    "done": {
        "summary": "Report results only",
        "value": {"url": "https://lab.example.org/latentry", "states": ["done"]},
    },
}


@router.post(
    "/v1/webhooks",
    operation_id="create_webhook",
    status_code=201,
    responses=problem_responses(400, 409, 413, 415, 422),
)
def create_webhook(
    request: Annotated[WebhookRequest, Body(openapi_examples=_REQUESTS)],
    response: Response,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    settings: SettingsDependency,
    *,
    idempotency_key: IdempotencyKey = None,
) -> NewWebhook:
    """Add a URL that the service notifies when jobs end. Only this answer has the secret, which verifies the messages."""
    url = service.checked_url(request.url, settings)
    with database.write() as session:
        made = service.create(session, settings, tenant_id, request, url, idempotency_key)
    response.headers["Location"] = made.links["self"]
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("/v1/webhooks", operation_id="list_webhooks", responses=problem_responses(422))
def list_webhooks(
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[WebhookDocument]:
    """List webhooks, newest first, without their secrets."""
    with database.read() as session:
        return service.list_page(session, tenant_id, page_size, page_token)


@router.get("/v1/webhooks/{webhook_id}", operation_id="get_webhook", responses=problem_responses(404))
def get_webhook(
    webhook_id: str, database: DatabaseDependency, tenant_id: TenantDependency
) -> WebhookDocument:
    """Read a webhook, without its secret."""
    with database.read() as session:
        return service.document(service.find(session, tenant_id, webhook_id))


@router.delete(
    "/v1/webhooks/{webhook_id}",
    operation_id="delete_webhook",
    status_code=204,
    responses=problem_responses(404),
)
def delete_webhook(webhook_id: str, database: DatabaseDependency, tenant_id: TenantDependency) -> None:
    """Delete a webhook. Messages that wait to be sent to it are dropped."""
    with database.write() as session:
        service.delete(session, tenant_id, webhook_id)


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries",
    operation_id="list_webhook_deliveries",
    responses=problem_responses(404, 422),
)
def list_webhook_deliveries(
    webhook_id: str,
    database: DatabaseDependency,
    tenant_id: TenantDependency,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[DeliveryDocument]:
    """List the messages to a webhook, newest first, with the results of their delivery."""
    with database.read() as session:
        webhook = service.find(session, tenant_id, webhook_id)
        return service.list_deliveries(session, webhook, page_size, page_token)


@router.delete(
    "/v1/webhooks/{webhook_id}/deliveries",
    operation_id="delete_webhook_deliveries",
    status_code=202,
    responses=DELETES,
)
def delete_webhook_deliveries(
    webhook_id: str, response: Response, context: ContextDependency, dry_run: DryRun = False
) -> DeletionDocument:
    """Delete the messages to a webhook that were delivered or given up, in the background. Others are still sent."""
    find = partial(service.find, tenant_id=context.tenant_id, webhook_id=webhook_id)
    response.status_code = 200 if dry_run else 202
    return deletion.delete_deliveries(context, find, dry_run=dry_run)


@router.post(
    "/v1/webhooks/{webhook_id}:test",
    operation_id="test_webhook",
    status_code=202,
    responses=problem_responses(404, 409, 413),
)
def test_webhook(
    webhook_id: str, response: Response, database: DatabaseDependency, tenant_id: TenantDependency
) -> DeliveryDocument:
    """Send a test message. The list of deliveries has the result."""
    with database.write() as session:
        made = service.test(session, tenant_id, webhook_id)
    response.headers["Location"] = f"/v1/webhooks/{webhook_id}/deliveries"
    return made
