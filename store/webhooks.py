"""Messages to webhooks: written in the transaction in which a job ends, sent by `worker.maintenance.webhooks`."""

import base64
import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.states import DeliveryState, JobState
from store.database import database_now
from store.identifiers import new_id
from store.tables import Job, Model, Webhook, WebhookDelivery

_SECRET_BYTES = 32


def new_secret() -> str:
    """A secret as the Standard Webhooks specification writes it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def announce_end(session: Session, job_id: str, state: JobState) -> None:
    """Write a message to each webhook of the tenant that wants to know of a job that came to this state."""
    job = session.get_one(Job, job_id)
    of_tenant = select(Webhook).where(Webhook.tenant_id == job.tenant_id, Webhook.deleted_at.is_(None))
    wanting = [one for one in session.execute(of_tenant).scalars() if state in one.states]
    if not wanting:
        return
    now = database_now(session)
    body = {"type": f"job.{state}", "timestamp": _told(now), "data": _essentials(session, job, state)}
    for webhook in wanting:
        post(session, webhook, body, now, job_id=job_id)


def announce_test(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Write a message that says nothing, to see whether a webhook takes it."""
    now = database_now(session)
    data = {"webhook_id": webhook.id, "message": "If you can verify the signature, all is well."}
    return post(session, webhook, {"type": "webhook.test", "timestamp": _told(now), "data": data}, now)


def post(
    session: Session, webhook: Webhook, body: dict[str, Any], now: datetime, job_id: str | None = None
) -> WebhookDelivery:
    """Write a message to a webhook, to be sent as soon as this transaction is committed."""
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
    """Delete a webhook: nothing is sent to it any more, and what waits is given up."""
    now = database_now(session)
    webhook.deleted_at = now
    waiting = select(WebhookDelivery).where(
        WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.state == DeliveryState.WAITING
    )
    for row in session.execute(waiting.with_for_update()).scalars():
        row.state, row.ended_at, row.error = DeliveryState.GIVEN_UP, now, reason
        row.lease_token = row.lease_expires_at = None  # whoever is sending it writes nothing any more


def _essentials(session: Session, job: Job, state: JobState) -> dict[str, Any]:
    """What a message says of a job. Paths are relative: the service does not know by what name it is reached."""
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
        "ended_at": None if job.ended_at is None else _told(job.ended_at),
        "links": links,
    }


def _told(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
