"""Leases: the right to work on a row, held by one worker at a time and proven by a token.

A worker that was slow or cut off may wake after its lease went to another. Every write it makes is conditional on its
token, so it then learns that the lease is lost and can spoil nothing (fencing).
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Subquery, delete, func, select, update
from sqlalchemy.orm import Session

from store import events, outbox
from store.database import LOCK, database_now
from store.settings import Settings
from store.states import DatasetState, JobState, ModelState, SliceState
from store.tables import CurvePoint, Dataset, Job, LeaseMixin, Model, Slice


class LeaseLost(Exception):
    """The lease went to another worker, or the work was cancelled: stop, write nothing."""


@dataclass(frozen=True)
class Lease:
    """Proof of the right to work on a row.

    Parameters
    ----------
    table
        `Slice` or `Dataset`.
    row_id
        Id of the row.
    token
        Changes with each claim; also names the path of whatever this attempt writes.
    """

    table: type[Slice] | type[Dataset]
    row_id: str
    token: str

    def keep(self, session: Session, settings: Settings) -> None:
        """Renew the lease; a transaction that writes for its holder begins with this.

        Raises
        ------
        LeaseLost
            If the row is another's by now, or nobody's.
        """
        # A Core update: rowcount is the proof, and the row stays locked until this transaction ends.
        result: Any = session.execute(
            update(self.table)
            .where(self.table.id == self.row_id, self.table.lease_token == self.token)
            .values(lease_expires_at=_expiry(session, settings))
            .execution_options(synchronize_session=False)
        )
        if result.rowcount != 1:
            raise LeaseLost(f"{self.row_id} was cancelled or given to another worker")


def _expiry(session: Session, settings: Settings) -> Any:
    return database_now(session) + timedelta(seconds=settings.lease_seconds)


def _take(session: Session, row: Slice | Dataset, worker: str, settings: Settings) -> Lease:
    row.lease_token = secrets.token_hex(8)
    row.lease_expires_at = _expiry(session, settings)
    row.leased_by = worker
    row.attempts += 1
    return Lease(type(row), row.id, row.lease_token)


def drop_lease(row: LeaseMixin) -> None:
    """Make the row nobody's: whoever held it can write no more."""
    row.lease_token = row.lease_expires_at = row.leased_by = None


def claim_slice(session: Session, worker: str, settings: Settings) -> Lease | None:
    """Claim the queued slice whose tenant, then whose job, has the fewest slices under way; the oldest of those.

    Returns
    -------
    Lease or None
        None when nothing is queued.
    """
    while True:
        # Locks are always taken in the order job, slice, models: no two transactions wait for each other. Should somebody
        # else have taken the job's last slice, the savepoint gives the job's lock back before another one is waited for.
        with session.begin_nested() as attempt:
            job = _next_job(session, skip_held=True) or _next_job(session, skip_held=False)
            if job is None:
                return None
            queued = select(Slice).where(Slice.job_id == job.id, Slice.state == SliceState.QUEUED)
            oldest = queued.order_by(Slice.id).limit(1).with_for_update()
            if (row := session.execute(oldest).scalar_one_or_none()) is not None:
                return _claim(session, job, row, worker, settings)
            attempt.rollback()


def _next_job(session: Session, *, skip_held: bool) -> Job | None:
    """Lock the job whose turn it is.

    Workers that claim at once skip what another holds for a moment, and so take different jobs, as is fair; without
    `skip_held` they wait for it. SQLite has one writer anyway.
    """

    def under_way(column: Any, name: str) -> Subquery:
        number = select(column.label("id"), func.count().label("slices"))
        return number.where(Slice.state == SliceState.LEASED).group_by(column).subquery(name)

    of_tenant, of_job = under_way(Slice.tenant_id, "of_tenant"), under_way(Slice.job_id, "of_job")
    # Grouped first: the cost does not grow with what is queued times what is under way.
    waiting = select(Slice.job_id, func.min(Slice.id).label("oldest")).where(Slice.state == SliceState.QUEUED)
    queued = waiting.group_by(Slice.job_id).subquery("queued")
    fairest = (
        select(Job)
        .join(queued, queued.c.job_id == Job.id)
        .outerjoin(of_tenant, of_tenant.c.id == Job.tenant_id)
        .outerjoin(of_job, of_job.c.id == Job.id)
        .order_by(func.coalesce(of_tenant.c.slices, 0), func.coalesce(of_job.c.slices, 0), queued.c.oldest)
        .limit(1)
        .with_for_update(**LOCK, of=Job, skip_locked=skip_held)
    )
    return session.execute(fairest.execution_options(populate_existing=True)).scalar_one_or_none()


