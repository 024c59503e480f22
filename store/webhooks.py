"""Messages to webhooks: written in the transaction in which a job ends, sent by `worker.maintenance.webhooks`."""

import base64
import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.states import DeliveryState, JobState
from store import audit
from store.database import database_now
from store.deletion import request_deletion
from store.identifiers import new_id
from store.tables import Job, Model, Webhook, WebhookDelivery

_SECRET_BYTES = 32


def new_secret() -> str:
    """Return a new secret in the form of the Standard Webhooks specification."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def announce_end(session: Session, job_id: str, state: JobState) -> None:
    """Write a message to each webhook of the tenant that is subscribed to this final state of a job."""
    job = session.get_one(Job, job_id)
    of_tenant = select(Webhook).where(Webhook.tenant_id == job.tenant_id, Webhook.deleted_at.is_(None))
    subscribed = [one for one in session.execute(of_tenant).scalars() if state in one.states]
    if not subscribed:
        return
    now = database_now(session)
    body = {"type": f"job.{state}", "timestamp": _utc(now), "data": _job_data(session, job, state)}
    for webhook in subscribed:
        post(session, webhook, body, now, job_id=job_id)


def announce_test(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Write a test message to a webhook."""
    now = database_now(session)
    data = {"webhook_id": webhook.id, "message": "If you can verify the signature, all is well."}
    return post(session, webhook, {"type": "webhook.test", "timestamp": _utc(now), "data": data}, now)


def post(
    session: Session, webhook: Webhook, body: dict[str, Any], now: datetime, job_id: str | None = None
) -> WebhookDelivery:
    """Write a message to a webhook. It is sent after the commit of this transaction."""
    row = WebhookDelivery(
        id=new_id("dlv"),
        webhook_id=webhook.id,
        job_id=job_id,
        state=DeliveryState.WAITING,
        body=body,
        due_at=now,
        created_at=now,
        attempts=0,
    )
    session.add(row)
    return row


def forget(session: Session, webhook: Webhook, reason: str) -> None:
    """Delete a webhook: give up its waiting messages now, and let workers delete its rows."""
    audit.record(session, "webhook.deleted", webhook, reason=reason)
    now = database_now(session)
    webhook.deleted_at = now
    waiting = select(WebhookDelivery).where(
        WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.state == DeliveryState.WAITING
    )
    for row in session.execute(waiting.with_for_update()).scalars():
        row.state, row.ended_at, row.error = DeliveryState.GIVEN_UP, now, reason
        row.lease_token = row.lease_expires_at = None  # a sender that holds it can write no more
    request_deletion(session, "webhook", webhook.id, webhook.tenant_id)


def _job_data(session: Session, job: Job, state: JobState) -> dict[str, Any]:
    """Return the data of a message about a job. Links are relative, since the service does not know its public name."""
    selected = None if job.selected_model_id is None else session.get(Model, job.selected_model_id)
    links = {"job": f"/v1/jobs/{job.id}", "dataset": f"/v1/datasets/{job.dataset_id}"}
    if selected is not None:
        links["selected_model"] = f"/v1/models/{selected.id}"
        if state == JobState.DONE:
            links["arrays"] = f"/v1/models/{job.final_model_id or selected.id}/arrays"
    return {
        "id": job.id,
        "name": job.name,
        "state": state,
        "dataset_id": job.dataset_id,
        "selected_model_id": job.selected_model_id,
        "final_model_id": job.final_model_id,
        "scores": None if selected is None else selected.scores,
        "error": job.error,
        "ended_at": None if job.ended_at is None else _utc(job.ended_at),
        "links": links,
    }


def _utc(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
