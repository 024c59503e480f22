"""Leases: the right to work on a row, held by one worker at a time and proven by a token.

A worker that was slow or cut off may wake after its lease went to another. Every write it makes is conditional on its
token, so it then learns that the lease is lost and can spoil nothing (fencing).
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
from worker.scheduling.model_rows import end_model

Leased = Slice | Dataset | Inference
"""What is worked on under a lease."""
_WORKED_ON = [JobState.QUEUED, JobState.RUNNING, JobState.INFERRING]
"""What is paused or stopping begins nothing more."""
TURNS_REMEMBERED = timedelta(hours=1)
"""Who was served last is forgotten after this time."""


class LeaseLost(Exception):
    """The lease went to another worker, or the work was cancelled: stop, write nothing."""


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
        Changes with each claim; also names the path of whatever this attempt writes.
    """

    table: type[Leased]
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


def take(session: Session, row: Leased, worker: str, settings: Settings) -> Lease:
    """Make a row a worker's own; it is locked, and nobody's."""
    row.lease_token = secrets.token_hex(8)
    row.lease_expires_at = _expiry(session, settings)
    row.leased_by = worker
    return Lease(type(row), row.id, row.lease_token)


def drop_lease(row: LeaseMixin) -> None:
    """Make the row nobody's: whoever held it can write no more."""
    row.lease_token = row.lease_expires_at = row.leased_by = None


def claim_slice(session: Session, worker: str, settings: Settings) -> Lease | None:
    """Claim the queued slice whose turn it is.

    It is that of the tenant with the fewest slices under way, or who waited longest; of its jobs the one of the highest priority;
    of those the one with the fewest slices under way, or that waited longest; of its slices the oldest.

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

    Workers that claim at once skip what another holds for a moment, and so take different jobs, as is fair; without
    `skip_held` they wait for it. SQLite has one writer anyway.
    """

    def under_way(column: Any, name: str) -> Subquery:
        number = select(column.label("id"), func.count().label("slices"))
        return number.where(Slice.state == SliceState.LEASED).group_by(column).subquery(name)

    of_tenant, of_job = under_way(Slice.tenant_id, "of_tenant"), under_way(Slice.job_id, "of_job")
    # Grouped first: the cost does not grow with what is queued times what is under way.
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
                events.record(
                    session,
                    row.job_id,
                    "model.state",
                    model_id=model.id,
                    state=model.state,
                    number=model.number,
                )
    if job.state == JobState.QUEUED:
        job.state, job.started_at = JobState.RUNNING, job.started_at or database_now(session)
        events.record(session, job.id, "job.state", state=job.state)
    _record_state(session, row, worker=worker)
    return lease


def claim_dataset(session: Session, dataset_id: str, worker: str, settings: Settings) -> Lease | None:
    """Claim a data set for ingest; None when it is done, or another worker has it."""
    row = session.get(Dataset, dataset_id, with_for_update=True)
    if row is None or row.state != DatasetState.INGESTING or row.lease_token is not None:
        return None
    return take(session, row, worker, settings)


def reap(
    session: Session, settings: Settings, *, held_by: str | None = None, died_at_it: bool = False
) -> int:
    """Take slices, inferences and ingests from workers that gave no sign, and queue them again.

    Parameters
    ----------
    held_by
        Take those of this worker, known to be dead, without waiting for their expiry.
    died_at_it
        Whether the process died alone, so that the work may have killed it (by its memory): an attempt is counted. Else
        the worker was lost with all that was around it, which is no fault of the work.

    Returns
    -------
    int
        How many were taken.
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
    """End an attempt that failed: queue the row again, or fail it when its attempts are spent."""
    row.attempts += 1
    try_again_or_fail(session, row, problem, settings)


def try_again_later(
    session: Session, row: Slice | Inference, problem: dict[str, Any], seconds: float
) -> None:
    """End an attempt that could not succeed where it ran, by no fault of the work: it is queued again, from later on."""
    if isinstance(row, Inference):
        # Held until its lease runs out; whoever takes it then counts a loss, of which there may be many.
        row.error, row.lease_expires_at = problem, database_now(session) + timedelta(seconds=seconds)
        return
    drop_lease(row)
    row.error, row.state = problem, SliceState.QUEUED
    row.not_before = database_now(session) + timedelta(seconds=seconds)
    _record_state(session, row, error=problem)


def try_again_or_fail(session: Session, row: Leased, problem: dict[str, Any], settings: Settings) -> None:
    """Queue a row again, or fail it when its attempts, or the losses it may have, are spent."""
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
        outbox.post(
            session, outbox.ADVANCE, row.job_id
        )  # a job that was paused or stopped meanwhile wants it no more


def _blame(session: Session, row: Slice, problem: dict[str, Any]) -> None:
    """After a slice failed: its models are tried again each alone; one that was alone has failed."""
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
