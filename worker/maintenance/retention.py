"""Retention: remove old data in small transactions. `store.retention` says what is due; docs/retention.md lists all kinds.

A sweep may end at any time, and the next one continues. A repeated sweep changes nothing. Every transaction ends after
`_BATCH_ROWS` rows or `_BATCH_SECONDS`, and then pauses, so that other writers wait briefly.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import CursorResult, Delete, Integer, Select, bindparam, delete, func, select, update
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from store.database import LOCK, Database, commit_without_waiting, database_now
from store.free_space import give_back_space
from store.originals import open_originals
from store.retention import (
    cutoff,
    due_deliveries,
    due_idempotent_requests,
    due_jobs,
    due_originals,
    due_shares,
    thinned_points,
    weights_removed,
)
from store.settings import Settings
from store.tables import (
    CurvePoint,
    Dataset,
    Event,
    IdempotentRequest,
    Job,
    Key,
    Model,
    RetentionProgress,
    Slice,
    Tenant,
    Webhook,
    WebhookDelivery,
)
from store.uploads import release_original
from worker.maintenance.garbage_collection import Steps, collect

logger = logging.getLogger("latentry.maintenance")

_BATCH_ROWS = 500
_BATCH_SECONDS = 0.015
_BATCH_JOBS = 50
_BATCH_MODELS = 20
_SWEEP_LOCK = 0x5EE9  # PostgreSQL's advisory lock: two sweeps of the same rows take turns


@dataclass
class Sweep:
    """One sweep of all tenants.

    Parameters
    ----------
    database, settings
        The database, and the settings with the days of each kind.
    now
        The time from which ages count; the database's clock if None.
    stopping
        Ends the sweep between two transactions.
    """

    database: Database
    settings: Settings
    now: datetime | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    removed: Counter[str] = field(default_factory=Counter)
    _places: dict[tuple[str, str], "Place"] = field(default_factory=dict)

    def rows(self) -> Counter[str]:
        """Remove old rows; return their numbers by kind."""
        for tenant_id, before in self._cutoffs():
            for kind, step in ROWS_OF_JOBS.items():
                if (limit := before(kind)) is not None:
                    self._jobs(tenant_id, kind, limit, step)
            for kind, (due, forget) in ROWS.items():
                if (limit := before(kind)) is not None:
                    self._repeat(kind, due(tenant_id, limit), partial(forget, tenant_id, limit))
        return self.removed

    def files(self, arrays: Store) -> Steps:
        """Remove old checkpoints and originals in short steps; each yields the number of what it has removed."""
        for tenant_id, before in self._cutoffs():
            for kind, remove in FILES.items():
                if (limit := before(kind)) is not None:
                    for number in remove(self, arrays, tenant_id, limit):
                        self.removed[kind] += number
                        yield number

    def _cutoffs(self) -> Iterator[tuple[str, Callable[[str], datetime | None]]]:
        with self.database.read() as session:
            now = self.now or database_now(session)
            tenants = session.execute(select(Tenant.id, Tenant.retention).order_by(Tenant.id)).all()
        for tenant_id, own in tenants:
            yield tenant_id, partial(cutoff, self.settings, own, now)

    def _repeat(self, kind: str, due: Select[str], batch: Callable[[Session], int]) -> None:
        """Run a batch in separate transactions while something is due."""
        while not self.stopping.is_set():
            with self.database.read() as session:
                if session.execute(due.limit(1)).first() is None:
                    return
            begun = time.monotonic()
            with self.database.write() as session:
                _take_turn(session)
                self.removed[kind] += batch(session)
            self.stopping.wait(time.monotonic() - begun)

    def _jobs(self, tenant_id: str, kind: str, before: datetime, step: "Step") -> None:
        """Remove one kind from all jobs that ended before, in the order of their ends."""
        with self.database.read() as session:
            if session.execute(due_jobs(session, tenant_id, kind, before).limit(1)).first() is None:
                return
        while not self.stopping.is_set():
            begun = time.monotonic()
            with self.database.write() as session:
                _take_turn(session)
                jobs = session.execute(due_jobs(session, tenant_id, kind, before).limit(_BATCH_JOBS)).all()
                if not jobs:
                    return
                for job_id, _ended in jobs:
                    self._job(session, kind, job_id, step, begun + _BATCH_SECONDS)
                    if time.monotonic() > begun + _BATCH_SECONDS:
                        break
            self.stopping.wait(time.monotonic() - begun)

    def _job(self, session: Session, kind: str, job_id: str, step: "Step", deadline: float) -> None:
        """Remove one kind from a job until `deadline`, and write the progress if none is left."""
        job = session.get(Job, job_id, with_for_update=LOCK)
        if job is None or job.ended_at is None:
            return  # it was deleted or resumed meanwhile
        place: Place | None = self._places.pop((job_id, kind), (0, 0))
        while place is not None:
            number, place = step(session, job, place)
            if number:
                self.removed[kind] += number
            if place is not None and time.monotonic() > deadline:
                self._places[job_id, kind] = place
                return
        _advance(session, job, kind, job.ended_at)

    def _checkpoints(self, arrays: Store, tenant_id: str, before: datetime) -> Steps:
        while not self.stopping.is_set():
            with self.database.read() as session:
                due = session.execute(due_jobs(session, tenant_id, "checkpoints", before).limit(1)).first()
            if due is None:
                return
            with self.database.write() as session:
                job = session.get(Job, due.id, with_for_update=LOCK)
                if job is None or job.ended_at is None:
                    continue  # it was deleted or resumed meanwhile
                forgotten = (
                    update(Model).where(weights_removed(job)).values(checkpoint_key=None, start_key=None)
                )
                session.execute(forgotten)
            # The progress is written after the bytes are deleted. If this process dies before, the next sweep deletes them.
            yield from collect(self.database, arrays, job.id)
            with self.database.write() as session:
                _advance(session, job, "checkpoints", job.ended_at)
            yield 0

    def _originals(self, _arrays: Store, tenant_id: str, before: datetime) -> Steps:
        originals = open_originals(self.settings)
        with self.database.read() as session:
            files = session.execute(due_originals(tenant_id, before)).scalars().all()
        for sha256 in files:
            if self.stopping.is_set():
                return
            with self.database.write() as session:
                # Everywhere, rows of data sets are locked before the file.
                of_tenant = (Dataset.tenant_id == tenant_id) & (Dataset.original == sha256)
                rows = select(Dataset.id).where(of_tenant).order_by(Dataset.id).with_for_update(**LOCK)
                dataset_ids = session.execute(rows).scalars().all()
                still_due = due_originals(tenant_id, before).where(Dataset.original == sha256)
                if session.execute(still_due).first() is None:
                    continue  # a data set was derived from it meanwhile
                removed = {"original": None, "original_removed_at": database_now(session)}
                session.execute(update(Dataset).where(Dataset.id.in_(dataset_ids)).values(removed))
                release_original(session, originals, sha256)
            yield 1


Place = tuple[int, int]
"""Number of a model, and an epoch: where the next step of a job begins."""
Step = Callable[[Session, Job, Place], tuple[int, Place | None]]
"""Removes about `_BATCH_ROWS` rows of a job, from a place on. Returns how many, and the next place; None if none is left."""


def _take_turn(session: Session) -> None:
    commit_without_waiting(session)
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_SWEEP_LOCK)))


def _advance(session: Session, job: Job, kind: str, ended_at: datetime) -> None:
    row = session.get(RetentionProgress, (job.tenant_id, kind))
    if row is None:
        row = RetentionProgress(tenant_id=job.tenant_id, kind=kind, swept_until=ended_at)
        session.add(row)
    row.swept_until, row.job_id = ended_at, job.id
    session.flush()


def _remove_events(session: Session, job: Job, place: Place) -> tuple[int, Place | None]:
    some = select(Event.id).where(Event.job_id == job.id).order_by(Event.id).limit(_BATCH_ROWS)
    number = _number(session, delete(Event).where(Event.id.in_(some)))
    return number, place if number == _BATCH_ROWS else None


def _remove_slices(session: Session, job: Job, place: Place) -> tuple[int, Place | None]:
    """Remove rows of slices, and add their device time to the job's, as `store.budget` counts it."""
    of_job = select(Slice.id, Slice.kind, Slice.device_seconds).where(Slice.job_id == job.id)
    rows = session.execute(of_job.order_by(Slice.id).limit(_BATCH_ROWS)).all()
    job.swept_device_seconds += sum(row.device_seconds or 0.0 for row in rows if row.kind == "train")
    session.execute(delete(Slice).where(Slice.id.in_([row.id for row in rows])))
    return len(rows), place if len(rows) == _BATCH_ROWS else None