def _claim(session: Session, job: Job, row: Slice, worker: str, settings: Settings) -> Lease:
    lease = _take(session, row, worker, settings)
    row.state = SliceState.LEASED
    row.started_at = database_now(session)
    row.error = None
    # Points of an attempt that was cut off: training goes on from the checkpoint and makes them again.
    if row.kind == "train":
        session.execute(
            delete(CurvePoint).where(
                CurvePoint.model_id.in_(row.model_ids), CurvePoint.epoch > row.first_epoch
            )
        )
        for model in session.execute(select(Model).where(Model.id.in_(row.model_ids))).scalars():
            if model.state == ModelState.QUEUED:
                model.state = ModelState.TRAINING
                events.record(session, row.job_id, "model.state", model_id=model.id, state=model.state)
    if job.state == JobState.QUEUED:
        job.state, job.started_at = JobState.RUNNING, database_now(session)
        events.record(session, job.id, "job.state", state=job.state)
    _record_state(session, row, worker=worker)
    return lease


def claim_dataset(session: Session, dataset_id: str, worker: str, settings: Settings) -> Lease | None:
    """Claim a data set for ingest; None when it is done, or another worker has it."""
    row = session.get(Dataset, dataset_id, with_for_update=True)
    if row is None or row.state != DatasetState.INGESTING or row.lease_token is not None:
        return None
    return _take(session, row, worker, settings)


def reap(session: Session, settings: Settings, *, held_by: str | None = None) -> int:
    """Take slices and ingests from workers that gave no sign, and queue them again.

    Parameters
    ----------
    held_by
        Take those of this worker, known to be dead, without waiting for their expiry.

    Returns
    -------
    int
        How many were taken.
    """
    return sum(_reap_table(session, table, settings, held_by) for table in (Slice, Dataset))


def _reap_table(
    session: Session, table: type[Slice] | type[Dataset], settings: Settings, held_by: str | None
) -> int:
    overdue: Any = (
        table.lease_expires_at < database_now(session) if held_by is None else table.leased_by == held_by
    )
    rows: Sequence[Any] = (
        session.execute(
            select(table).where(table.lease_token.is_not(None), overdue).with_for_update(skip_locked=True)
        )
        .scalars()
        .all()
    )
    for row in rows:
        problem = {
            "code": "worker_lost",
            "message": f"the worker {row.leased_by} was lost {row.attempts} times while it worked on this",
            "hint": "look at that worker's log and memory; the work may need more memory than it has",
        }
        retry_or_fail(session, row, problem, settings)
    return len(rows)


def retry_or_fail(
    session: Session, row: Slice | Dataset, problem: dict[str, Any], settings: Settings
) -> None:
    """End an attempt that did not finish: queue the row again, or fail it when its attempts are spent."""
    drop_lease(row)
    spent = row.attempts >= settings.max_attempts
    if isinstance(row, Dataset):
        if spent:
            row.state, row.problems, row.ended_at = DatasetState.REJECTED, [problem], database_now(session)
        else:
            outbox.post(session, outbox.INGEST, row.id)
        return
    row.error = problem
    row.state = SliceState.FAILED if spent else SliceState.QUEUED
    row.ended_at = database_now(session) if spent else None
    _record_state(session, row, error=problem)
    if spent:
        outbox.post(session, outbox.ADVANCE, row.job_id)
    else:
        outbox.post(session, outbox.RUN_SLICE)


def _record_state(session: Session, row: Slice, **details: Any) -> None:
    state = {"slice_id": row.id, "state": row.state, "attempt": row.attempts}
    events.record(session, row.job_id, "slice.state", **state, **details)
