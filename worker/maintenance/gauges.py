"""What the maintenance loop measures for `store.metrics`: how much work waits, who works, and what tenants store."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, func, select, true
from sqlalchemy.orm import Session

from domain.states import DatasetState, InferenceState, JobState, SliceState
from store import metrics, queues
from store.database import Database, database_now
from store.quotas import stored_bytes
from store.tables import Dataset, Inference, Job, OutboxMessage, Slice, Tenant
from store.workers import alive_workers

_INGESTING = Dataset.state == DatasetState.INGESTING
_WAITING: dict[str, tuple[Any, Any]] = {
    "slice": (Slice, Slice.state == SliceState.QUEUED),
    "inference": (Inference, Inference.state == InferenceState.QUEUED),
    "ingest": (Dataset, and_(_INGESTING, Dataset.lease_token.is_(None))),
    "outbox": (OutboxMessage, true()),
}
_LEASED: dict[str, tuple[Any, Any]] = {
    "slice": (Slice, Slice.state == SliceState.LEASED),
    "inference": (Inference, Inference.state == InferenceState.RUNNING),
    "ingest": (Dataset, and_(_INGESTING, Dataset.lease_token.is_not(None), Dataset.leased_by.is_not(None))),
}
_STORED_EVERY = 30
"""Measurements after which stored bytes are added up again, which reads an index of each tenant's models."""


class Gauges:
    """Sets the gauges that the database and the broker know. Each query reads an index by state, so few rows.

    Parameters
    ----------
    database
        Of the service.
    queue_length
        Returns the number of messages in a queue of the broker.
    """

    def __init__(self, database: Database, queue_length: Callable[[str], int]) -> None:
        self._database, self._queue_length = database, queue_length
        self._measured = 0
        self._devices = set[str]()

    def measure(self) -> None:
        """Set all gauges; those of stored bytes only now and then."""
        with self._database.read() as session:
            self._measure_work(session)
            tenants = list(session.execute(select(Tenant.id)).scalars())
        if self._measured % _STORED_EVERY == 0:
            for tenant_id in tenants:
                with self._database.read() as session:
                    for kind, size in stored_bytes(session, tenant_id).items():
                        metrics.stored_bytes.labels(tenant_id, kind).set(size)
        self._measured += 1
        for queue in queues.QUEUES:
            metrics.queue_messages.labels(queue).set(self._queue_length(queue))

    def _measure_work(self, session: Session) -> None:
        now = database_now(session)
        for kind, (table, waits) in _WAITING.items():
            number, oldest = session.execute(_number_and_oldest(table).where(waits)).one()
            metrics.queued.labels(kind).set(number)
            metrics.queue_oldest_seconds.labels(kind).set(_age(now, oldest))
        for kind, (table, is_leased) in _LEASED.items():
            number = session.execute(select(func.count()).select_from(table).where(is_leased)).scalar_one()
            metrics.leases_held.labels(kind).set(number)
        alive = Counter(worker.device for worker in alive_workers(session))
        self._devices |= set(alive)
        for device in self._devices:
            metrics.workers.labels(device).set(alive[device])
        is_open = [state for state in JobState if not state.is_final]
        by_state = select(Job.state, func.count()).where(Job.state.in_(is_open)).group_by(Job.state)
        numbers = dict(session.execute(by_state).tuples().all())
        for state in is_open:
            metrics.open_jobs.labels(state).set(numbers.get(state, 0))


def _number_and_oldest(table: Any) -> Select[Any]:
    return select(func.count(), func.min(table.created_at)).select_from(table)


def _age(now: datetime, since: datetime | None) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())
