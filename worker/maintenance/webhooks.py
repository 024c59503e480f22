"""Deliver the messages to webhooks: claim them one by one, send them, and retry with exponential backoff and jitter.

Threads of the maintenance process send them, so a slow receiver blocks neither jobs nor ingests. A lease claims each message, so
any number of such processes may run. If one dies, another sends the message again. So a message arrives at least once, always
with the same id.
"""

import logging
import random
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, aliased

from domain.states import DeliveryState
from store.database import LOCK, Database, database_now
from store.settings import Settings
from store.tables import Document, Webhook, WebhookDelivery
from store.webhooks import forget
from worker.child_processes import process_name
from worker.maintenance.webhook_sending import Answer, send

logger = logging.getLogger("latentry.maintenance")

FIRST_DELAY_S = 5.0
GROWTH = 3.0
LONGEST_DELAY_S = 4 * 3600.0
SENT_AT_ONCE = 8
_MARGIN_S = 30.0
"""How much longer a lease lasts than a receiver may take, since resolving a name takes time too."""
_GONE = 410


@dataclass(frozen=True)
class Claimed:
    """A claimed message.

    Parameters
    ----------
    delivery_id, webhook_id, token
        The row, its webhook, and the token of the lease.
    url, secret, body
        The receiver, the secret that signs, and the message.
    """

    delivery_id: str
    webhook_id: str
    token: str
    url: str
    secret: str
    body: Document


def claim(session: Session, settings: Settings) -> Claimed | None:
    """Claim a due message of a webhook to which no other message is being sent; return None if there is none.

    Webhooks whose last attempt failed come after all others, so receivers that hang do not delay them. Within each group, the
    message that is due longest comes first.
    """
    now = database_now(session)
    other = aliased(WebhookDelivery)
    busy = exists().where(other.webhook_id == WebhookDelivery.webhook_id, other.lease_expires_at > now)
    was_refused = exists().where(
        other.webhook_id == WebhookDelivery.webhook_id,
        other.state == DeliveryState.WAITING,
        other.attempts > 0,
    )
    # A condition on the row itself, since PostgreSQL checks only this row again once it has the lock.
    is_free = WebhookDelivery.lease_expires_at.is_(None) | (WebhookDelivery.lease_expires_at <= now)
    is_due = (WebhookDelivery.state == DeliveryState.WAITING) & (WebhookDelivery.due_at <= now)
    due = (
        select(WebhookDelivery)
        .where(is_due, is_free, ~busy)
        .order_by(was_refused, WebhookDelivery.due_at)
        .limit(1)
        .with_for_update(skip_locked=True, of=WebhookDelivery)
    )
    row = session.execute(due).scalar_one_or_none()
    if row is None:
        return None
    webhook = session.get_one(Webhook, row.webhook_id)
    if webhook.deleted_at is not None:  # after the message was written
        row.state, row.ended_at, row.error = DeliveryState.GIVEN_UP, now, "the webhook was deleted"
        session.flush()
        return claim(session, settings)
    row.losses += row.lease_token is not None  # the sender before was lost
    row.lease_token = secrets.token_hex(8)
    row.leased_by = process_name()
    row.lease_expires_at = now + timedelta(seconds=settings.webhook_timeout_seconds + _MARGIN_S)
    return Claimed(row.id, webhook.id, row.lease_token, webhook.url, webhook.secret, row.body)


def finish(session: Session, settings: Settings, claimed: Claimed, answer: Answer) -> None:
    """Write the result of an attempt; nothing if the lease was lost or the message given up."""
    # The deletion of a webhook also locks the webhook before its messages.
    webhook = session.get(Webhook, claimed.webhook_id, with_for_update=LOCK)
    row = session.get(WebhookDelivery, claimed.delivery_id, with_for_update=LOCK)
    if webhook is None or row is None or row.lease_token != claimed.token:
        return
    now = database_now(session)
    row.drop_lease()
    row.status, row.error, row.attempts = answer.status, answer.error, row.attempts + 1
    if answer.is_taken:
        row.state, row.ended_at = DeliveryState.DELIVERED, now
        return
    if answer.status == _GONE:
        reason = "the webhook answered 410: it wants no more messages, and was deleted"
        forget(session, webhook, reason)
        return
    row.error = answer.error or f"expected an answer of 200 to 299, got {answer.status}"
    row.due_at = now + timedelta(
        seconds=max(delay_s(row.attempts), min(answer.retry_after_s, LONGEST_DELAY_S))
    )
    if row.due_at > row.created_at + timedelta(seconds=settings.webhook_seconds):
        row.state, row.ended_at = DeliveryState.GIVEN_UP, now


def delay_s(attempts: int) -> float:
    """Return the delay after a number of attempts, in seconds, with exponential backoff and jitter."""
    delay = min(FIRST_DELAY_S * GROWTH ** (attempts - 1), LONGEST_DELAY_S)
    return delay * random.uniform(0.75, 1.25)


def next_due(database: Database, settings: Settings) -> Claimed | None:
    """Claim a due message. Usually none is due; then this waits for no lock."""
    with database.read() as session:
        due = select(WebhookDelivery.id).where(
            WebhookDelivery.state == DeliveryState.WAITING, WebhookDelivery.due_at <= database_now(session)
        )
        if session.execute(due.limit(1)).first() is None:
            return None
    with database.write() as session:
        return claim(session, settings)


def deliver(database: Database, settings: Settings, claimed: Claimed) -> None:
    """Send a claimed message once, and write the result."""
    answer = send(
        claimed.url,
        claimed.secret,
        claimed.delivery_id,
        claimed.body,
        timeout_s=settings.webhook_timeout_seconds,
        allow_private=settings.webhook_allow_private,
        agent=f"Latentry/{version('latentry')}",
    )
    with database.write() as session:
        finish(session, settings, claimed, answer)
    if not answer.is_taken:
        logger.info(
            "the message %s was not delivered: %s", claimed.delivery_id, answer.error or answer.status
        )


def deliver_until(stopping: threading.Event, database: Database, settings: Settings) -> None:
    """Send due messages, several at the same time, until told to stop."""
    free, failing = threading.Semaphore(SENT_AT_ONCE), False

    def work(claimed: Claimed) -> None:
        try:
            deliver(database, settings, claimed)
        except Exception:  # its lease expires, and it is sent again
            logger.exception("the result of the message %s could not be written", claimed.delivery_id)
        finally:
            free.release()

    def begin_next() -> bool:
        """Start to send a due message; return False if none is due, or if the most are being sent already."""
        if not free.acquire(timeout=settings.maintenance_seconds):
            return False
        try:
            claimed = next_due(database, settings)
        except Exception:
            free.release()
            raise
        if claimed is None:
            free.release()
            return False
        threads.submit(work, claimed)
        return True

    with ThreadPoolExecutor(SENT_AT_ONCE, thread_name_prefix="webhooks") as threads:
        while not stopping.wait(settings.maintenance_seconds):
            try:
                while not stopping.is_set() and begin_next():
                    pass
                failing = False
            except Exception:
                if not failing:
                    logger.exception("messages to webhooks wait, since the database does not answer")
                failing = True
