"""Leases: the right to work on a row. One worker at a time holds it, and a token proves it.

A slow or disconnected worker may continue after its lease went to another worker. Every write is conditional on the token
(fencing), so the write fails, the worker learns that it lost the lease, and it damages nothing.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from domain.states import DatasetState, InferenceState, ModelState, SliceState
from store import events, metrics, outbox
from store.database import after_commit, database_now
from store.logs import identified
from store.settings import Settings
from store.tables import Dataset, Inference, Model, Slice
from worker.scheduling.model_rows import end_model

Leased = Slice | Dataset | Inference
"""Rows that are worked on under a lease."""


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
    log_fields
        What each line of the log says about the row.
    """

    table: type[Leased]
    row_id: str
    token: str
    log_fields: Mapping[str, str] = field(default_factory=dict, compare=False)

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
    if not row.attempts and not row.losses:
        waited = (database_now(session) - row.created_at).total_seconds()
        metrics.queue_wait_seconds.labels(metrics.KINDS[row.__tablename__]).observe(waited)
    ids = {row.id, *(getattr(row, name, "") for name in ("job_id", "model_id", "dataset_id"))}
    fields = {**identified(*ids), "tenant": row.tenant_id, "lease": row.lease_token}
    return Lease(type(row), row.id, row.lease_token, fields)


def reap(
    session: Session, settings: Settings, *, held_by: str | None = None, process_died: bool = False
) -> int:
    """Take slices, inferences and ingests from workers that are lost, and queue them again.

    Parameters
    ----------
    held_by
        Take the work of this worker, which is known to be dead, without waiting for its leases to expire.
    process_died
        Whether only the process died. Then the work may have caused it (by its memory), and an attempt is counted. Else the
        whole worker was lost, which the work did not cause.

    Returns
    -------
    int
        Number of rows.
    """
    return sum(
        _reap_table(session, table, settings, held_by, process_died) for table in (Slice, Inference, Dataset)
    )


def _reap_table(
    session: Session,
    table: type[Leased],
    settings: Settings,
    held_by: str | None,
    process_died: bool,
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
        if row.leased_by is None:  # `try_again_later` put it off, and the delay is over
            try_again_or_fail(session, row, getattr(row, "error", None) or {}, settings)
            continue
        worker, code = row.leased_by, "process_died" if process_died else "worker_lost"
        after_commit(session, metrics.leases_reaped.labels(metrics.KINDS[table.__tablename__], code).inc)
        if process_died:
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


def try_again_later(session: Session, row: Leased, problem: dict[str, Any], seconds: float) -> None:
    """Queue a row again after a delay, because the disk or the database caused the failure."""
    row.drop_lease()
    later = database_now(session) + timedelta(seconds=seconds)
    if isinstance(row, Slice):
        row.error, row.state, row.not_before = problem, SliceState.QUEUED, later
        record_slice_state(session, row, error=problem)
        return
    # A lease that no worker holds delays the row. When it expires, `reap` queues the row.
    row.lease_token, row.lease_expires_at, row.leased_by = secrets.token_hex(8), later, None
    if isinstance(row, Inference):
        row.error = problem


def try_again_or_fail(session: Session, row: Leased, problem: dict[str, Any], settings: Settings) -> None:
    """Queue a row again, or fail it when it has no attempts or losses left."""
    row.drop_lease()
    spent = row.attempts >= settings.max_attempts or row.losses >= settings.max_losses
    if isinstance(row, Dataset):
        if spent:
            row.state, row.problems, row.ended_at = DatasetState.FAILED, [problem], database_now(session)
        else:
            outbox.post(session, outbox.INGEST)
        return
    row.error = problem
    row.ended_at = database_now(session) if spent else None
    if isinstance(row, Inference):
        row.state = InferenceState.FAILED if spent else InferenceState.QUEUED
        if not spent:
            outbox.post(session, outbox.RUN_SLICE)
        return
    row.state = SliceState.FAILED if spent else SliceState.QUEUED
    record_slice_state(session, row, error=problem)
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


def record_slice_state(session: Session, row: Slice, **details: Any) -> None:
    """Record the state of a slice as an event of its job."""
    state = {"slice_id": row.id, "state": row.state, "attempt": row.attempts}
    events.record(session, row.job_id, "slice.state", **state, **details)
