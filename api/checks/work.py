"""Checks of those who work: training processes, the maintenance loop."""

from collections import Counter
from datetime import timedelta

from sqlalchemy import func, select

from api.checks.base import Finding, Parts, failed, ok, reason, warning
from api.checks.databases import AWAY_HINT
from domain.states import DatasetState, DeliveryState, SliceState
from store.database import database_now
from store.rpc import CONTROL, CallFailed, WorkersAway, call_worker
from store.tables import Dataset, Inference, OutboxMessage, Slice, WebhookDelivery, Worker
from store.workers import alive_workers

_OVERDUE = timedelta(seconds=30)
_INGEST_ANSWER_SECONDS = 4.0
_LEASED = (Slice, Dataset, Inference)
_WEBHOOKS_OVERDUE = timedelta(minutes=5)


def check_workers(parts: Parts) -> Finding:
    """Training processes are alive."""
    try:
        with parts.database.read() as session:
            now = database_now(session)
            workers = alive_workers(session)
            last = session.execute(select(func.max(Worker.seen_at))).scalar_one()
            count = select(func.count()).where(Slice.state == SliceState.QUEUED)
            queued = session.execute(count).scalar_one()
    except Exception as error:
        return failed("not known: the database does not answer", AWAY_HINT, error=reason(error))
    waiting = f"; pieces of work that wait: {queued}" if queued else ""
    if not workers:
        seen = f"the last was seen {_ago(now - last)}" if last is not None else "none was ever seen"
        hint = "one says that it is there some seconds after its start: is a worker at the queue `slices` running? See its log"
        return failed(f"no training process is alive: {seen}{waiting}", hint, queued=queued)
    counted = Counter(one.device for one in workers)
    devices = ", ".join(f"{number} × {device}" for device, number in sorted(counted.items()))
    sign = _ago(now - max(one.seen_at for one in workers))
    details = {one.name: {"device": one.device, "seen_at": one.seen_at.isoformat()} for one in workers}
    message = f"training processes alive: {devices}, the last sign {sign}{waiting}"
    return ok(message, workers=details, queued=queued)


def check_ingest(parts: Parts) -> Finding:
    """Ask the process that reads uploads to read a small valid file, and look for data sets that the service failed to read."""
    try:
        with parts.database.read() as session:
            is_busy = select(Dataset.id).where(Dataset.lease_token.is_not(None)).limit(1)
            busy = session.execute(is_busy).first() is not None
            failures = select(Dataset.id, Dataset.problems).where(Dataset.state == DatasetState.FAILED)
            failed_ones = session.execute(failures.order_by(Dataset.id.desc()).limit(100)).all()
    except Exception as error:
        return failed("not known: the database does not answer", AWAY_HINT, error=reason(error))
    try:
        call_worker("check_ingest", {}, timeout_s=_INGEST_ANSWER_SECONDS, queue=CONTROL)
    except CallFailed as error:
        hint = "reinstall the service with all it depends on; the log of the control worker has the details"
        return failed("uploads cannot be read: even a small valid file fails", hint, error=error.message)
    except WorkersAway as error:
        if not busy:
            hint = "is a worker at the queue `control` running, and not busy with a long file? See its log"
            return warning(
                f"no process that reads uploads answered within {_INGEST_ANSWER_SECONDS:g} s",
                hint,
                error=str(error),
            )
    if failed_ones:
        hint = "read why: `latentry datasets show ID`; when it is repaired: `latentry datasets retry ID`"
        details = {one.id: (one.problems or [{}])[0].get("message") for one in failed_ones[:10]}
        return warning(
            f"data sets that the service failed to read: {len(failed_ones)}", hint, data_sets=details
        )
    return ok("busy with an upload" if busy else "a small valid file was read")


def check_maintenance(parts: Parts) -> Finding:
    """The maintenance loop does what it is there for: messages are sent, expired leases are taken back."""
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
        return failed("not known: the database does not answer", AWAY_HINT, error=reason(error))
    hint = "is the maintenance loop, `python -m worker.maintenance.loop`, running, and does the broker answer? See its log"
    if oldest is not None and now - oldest > _OVERDUE:
        return failed(
            f"messages to workers wait to be sent: {waiting}, the oldest of {_ago(now - oldest)}", hint
        )
    if expired:
        return failed(f"leases of lost workers are not taken back: {expired}", hint)
    if unsent:
        slow = "a receiver that is slow keeps its own messages waiting: `latentry webhooks deliveries ID`"
        return warning(f"messages to webhooks wait for more than 5 min: {unsent}", slow)
    return ok(f"messages on their way: {waiting}; no lease is overdue")


def _ago(age: timedelta) -> str:
    seconds = max(0.0, age.total_seconds())
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
