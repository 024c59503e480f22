"""Leases: the right to work on a row. One worker at a time holds it, and a token proves it.

A slow or disconnected worker may continue after its lease went to another worker. Every write is conditional on the token
(fencing), so the write fails, the worker learns that it lost the lease, and it damages nothing.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Subquery, delete, func, select, update
from sqlalchemy.orm import Session

from domain.states import DatasetState, InferenceState, JobState, ModelState, SliceState
from store import events, outbox
from store.database import LOCK, database_now
from store.settings import Settings
from store.tables import CurvePoint, Dataset, Inference, Job, LeaseMixin, Model, Slice
from worker.scheduling.model_rows import end_model, record_state

Leased = Slice | Dataset | Inference
"""Rows that are worked on under a lease."""
_WORKED_ON = [JobState.QUEUED, JobState.RUNNING, JobState.INFERRING]
"""States in which a job may begin slices. Paused and stopping jobs begin none."""
TURNS_REMEMBERED = timedelta(hours=1)
"""How long the fair queue remembers when a tenant was served."""


class LeaseLost(Exception):
    """The lease went to another worker, or the work was cancelled. The holder must stop and write nothing."""


@dataclass(frozen=True)
class Lease:
    """Proof of the right to work on a row.

    Parameters
    ----------
    table
        `Slice`, `Dataset` or `Inference`.
    row_id
        Id of the row.
    token
        Changes with each claim. Paths that this attempt writes contain it.
    """

    table: type[Leased]
    row_id: str
    token: str

    def keep(self, session: Session, settings: Settings) -> None:
        """Renew the lease. Every transaction that writes for its holder begins with this.

        Raises
        ------
        LeaseLost
            If another worker, or none, holds the lease now.
        """
        # The count of updated rows is the proof, and the row stays locked until the transaction ends.
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


def take(session: Session, row: Leased, worker: str, settings: Settings) -> Lease:
    """Give a worker the lease of a row. The row is locked, and no worker holds its lease."""
    row.lease_token = secrets.token_hex(8)
    row.lease_expires_at = _expiry(session, settings)
    row.leased_by = worker
    return Lease(type(row), row.id, row.lease_token)


def drop_lease(row: LeaseMixin) -> None:
    """Take the lease away: its holder can write no more."""
    row.lease_token = row.lease_expires_at = row.leased_by = None


def claim_slice(session: Session, worker: str, settings: Settings) -> Lease | None:
    """Claim the queued slice whose turn it is.

    The order is: the tenant with the fewest running slices, or that has waited longest; of its jobs, the one with the highest
    priority; of those, the one with the fewest running slices, or that has waited longest; of its slices, the oldest.

    Returns
    -------
    Lease or None
        None when nothing is queued.
    """
    while True:
        # Locks are always taken in the order job, slice, models, so no two transactions wait for each other. If another worker
        # has taken the job's last slice, the savepoint releases the job's lock before this worker waits for another one.
        with session.begin_nested() as attempt:
            job = _next_job(session, skip_held=True) or _next_job(session, skip_held=False)
            if job is None:
                return None
            queued = select(Slice).where(Slice.job_id == job.id, *_may_begin(session))
            oldest = queued.order_by(Slice.id).limit(1).with_for_update()
            if (row := session.execute(oldest).scalar_one_or_none()) is not None:
                return _claim(session, job, row, worker, settings)
            attempt.rollback()


def _may_begin(session: Session) -> tuple[ColumnElement[bool], ...]:
    return (
        Slice.state == SliceState.QUEUED,
        Slice.not_before.is_(None) | (Slice.not_before <= database_now(session)),
    )


def _next_job(session: Session, *, skip_held: bool) -> Job | None:
    """Lock the job whose turn it is.

    Workers that claim at the same time skip jobs that others hold for a moment, and so take different jobs. Without `skip_held`
    they wait. SQLite has only one writer anyway.
    """

    def under_way(column: Any, name: str) -> Subquery:
        number = select(column.label("id"), func.count().label("slices"))
        return number.where(Slice.state == SliceState.LEASED).group_by(column).subquery(name)

    of_tenant, of_job = under_way(Slice.tenant_id, "of_tenant"), under_way(Slice.job_id, "of_job")
    # Grouped first, so that the cost does not grow with queued slices times running slices.
    waiting = select(Slice.job_id, func.min(Slice.id).label("oldest")).where(*_may_begin(session))
    queued = waiting.group_by(Slice.job_id).subquery("queued")
    served = select(Job.tenant_id, func.max(Job.served_at).label("at")).where(
        Job.served_at > database_now(session) - TURNS_REMEMBERED
    )
    tenant = served.group_by(Job.tenant_id).subquery("tenant")
    fairest = (
        select(Job)
        .where(Job.state.in_(_WORKED_ON))
        .join(queued, queued.c.job_id == Job.id)
        .outerjoin(of_tenant, of_tenant.c.id == Job.tenant_id)
        .outerjoin(of_job, of_job.c.id == Job.id)
        .outerjoin(tenant, tenant.c.tenant_id == Job.tenant_id)
        .order_by(
            func.coalesce(of_tenant.c.slices, 0),
            tenant.c.at.asc().nulls_first(),
            Job.priority.desc(),
            func.coalesce(of_job.c.slices, 0),
            Job.served_at.asc().nulls_first(),
            queued.c.oldest,
        )
        .limit(1)
        .with_for_update(**LOCK, of=Job, skip_locked=skip_held)
    )
    return session.execute(fairest.execution_options(populate_existing=True)).scalar_one_or_none()


def _claim(session: Session, job: Job, row: Slice, worker: str, settings: Settings) -> Lease:
    lease = take(session, row, worker, settings)
    row.state = SliceState.LEASED
    row.started_at = job.served_at = database_now(session)
    row.error = None
    # An interrupted attempt left points after the checkpoint. Training repeats these epochs.
    if row.kind == "train":
        session.execute(
            delete(CurvePoint).where(
                CurvePoint.model_id.in_(row.model_ids), CurvePoint.epoch > row.first_epoch
            )
        )
        for model in session.execute(select(Model).where(Model.id.in_(row.model_ids))).scalars():
            if model.state == ModelState.QUEUED:
                model.state = ModelState.TRAINING
                record_state(session, model)
    if job.state == JobState.QUEUED:
        job.state, job.started_at = JobState.RUNNING, job.started_at or database_now(session)
        events.record(session, job.id, "job.state", state=job.state)
    _record_state(session, row, worker=worker)
    return lease


def claim_dataset(session: Session, dataset_id: str, worker: str, settings: Settings) -> Lease | None:
    """Claim a data set for ingest; return None if it is done, or if another worker has it."""
    row = session.get(Dataset, dataset_id, with_for_update=True)
    if row is None or row.state != DatasetState.INGESTING or row.lease_token is not None:
        return None
    return take(session, row, worker, settings)


def reap(
    session: Session, settings: Settings, *, held_by: str | None = None, died_at_it: bool = False
) -> int:
    """Take slices, inferences and ingests from workers that are lost, and queue them again.

    Parameters
    ----------
    held_by
        Take the work of this worker, which is known to be dead, without waiting for its leases to expire.
    died_at_it
        Whether only the process died. Then the work may have caused it (by its memory), and an attempt is counted. Else the
        whole worker was lost, which the work did not cause.

    Returns
    -------
    int
        Number of rows.
    """
    return sum(
        _reap_table(session, table, settings, held_by, died_at_it) for table in (Slice, Inference, Dataset)
    )


def _reap_table(
    session: Session,
    table: type[Leased],
    settings: Settings,
    held_by: str | None,
    died_at_it: bool,
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
        worker, code = row.leased_by, "process_died" if died_at_it else "worker_lost"
        if died_at_it:
            row.attempts += 1
            message = f"the process {worker} died while it worked on this, {_times(row.attempts)}"
        else:
            row.losses += 1
            message = f"the worker {worker} was lost while it worked on this, {_times(row.losses)}"
        hint = "look at that worker's log and memory; the work may need more memory than it has"
        try_again_or_fail(session, row, {"code": code, "message": message, "hint": hint}, settings)
    return len(rows)


def _times(number: int) -> str:
    return "for the first time" if number == 1 else f"{number} times by now"


def count_attempt(session: Session, row: Leased, problem: dict[str, Any], settings: Settings) -> None:
    """Count a failed attempt: queue the row again, or fail it when it has no attempts left."""
    row.attempts += 1
    try_again_or_fail(session, row, problem, settings)


def try_again_later(
    session: Session, row: Slice | Inference, problem: dict[str, Any], seconds: float
) -> None:
    """Queue a row again, from later on, after an attempt that the environment made fail."""
    if isinstance(row, Inference):
        # The lease keeps the row until it expires. Then `reap` counts a loss, of which many are allowed.
        row.error, row.lease_expires_at = problem, database_now(session) + timedelta(seconds=seconds)
        return
    drop_lease(row)
    row.error, row.state = problem, SliceState.QUEUED
    row.not_before = database_now(session) + timedelta(seconds=seconds)
    _record_state(session, row, error=problem)


def try_again_or_fail(session: Session, row: Leased, problem: dict[str, Any], settings: Settings) -> None:
    """Queue a row again, or fail it when it has no attempts or losses left."""
    drop_lease(row)
    spent = row.attempts >= settings.max_attempts or row.losses >= settings.max_losses
    if isinstance(row, Dataset):
        if spent:
            row.state, row.problems, row.ended_at = DatasetState.FAILED, [problem], database_now(session)
        else:
            outbox.post(session, outbox.INGEST, row.id)
        return
    row.error = problem
    row.ended_at = database_now(session) if spent else None
    if isinstance(row, Inference):
        row.state = InferenceState.FAILED if spent else InferenceState.QUEUED
        if not spent:
            outbox.post(session, outbox.RUN_SLICE)
        return
    row.state = SliceState.FAILED if spent else SliceState.QUEUED
    _record_state(session, row, error=problem)
    if spent:
        if row.kind == "train":
            _blame(session, row, problem)
        outbox.post(session, outbox.ADVANCE, row.job_id)
    else:
        outbox.post(session, outbox.RUN_SLICE)
        # If the job was paused or stopped meanwhile, `advance` cancels the slice.
        outbox.post(session, outbox.ADVANCE, row.job_id)


def _blame(session: Session, row: Slice, problem: dict[str, Any]) -> None:
    """After a slice failed: let each of its models train alone, or fail a model that was alone."""
    of_slice = select(Model).where(Model.id.in_(row.model_ids)).order_by(Model.number).with_for_update()
    models = session.execute(of_slice).scalars().all()
    if len(models) == 1:
        reason = f"failed alone after its attempts: {problem['message']}"
        end_model(session, models[0], ModelState.FAILED, reason)
    else:
        for model in models:
            model.is_alone = True


def _record_state(session: Session, row: Slice, **details: Any) -> None:
    state = {"slice_id": row.id, "state": row.state, "attempt": row.attempts}
    events.record(session, row.job_id, "slice.state", **state, **details)
