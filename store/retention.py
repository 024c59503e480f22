"""Retention: for how many days each kind of old data is kept, and which of it is due for removal.

The settings give the days of each kind, and the row of a tenant may override them. What belongs to a job is removed some days
after the end of the job. The table `retention_progress` stores how far each sweep has come, in the order in which jobs ended.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from domain.states import DatasetState
from store.quotas import file_bytes
from store.settings import Settings
from store.tables import (
    ArrayObject,
    CurvePoint,
    Dataset,
    Event,
    IdempotentRequest,
    Job,
    Key,
    Model,
    RetentionProgress,
    Slice,
    UtcDateTime,
    Webhook,
    WebhookDelivery,
)

CURVE_POINTS = 50
"""Number of points, spread over the epochs, that a thinned learning curve keeps besides the first, the best and the last."""
MOST_COUNTED = 1_000_000


def setting_of(kind: str) -> str:
    """Return the name of the environment variable that sets the days of a kind."""
    return f"LATENTRY_KEEP_{kind.upper()}_DAYS"


def kept_days(settings: Settings, own: Mapping[str, Any] | None, kind: str) -> float | None:
    """Return the number of days for which a kind is kept; None: for ever.

    Parameters
    ----------
    settings
        The settings of the service.
    own
        The days that the tenant has instead.
    kind
        One of `KINDS`.
    """
    days = (own or {}).get(kind, getattr(settings, f"keep_{kind}_days"))
    return None if days == "forever" else float(days)


def cutoff(settings: Settings, own: Mapping[str, Any] | None, now: datetime, kind: str) -> datetime | None:
    """Return the time before which a kind is removed; None if it is kept for ever."""
    days = kept_days(settings, own, kind)
    return None if days is None else now - timedelta(days=days)


def is_swept(session: Session, job: Job, kind: str) -> bool:
    """Return whether a kind of old data was removed from a job that has ended."""
    if job.ended_at is None:
        return False
    row = session.get(RetentionProgress, (job.tenant_id, kind))
    return row is not None and (job.ended_at, job.id) <= (row.swept_until, row.job_id)


def why_gone(kind: str) -> str:
    """Return the part of an error message that says why old data is gone."""
    return f"the retention of the service removed it because of its age ({setting_of(kind)})"


def due_jobs(session: Session, tenant_id: str, kind: str, before: datetime) -> Select[str, datetime | None]:
    """Select the jobs of a tenant, oldest first, from which a kind has still to be removed."""
    due = select(Job.id, Job.ended_at).where(Job.tenant_id == tenant_id, Job.ended_at < before)
    row = session.get(RetentionProgress, (tenant_id, kind))
    if row is not None:
        swept = tuple_(literal(row.swept_until, UtcDateTime()), literal(row.job_id))
        due = due.where(tuple_(Job.ended_at, Job.id) > swept)
    return due.order_by(Job.ended_at, Job.id)


def thinned_points(epochs_trained: Any, best_epoch: Any) -> ColumnElement[bool]:
    """Return the condition for the points of a model that thinning removes.

    Parameters
    ----------
    epochs_trained, best_epoch
        Values of one model, or columns of several.
    """
    step = (epochs_trained + (CURVE_POINTS - 1)) // CURVE_POINTS
    kept = (CurvePoint.epoch == 1) | (CurvePoint.epoch == best_epoch) | (CurvePoint.epoch == epochs_trained)
    return and_(CurvePoint.epoch % step != 0, ~kept)


def due_idempotent_requests(tenant_id: str, before: datetime) -> Select[str]:
    """Select the keys of stored responses that are older."""
    of_tenant = IdempotentRequest.tenant_id == tenant_id
    return select(IdempotentRequest.key).where(of_tenant, IdempotentRequest.created_at < before)


def due_deliveries(tenant_id: str, before: datetime) -> Select[str]:
    """Select the messages to webhooks that ended before."""
    webhooks = select(Webhook.id).where(Webhook.tenant_id == tenant_id)
    ended = WebhookDelivery.ended_at < before
    return select(WebhookDelivery.id).where(WebhookDelivery.webhook_id.in_(webhooks), ended)


def due_shares(tenant_id: str, before: datetime) -> Select[str]:
    """Select the shares that expired or were revoked before."""
    of_tenant = (Key.tenant_id == tenant_id) & Key.target_id.is_not(None)
    return select(Key.id).where(of_tenant, or_(Key.expires_at < before, Key.revoked_at < before))


def due_originals(tenant_id: str, before: datetime) -> Select[Any]:
    """Select the SHA-256 of files that no data set of the tenant has used since."""
    other = aliased(Dataset)
    used = exists().where(
        other.tenant_id == tenant_id,
        other.original == Dataset.original,
        (other.original_since >= before) | (other.state == DatasetState.INGESTING),
    )
    of_tenant = (Dataset.tenant_id == tenant_id) & (Dataset.original_since < before)
    return select(Dataset.original).where(of_tenant, Dataset.original.is_not(None), ~used).distinct()


@dataclass(frozen=True)
class Due:
    """What the next sweep removes of one kind.

    Parameters
    ----------
    items
        Number of files, checkpoints or rows, at most `MOST_COUNTED`.
    size_bytes
        Their size. That of rows is an estimate.
    """

    items: int
    size_bytes: int


def count_due(session: Session, tenant_id: str, kind: str, before: datetime) -> Due:
    """Count what the next sweep removes of one of `KINDS`, and remove nothing."""
    return KINDS[kind](session, tenant_id, before)


Count = Callable[[Session, str, datetime], Due]
"""Counts what of a tenant is older than a time."""


def _rows(due: Callable[[str, datetime], Select[str]], row_bytes: int) -> Count:
    """Return how to count rows whose age is not that of a job; `row_bytes` estimates the size of a row with its indexes."""

    def count(session: Session, tenant_id: str, before: datetime) -> Due:
        return _count_rows(session, due(tenant_id, before), row_bytes)

    return count


def _rows_of_jobs(kind: str, rows: Select[Any] | Select[str, int], job_id: Any, row_bytes: int) -> Count:
    """Return how to count rows whose age counts from the end of their job, which the column `job_id` names."""

    def count(session: Session, tenant_id: str, before: datetime) -> Due:
        jobs = due_jobs(session, tenant_id, kind, before).order_by(None).subquery("due")
        return _count_rows(session, rows.join(jobs, jobs.c.id == job_id), row_bytes)

    return count


def _count_rows(session: Session, rows: Select[Any] | Select[str, int], row_bytes: int) -> Due:
    some = rows.limit(MOST_COUNTED).subquery()
    number = session.execute(select(func.count()).select_from(some)).scalar_one()
    return Due(number, number * row_bytes)


def _points_of_jobs(*conditions: ColumnElement[bool]) -> Select[str, int]:
    """Select points of learning curves, of all jobs."""
    points = select(CurvePoint.model_id, CurvePoint.epoch).join(Model, Model.id == CurvePoint.model_id)
    return points.join(Job, Job.id == Model.job_id).where(*conditions)


def _thinned_curves() -> Select[str, int]:
    """Select the points that thinning removes."""
    best = func.coalesce(Model.scores["best_epoch"].as_integer(), 0)
    return _points_of_jobs(Model.epochs_trained > 0, thinned_points(Model.epochs_trained, best))


def _curves_of_others() -> Select[str, int]:
    """Select the points of all models but the selected one and its refit."""
    kept = or_(Model.id == Job.selected_model_id, Model.id == Job.final_model_id)
    return _points_of_jobs(~func.coalesce(kept, False))


def weights_removed(job: Any) -> ColumnElement[bool]:
    """Return the condition for models whose weights the sweep removes from a job: all but the selected one and its refit."""
    kept = or_(Model.id == job.selected_model_id, Model.id == job.final_model_id)
    has_weights = Model.checkpoint_key.is_not(None) | Model.start_key.is_not(None)
    return and_(Model.job_id == job.id, has_weights, ~func.coalesce(kept, False))


def _due_originals(session: Session, tenant_id: str, before: datetime) -> Due:
    files = session.execute(due_originals(tenant_id, before)).scalars().all()
    of_tenant = Dataset.tenant_id == tenant_id, Dataset.original.in_(files)
    return Due(len(files), file_bytes(session, *of_tenant))


def _due_checkpoints(session: Session, tenant_id: str, before: datetime) -> Due:
    jobs = due_jobs(session, tenant_id, "checkpoints", before).order_by(None).subquery("due")
    removed = select(Model.checkpoint_key).join(Job, weights_removed(Job)).join(jobs, jobs.c.id == Job.id)
    keys = removed.where(Model.checkpoint_key.is_not(None)).distinct().subquery("removed")
    number = session.execute(select(func.count()).select_from(keys)).scalar_one()
    size = select(func.coalesce(func.sum(ArrayObject.size_bytes), 0))
    stored = size.join(keys, keys.c.checkpoint_key == ArrayObject.key)
    return Due(number, int(session.execute(stored).scalar_one()))


KINDS: Mapping[str, Count] = MappingProxyType(
    {
        "originals": _due_originals,
        "events": _rows_of_jobs("events", select(Event.id), Event.job_id, 400),
        "slices": _rows_of_jobs("slices", select(Slice.id), Slice.job_id, 600),
        "curves": _rows_of_jobs("curves", _thinned_curves(), Job.id, 250),
        "thinned_curves": _rows_of_jobs("thinned_curves", _curves_of_others(), Job.id, 250),
        "checkpoints": _due_checkpoints,
        "idempotency": _rows(due_idempotent_requests, 4000),
        "deliveries": _rows(due_deliveries, 1000),
        "shares": _rows(due_shares, 500),
    }
)
"""The kinds of old data, and how to count what is due. `worker.maintenance.retention` removes each of them."""
