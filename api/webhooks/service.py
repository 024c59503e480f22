"""The database operations of the routes of webhooks."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.errors import Invalid, NotFound, WrongState
from api.http.idempotency import fingerprint, store_answer, stored_answer
from api.http.pagination import Page, cut_page, decode_id
from api.limits.quotas import check_amounts
from api.validation_errors import FieldProblem
from api.webhooks.schemas import DeliveryDocument, NewWebhook, WebhookDocument, WebhookRequest
from domain.states import DeliveryState
from store import audit
from store.database import LOCK, database_now
from store.identifiers import PATTERN, new_id
from store.public_addresses import AddressRefused, check_url, resolve
from store.settings import Settings
from store.tables import Webhook, WebhookDelivery
from store.webhooks import announce_test, forget, new_secret

MOST_WEBHOOKS = 20
"""Webhooks of a tenant. It is no quota, since it bounds the messages of one event, and no group needs more."""
_MOST_WAITING_TESTS = 10


def document(row: Webhook) -> WebhookDocument:
    """Return the document of a webhook."""
    base = f"/v1/webhooks/{row.id}"
    return WebhookDocument(
        id=row.id,
        url=row.url,
        states=row.states,
        created_at=row.created_at,
        created_by=row.created_by,
        links={"self": base, "deliveries": f"{base}/deliveries"},
    )


def delivery_document(row: WebhookDelivery) -> DeliveryDocument:
    """Return the document of a message."""
    return DeliveryDocument(
        id=row.id,
        webhook_id=row.webhook_id,
        job_id=row.job_id,
        state=row.state,
        attempts=row.attempts,
        status=row.status,
        error=row.error,
        next_attempt_at=row.due_at if row.state == DeliveryState.WAITING else None,
        created_at=row.created_at,
        ended_at=row.ended_at,
        body=row.body,
    )


def checked_url(given: str, settings: Settings) -> str:
    """Return the URL of a webhook in its final form. This resolves the name of the host, which takes time.

    Raises
    ------
    Invalid
        If the service does not send messages to such URLs.
    """
    allow_private = settings.webhook_allow_private
    try:
        url = check_url(given, allow_private=allow_private)
        resolve(url.raw_host.decode("ascii"), url.port or 443, allow_private=allow_private)
    except AddressRefused as refusal:
        hint = "a receiver must be reachable over the internet by HTTPS; "
        hint += "the operator of the service can allow others with LATENTRY_WEBHOOK_ALLOW_PRIVATE"
        problem = FieldProblem(pointer="/url", code="url", message=str(refusal), hint=hint)
        raise Invalid(f"/url: {refusal}", hint=hint, errors=[problem]) from refusal
    return str(url)


def create(
    session: Session,
    settings: Settings,
    tenant_id: str,
    request: WebhookRequest,
    url: str,
    idempotency_key: str | None,
) -> NewWebhook:
    """Create a webhook for a checked URL.

    Raises
    ------
    QuotaReached, WrongState
        If the tenant may have no more rows, or has the largest allowed number of webhooks.
    """
    asked = fingerprint("POST /v1/webhooks", request.model_dump_json())
    if (stored := stored_answer(session, tenant_id, idempotency_key, asked)) is not None:
        return NewWebhook.model_validate(stored)
    of_tenant = select(func.count()).where(Webhook.tenant_id == tenant_id, Webhook.deleted_at.is_(None))
    if session.execute(of_tenant).scalar_one() >= MOST_WEBHOOKS:
        raise WrongState(
            f"you already have {MOST_WEBHOOKS} webhooks, the largest allowed number",
            hint="delete one that you do not need: GET /v1/webhooks lists them",
        )
    check_amounts(session, settings, tenant_id)
    secret = new_secret()
    row = Webhook(
        id=new_id("whk"),
        tenant_id=tenant_id,
        url=url,
        states=sorted(set(request.states)),
        secret=secret,
        created_at=database_now(session),
    )
    session.add(row)
    audit.record(session, "webhook.created", row)
    session.flush()
    made = NewWebhook(**document(row).model_dump(), secret=secret)
    kept = made.model_copy(update={"secret": None})
    store_answer(session, tenant_id, idempotency_key, asked, kept.model_dump(mode="json"))
    return made


def find(session: Session, tenant_id: str, webhook_id: str, *, lock: bool = False) -> Webhook:
    """Return the tenant's webhook, or raise `NotFound`."""
    is_id = PATTERN.fullmatch(webhook_id)
    row = session.get(Webhook, webhook_id, with_for_update=LOCK if lock else None) if is_id else None
    if row is None or row.tenant_id != tenant_id or row.deleted_at is not None:
        raise NotFound(f"there is no webhook {webhook_id}", hint="GET /v1/webhooks lists yours")
    return row


def list_page(
    session: Session, tenant_id: str, page_size: int, page_token: str | None
) -> Page[WebhookDocument]:
    """Return a page of the tenant's webhooks, newest first."""
    query = select(Webhook).where(Webhook.tenant_id == tenant_id, Webhook.deleted_at.is_(None))
    if (before := decode_id(page_token)) is not None:
        query = query.where(Webhook.id < before)
    rows = session.execute(query.order_by(Webhook.id.desc()).limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [row.id for row in rows])
    return Page[WebhookDocument](items=[document(row) for row in rows], next_page_token=token)


def delete(session: Session, tenant_id: str, webhook_id: str) -> None:
    """Delete a webhook: no more messages are sent to it."""
    forget(session, find(session, tenant_id, webhook_id, lock=True), "the webhook was deleted")


def list_deliveries(
    session: Session, webhook: Webhook, page_size: int, page_token: str | None
) -> Page[DeliveryDocument]:
    """Return a page of the messages to a webhook, newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id)
    if (before := decode_id(page_token)) is not None:
        query = query.where(WebhookDelivery.id < before)
    rows = session.execute(query.order_by(WebhookDelivery.id.desc()).limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [row.id for row in rows])
    return Page[DeliveryDocument](items=[delivery_document(row) for row in rows], next_page_token=token)


def test(session: Session, tenant_id: str, webhook_id: str) -> DeliveryDocument:
    """Write a test message, which is then sent.

    Raises
    ------
    NotFound, WrongState
        If the webhook does not exist, or too many earlier test messages wait.
    """
    webhook = find(session, tenant_id, webhook_id, lock=True)
    waiting = select(func.count()).where(
        WebhookDelivery.webhook_id == webhook.id,
        WebhookDelivery.job_id.is_(None),
        WebhookDelivery.state == DeliveryState.WAITING,
    )
    if session.execute(waiting).scalar_one() >= _MOST_WAITING_TESTS:
        raise WrongState(
            f"{_MOST_WAITING_TESTS} test messages to this webhook already wait",
            hint=f"GET /v1/webhooks/{webhook_id}/deliveries says why they were not delivered",
        )
    audit.record(session, "webhook.tested", webhook)
    row = announce_test(session, webhook)
    session.flush()
    return delivery_document(row)
