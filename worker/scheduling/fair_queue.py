"""The fair queue: which inference or slice a training worker does next, and which data set an ingest worker reads next.

An inference takes minutes at most and a user waits for it, so it goes before queued slices. But while slices wait, each process
alternates between both: even with many inferences, training gets half of the turns.

Ingests take turns by tenant too. A running ingest is never interrupted: the ingest of another tenant begins as soon as one of
the workers has finished the ingest that it has.
"""

from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, Subquery, and_, delete, func, select
from sqlalchemy.orm import Session

from domain.states import WORKED_ON, DatasetState, InferenceState, JobState, ModelState, SliceState
from store import events
from store.database import LOCK, database_now
from store.settings import Settings
from store.tables import CurvePoint, Dataset, Inference, Job, Model, Slice, Tenant
from worker.scheduling.leases import Lease, record_slice_state, take

TURNS_REMEMBERED = timedelta(hours=1)
"""How long the fair queue remembers when a tenant was served."""
_Row = TypeVar("_Row", Dataset, Inference)


def claim_next(session: Session, worker: str, settings: Settings, *, after_inference: bool) -> Lease | None:
    """Claim the inference or the slice whose turn it is; return None when nothing is queued.

    Parameters
    ----------
    after_inference
        Whether this process did an inference last. Then a queued slice goes first.
    """
    if after_inference:
        return claim_slice(session, worker, settings) or claim_inference(session, worker, settings)
    return claim_inference(session, worker, settings) or claim_slice(session, worker, settings)


def claim_inference(session: Session, worker: str, settings: Settings) -> Lease | None:
    """Claim the oldest queued inference of the tenant that has the fewest running, or has waited longest."""
    waits = (Inference.state == InferenceState.QUEUED) & may_be_served(Inference.tenant_id, session)
    runs = Inference.state == InferenceState.RUNNING
    row = session.execute(_fairest(session, Inference, waits, runs)).scalar_one_or_none()
    if row is None:
        return None
    lease = take(session, row, worker, settings)
    row.state, row.error, row.trials_done = InferenceState.RUNNING, None, 0
    row.started_at = database_now(session)
    return lease


def claim_ingest(
    session: Session, worker: str, settings: Settings, dataset_id: str | None = None
) -> Lease | None:
    """Claim the oldest waiting data set of the tenant that has the fewest running ingests, or has waited longest.

    Parameters
    ----------
    dataset_id
        Claim this data set, if it waits, and no other.
    """
    ingesting = Dataset.state == DatasetState.INGESTING
    waits = and_(ingesting, Dataset.lease_token.is_(None), is_not_paused(Dataset.tenant_id))
    # `try_again_later` keeps the token and clears `leased_by`, so this row waits for its delay.
    runs = and_(ingesting, Dataset.lease_token.is_not(None), Dataset.leased_by.is_not(None))
    query = _fairest(session, Dataset, waits, runs)
    if dataset_id is not None:
        query = query.where(Dataset.id == dataset_id)
    row = session.execute(query).scalar_one_or_none()
    if row is None:
        return None
    row.started_at = database_now(session)
    return take(session, row, worker, settings)


def _fairest(
    session: Session, table: type[_Row], waits: ColumnElement[bool], runs: ColumnElement[bool]
) -> Select[_Row]:
    """Select and lock the oldest waiting row of the tenant that has the fewest running ones, or has waited longest."""
    running = _running(table.tenant_id, runs, "running")
    served = _served(table.tenant_id, table.started_at, session)
    return (
        select(table)
        .where(waits)
        .outerjoin(running, running.c.id == table.tenant_id)
        .outerjoin(served, served.c.id == table.tenant_id)
        .order_by(func.coalesce(running.c.number, 0), served.c.at.asc().nulls_first(), table.id)
        .limit(1)
        .with_for_update(of=table, skip_locked=True)
        .execution_options(populate_existing=True)
    )


def _running(column: Any, is_running: ColumnElement[bool], name: str) -> Subquery:
    """Count the rows that are running, by tenant or by job."""
    number = select(column.label("id"), func.count().label("number"))
    return number.where(is_running).group_by(column).subquery(name)


def _served(tenant_id: Any, at: Any, session: Session) -> Subquery:
    """Find when each tenant was served last, as far as that is remembered."""
    # Grouped by an expression, or SQLite reads all rows in the order of an index that begins with the tenant.
    tenant = tenant_id.concat("")
    latest = select(tenant.label("id"), func.max(at).label("at"))
    recent = at > database_now(session) - TURNS_REMEMBERED
    return latest.where(recent).group_by(tenant).subquery("served")


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
            queued = select(Slice).where(Slice.job_id == job.id, *may_begin(session))
            oldest = queued.order_by(Slice.id).limit(1).with_for_update()
            if (row := session.execute(oldest).scalar_one_or_none()) is not None:
                return _claim(session, job, row, worker, settings)
            attempt.rollback()


def may_begin(session: Session) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of slices that may be claimed."""
    return (
        Slice.state == SliceState.QUEUED,
        Slice.not_before.is_(None) | (Slice.not_before <= database_now(session)),
        may_be_served(Slice.tenant_id, session),
    )


def may_be_served(tenant_id: Any, session: Session) -> ColumnElement[bool]:
    """Return the condition of work whose tenant has device time left and is not paused. Other work waits in the queue."""
    has_no_time = Tenant.device_time_frees_at > database_now(session)
    condition: ColumnElement[bool] = tenant_id.not_in(
        select(Tenant.id).where(has_no_time | Tenant.paused_at.is_not(None))
    )
    return condition


def is_not_paused(tenant_id: Any) -> ColumnElement[bool]:
    """Return the condition of work whose tenant the operator has not paused. Ingests need no device time."""
    condition: ColumnElement[bool] = tenant_id.not_in(select(Tenant.id).where(Tenant.paused_at.is_not(None)))
    return condition


def _next_job(session: Session, *, skip_held: bool) -> Job | None:
    """Lock the job whose turn it is.

    Workers that claim at the same time skip jobs that others hold for a moment, and so take different jobs. Without `skip_held`
    they wait. SQLite has only one writer anyway.
    """
    is_running = Slice.state == SliceState.LEASED
    of_tenant = _running(Slice.tenant_id, is_running, "of_tenant")
    of_job = _running(Slice.job_id, is_running, "of_job")
    tenant = _served(Job.tenant_id, Job.served_at, session)
    # Grouped first, so that the cost does not grow with queued slices times running slices.
    waiting = select(Slice.job_id, func.min(Slice.id).label("oldest")).where(*may_begin(session))
    queued = waiting.group_by(Slice.job_id).subquery("queued")
    fairest = (
        select(Job)
        .where(Job.state.in_(WORKED_ON))
        .join(queued, queued.c.job_id == Job.id)
        .outerjoin(of_tenant, of_tenant.c.id == Job.tenant_id)
        .outerjoin(of_job, of_job.c.id == Job.id)
        .outerjoin(tenant, tenant.c.id == Job.tenant_id)
        .order_by(
            func.coalesce(of_tenant.c.number, 0),
            tenant.c.at.asc().nulls_first(),
            Job.priority.desc(),
            func.coalesce(of_job.c.number, 0),
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
                events.record_model_state(session, model)
    if job.state == JobState.QUEUED:
        job.state, job.started_at = JobState.RUNNING, job.started_at or database_now(session)
        events.record(session, job.id, "job.state", state=job.state)
    record_slice_state(session, row, worker=worker)
    return lease
