"""Checks of the training processes, the ingest and the maintenance loop."""

from collections import Counter
from datetime import timedelta

from sqlalchemy import func, select

from api.checks.base import Finding, Parts, failed, ok, unknown, warning
from domain.states import DatasetState, DeliveryState, SliceState
from store.database import database_now
from store.queues import INGEST
from store.rpc import CallFailed, WorkersAway, call_worker
from store.tables import Dataset, Inference, OutboxMessage, Slice, WebhookDelivery, Worker
from store.workers import alive_workers

_OVERDUE = timedelta(seconds=30)
_INGEST_ANSWER_SECONDS = 4.0
_LEASED = (Slice, Dataset, Inference)
_WEBHOOKS_OVERDUE = timedelta(minutes=5)


def check_workers(parts: Parts) -> Finding:
    """Check that training processes are alive."""
    try:
        with parts.database.read() as session:
            now = database_now(session)
            workers = alive_workers(session)
            last = session.execute(select(func.max(Worker.seen_at))).scalar_one()
            count = select(func.count()).where(Slice.state == SliceState.QUEUED)
            queued = session.execute(count).scalar_one()
    except Exception as error:
        return unknown(error)
    waiting = f"; queued slices: {queued}" if queued else ""
    if not workers:
        seen = f"the last one was seen {_ago(now - last)}" if last is not None else "none has been seen yet"
        hint = "check that a worker of the queue `slices` is running, and read its log; registering takes some seconds"
        return failed(f"no training process is alive: {seen}{waiting}", hint, queued=queued)
    counted = Counter(one.device for one in workers)
    devices = ", ".join(f"{number} × {device}" for device, number in sorted(counted.items()))
    if draining := sum(one.draining_since is not None for one in workers):
        devices += f" ({draining} of them drained by the operator: they end when they are idle)"
    seen = _ago(now - max(one.seen_at for one in workers))
    details = {one.name: {"device": one.device, "seen_at": one.seen_at.isoformat()} for one in workers}
    message = f"training processes alive: {devices}, last seen {seen}{waiting}"
    return ok(message, workers=details, queued=queued)


def check_ingest(parts: Parts) -> Finding:
    """Check that an ingest worker can read a small valid file, and look for failed data sets."""
    try:
        with parts.database.read() as session:
            is_busy = select(Dataset.id).where(Dataset.lease_token.is_not(None)).limit(1)
            busy = session.execute(is_busy).first() is not None
            failures = select(Dataset.id, Dataset.problems).where(Dataset.state == DatasetState.FAILED)
            failed_ones = session.execute(failures.order_by(Dataset.id.desc()).limit(100)).all()
    except Exception as error:
        return unknown(error)
    try:
        call_worker("check_ingest", {}, timeout_s=_INGEST_ANSWER_SECONDS, queue=INGEST)
    except CallFailed as error:
        hint = "reinstall the service with its dependencies; the log of the ingest worker has the details"
        return failed(
            "the service cannot read uploads: even a small valid file fails", hint, error=error.message
        )
    except WorkersAway as error:
        if not busy:
            hint = "check that a worker of the queue `ingest` is running and not busy with a large file, and read its log"
            return warning(
                f"no ingest worker responded within {_INGEST_ANSWER_SECONDS:g} s",
                hint,
                error=str(error),
            )
    if failed_ones:
        hint = "`latentry datasets show ID` shows the reason; after the repair: `latentry datasets retry ID`"
        details = {one.id: (one.problems or [{}])[0].get("message") for one in failed_ones[:10]}
        return warning(
            f"data sets that the service could not read: {len(failed_ones)}", hint, data_sets=details
        )
    return ok("busy with an upload" if busy else "read a small valid file")


def check_maintenance(parts: Parts) -> Finding:
    """Check that the maintenance loop sends messages and takes back expired leases."""
    try:
        with parts.database.read() as session:
            now = database_now(session)
            count = select(func.count(), func.min(OutboxMessage.created_at))
            waiting, oldest = session.execute(count).one()
            expired = sum(
                session.execute(
                    select(func.count()).where(
                        table.lease_token.is_not(None), table.lease_expires_at < now - _OVERDUE
                    )
                ).scalar_one()
                for table in _LEASED
            )
            is_late = WebhookDelivery.due_at < now - _WEBHOOKS_OVERDUE
            unsent = session.execute(
                select(func.count()).where(WebhookDelivery.state == DeliveryState.WAITING, is_late)
            ).scalar_one()
    except Exception as error:
        return unknown(error)
    hint = "check that the maintenance loop, `python -m worker.maintenance.loop`, and the broker are running, and read its log"
    if oldest is not None and now - oldest > _OVERDUE:
        return failed(f"unsent messages to workers: {waiting}, the oldest from {_ago(now - oldest)}", hint)
    if expired:
        return failed(f"expired leases that nobody has taken back: {expired}", hint)
    if unsent:
        slow = "a slow receiver delays its own messages: `latentry webhooks deliveries ID`"
        return warning(f"messages to webhooks that wait for more than 5 min: {unsent}", slow)
    return ok(f"unsent messages: {waiting}; no lease is overdue")


def _ago(age: timedelta) -> str:
    seconds = max(0.0, age.total_seconds())
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