_OF_EPOCHS = (
    CurvePoint.model_id == bindparam("model_id"),
    CurvePoint.epoch > bindparam("after"),
    CurvePoint.epoch <= bindparam("until"),
)
_ALL_POINTS = delete(CurvePoint).where(*_OF_EPOCHS)
_MOST_POINTS = _ALL_POINTS.where(
    thinned_points(bindparam("trained", type_=Integer), bindparam("best", type_=Integer))
)


def _thin_curves(session: Session, job: Job, place: Place) -> tuple[int, Place | None]:
    return _remove_points(session, job, place, _MOST_POINTS, ())


def _remove_thinned_curves(session: Session, job: Job, place: Place) -> tuple[int, Place | None]:
    return _remove_points(session, job, place, _ALL_POINTS, (job.selected_model_id, job.final_model_id))


def _remove_points(
    session: Session, job: Job, place: Place, statement: Delete, kept: Collection[str | None]
) -> tuple[int, Place | None]:
    """Remove points of the models of a job, except `kept`, from a place on, in ranges of epochs."""
    number, after = place
    best = Model.scores["best_epoch"].as_integer()
    of_job = select(Model.id, Model.number, Model.epochs_trained, func.coalesce(best, 0))
    of_job = of_job.where(Model.job_id == job.id, Model.number >= number, Model.epochs_trained > 0)
    models = session.execute(of_job.order_by(Model.number).limit(_BATCH_MODELS)).all()
    removed = 0
    for model_id, number, trained, best_epoch in models:
        while after < trained and model_id not in kept:
            until = after + _BATCH_ROWS
            limits = {"model_id": model_id, "after": after, "until": until}
            removed += _number(session, statement, limits | {"trained": trained, "best": best_epoch})
            after = until
            if removed >= _BATCH_ROWS:
                return removed, (number, after)
        after = 0
    return removed, (number + 1, 0) if len(models) == _BATCH_MODELS else None


def _forget_answers(tenant_id: str, before: datetime, session: Session) -> int:
    keys = due_idempotent_requests(tenant_id, before).limit(_BATCH_ROWS)
    of_tenant = IdempotentRequest.tenant_id == tenant_id
    return _number(session, delete(IdempotentRequest).where(of_tenant, IdempotentRequest.key.in_(keys)))


def _forget_deliveries(tenant_id: str, before: datetime, session: Session) -> int:
    """Remove messages that ended before, and the deleted webhooks that have no messages left."""
    ids = due_deliveries(tenant_id, before).limit(_BATCH_ROWS)
    number = _number(session, delete(WebhookDelivery).where(WebhookDelivery.id.in_(ids)))
    left = select(WebhookDelivery.id).where(WebhookDelivery.webhook_id == Webhook.id).exists()
    is_over = (Webhook.tenant_id == tenant_id) & (Webhook.deleted_at < before) & ~left
    session.execute(delete(Webhook).where(is_over))
    return number


def _forget_shares(tenant_id: str, before: datetime, session: Session) -> int:
    ids = due_shares(tenant_id, before).limit(_BATCH_ROWS)
    return _number(session, delete(Key).where(Key.id.in_(ids)))


# Every kind of `store.retention.KINDS` has a line in one of these.
ROWS_OF_JOBS: dict[str, Step] = {
    "events": _remove_events,
    "slices": _remove_slices,
    "curves": _thin_curves,
    "thinned_curves": _remove_thinned_curves,
}
ROWS: dict[
    str,
    tuple[Callable[[str, datetime], Select[str]], Callable[[str, datetime, Session], int]],
] = {
    "idempotency": (due_idempotent_requests, _forget_answers),
    "deliveries": (due_deliveries, _forget_deliveries),
    "shares": (due_shares, _forget_shares),
}
FILES: dict[str, Callable[[Sweep, Store, str, datetime], Steps]] = {
    "checkpoints": Sweep._checkpoints,
    "originals": Sweep._originals,
}


def _number(session: Session, statement: Delete, values: Mapping[str, Any] | None = None) -> int:
    result = session.execute(statement, values, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return result.rowcount


def sweep_until(stopping: threading.Event, database: Database, settings: Settings) -> None:
    """Sweep old rows and give their space back, every `collect_seconds`, until told to stop."""
    while not stopping.wait(min(settings.collect_seconds, 600.0)):
        try:
            removed = Sweep(database, settings, stopping=stopping).rows()
            if removed.total():
                logger.info(
                    "removed by age: %s", ", ".join(f"{number} {kind}" for kind, number in removed.items())
                )
            give_back_space(database, stopping)
        except Exception:
            logger.exception("the sweep of old data failed; it is tried again")
