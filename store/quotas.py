"""What tenants use of their quotas. Each sum reads an index alone, so it costs little with many jobs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from domain.quotas import DEVICE_TIME, QUOTAS, QuotaName, Use, amount, next_day, next_month
from domain.states import JobState, UploadState
from store.database import LOCK, database_now
from store.settings import Settings
from store.tables import Dataset, DeviceUsage, Inference, Job, Key, Model, Slice, Tenant, Upload, Webhook
from store.tables.models import HAS_BYTES

_LEAST_UPLOAD = 2**20
"""Bytes that a smaller unfinished upload counts as, so that the number of uploads is limited too."""
_ROW_BYTES: Mapping[Any, int] = {Inference: 4_000, Upload: 5_000, Webhook: 3_000, Key: 1_000}
"""About how many bytes a row of these tables needs. The rows of jobs and data sets, which can be long, record their sizes."""
_OPEN_JOBS = [state for state in JobState if not state.is_final]


def default_amounts(settings: Settings) -> dict[str, float]:
    """Return the amounts of the settings, by quota."""
    return {name: getattr(settings, f"quota_{name}") for name in QUOTAS if hasattr(settings, f"quota_{name}")}


def lock_tenant(session: Session, tenant_id: str) -> None:
    """Let no other transaction check or use amounts of the tenant until this one ends. SQLite's never overlap anyway."""
    session.get_one(Tenant, tenant_id, with_for_update=LOCK)


def allowed(session: Session, settings: Settings, tenant_id: str) -> Mapping[QuotaName, float]:
    """Return the allowed amount of each quota that the settings have; 0: no limit."""
    defaults = default_amounts(settings)
    own = session.execute(select(Tenant.quotas).where(Tenant.id == tenant_id)).scalar_one_or_none()
    return {name: amount(name, defaults, own) for name in QUOTAS if name in defaults}


def amounts_in_use(session: Session, settings: Settings, tenant_id: str) -> dict[QuotaName, Use]:
    """Return the use of the quotas of amounts: bytes, jobs and shares."""
    limits = allowed(session, settings, tenant_id)
    used: dict[QuotaName, float] = dict.fromkeys(
        ("stored_bytes", "database_bytes", "upload_bytes", "open_jobs", "shares"), 0
    )
    sums = _sums(tenant_id, database_now(session))
    values = session.execute(select(*(query.scalar_subquery() for _, query in sums))).one()
    for (name, _), value in zip(sums, values, strict=True):
        used[name] += int(value)  # PostgreSQL adds decimals
    return {name: Use(name, value, limits[name]) for name, value in used.items()}


def device_time(session: Session, settings: Settings, tenant_id: str) -> list[Use]:
    """Return the use of the device time of this day and this month."""
    today, seconds = database_now(session).date(), DeviceUsage.device_seconds
    used = session.execute(
        select(
            func.coalesce(func.sum(seconds).filter(DeviceUsage.day == today), 0.0),
            func.coalesce(func.sum(seconds), 0.0),
        ).where(DeviceUsage.tenant_id == tenant_id, DeviceUsage.day >= today.replace(day=1))
    ).one()
    limits, ends = allowed(session, settings, tenant_id), (next_day(today), next_month(today))
    return [
        Use(name, value, limits[name], end) for name, value, end in zip(DEVICE_TIME, used, ends, strict=True)
    ]


def spent_device_time(session: Session, settings: Settings, tenant_id: str) -> Use | None:
    """Return the device time that is spent and frees last; None while the tenant's work may begin."""
    spent = [one for one in device_time(session, settings, tenant_id) if one.is_spent]
    return spent[-1] if spent else None


def why_work_waits(session: Session, settings: Settings, tenant: Tenant) -> str | None:
    """Return why no work of a tenant begins: the operator paused it, or its device time is spent. None: work may begin."""
    if tenant.paused_at is not None:
        return tenant.pause_sentence
    spent = spent_device_time(session, settings, tenant.id)
    return None if spent is None else spent.sentence()


def note_device_time(session: Session, settings: Settings, tenant: Tenant) -> None:
    """Write when the tenant's device time frees, so that its work waits until then or begins."""
    spent = spent_device_time(session, settings, tenant.id)
    frees_at = None if spent is None else spent.frees_at
    if tenant.device_time_frees_at != frees_at:
        tenant.device_time_frees_at = frees_at


def note_device_times(session: Session, settings: Settings) -> None:
    """Do what `note_device_time` does for all tenants, after changed settings and cancelled work."""
    today = database_now(session).date()
    used = select(DeviceUsage.tenant_id).where(DeviceUsage.day == today)
    waiting = Tenant.device_time_frees_at.is_not(None)
    for tenant in session.execute(select(Tenant).where(waiting | Tenant.id.in_(used))).scalars():
        note_device_time(session, settings, tenant)


def use_device_time(session: Session, settings: Settings, row: Slice | Inference) -> None:
    """Add the time since a slice or an inference was claimed to its tenant's day. If it is spent, further work waits.

    Call this last in a transaction, because other transactions of the tenant wait for the row.
    """
    if row.started_at is None:
        return
    session.flush()
    add_device_seconds(session, row.tenant_id, seconds_since_claim(session, row))
    note_device_time(session, settings, session.get_one(Tenant, row.tenant_id))


def seconds_since_claim(session: Session, row: Slice | Inference) -> float:
    """Return the time since a slice or an inference was claimed; 0 if it was not."""
    return 0.0 if row.started_at is None else (database_now(session) - row.started_at).total_seconds()


def add_device_seconds(session: Session, tenant_id: str, seconds: float) -> None:
    """Add device time to the tenant's day. Call this last in a transaction, as `use_device_time`."""
    if seconds <= 0:
        return
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    row = insert(DeviceUsage).values(
        tenant_id=tenant_id, day=database_now(session).date(), device_seconds=seconds
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=["tenant_id", "day"],
            set_={"device_seconds": DeviceUsage.device_seconds + row.excluded.device_seconds},
        )
    )


def file_bytes(session: Session, *conditions: ColumnElement[bool]) -> int:
    """Return the size of the files of the data sets that meet conditions. A file of several counts once."""
    size = func.max(Dataset.original_bytes).label("size")
    files = (
        select(size).where(Dataset.original.is_not(None), *conditions).group_by(Dataset.original).subquery()
    )
    return int(session.execute(select(func.coalesce(func.sum(files.c.size), 0))).scalar_one())


def stored_bytes(session: Session, tenant_id: str) -> dict[str, int]:
    """Return what a tenant stores, in bytes, by kind: files, arrays, models and inferences."""
    kinds, queries = ("files", "arrays", "models", "inferences"), _stored_bytes(tenant_id)
    return {
        kind: int(session.execute(query).scalar_one()) for kind, query in zip(kinds, queries, strict=True)
    }


def _sums(tenant_id: str, now: datetime) -> list[tuple[QuotaName, Select[int]]]:
    """Return the queries whose results add up to the used amount of each quota."""
    return [
        *(("stored_bytes", query) for query in _stored_bytes(tenant_id)),
        *(("database_bytes", query) for query in _database_bytes(tenant_id)),
        ("upload_bytes", _upload_bytes(tenant_id)),
        ("open_jobs", _open_jobs(tenant_id)),
        ("shares", _shares(tenant_id, now)),
    ]


def _stored_bytes(tenant_id: str) -> list[Select[int]]:
    """Return the queries of the bytes of files, arrays and weights. A file of several data sets counts once."""
    of_datasets = select(Dataset.original, Dataset.original_bytes).where(
        Dataset.tenant_id == tenant_id, Dataset.original.is_not(None)
    )
    of_uploads = select(Upload.sha256, Upload.size_bytes).where(
        Upload.tenant_id == tenant_id, Upload.state == UploadState.COMPLETE
    )
    files = of_datasets.union(of_uploads).subquery()
    weights = func.coalesce(Model.checkpoint_bytes, 0) + func.coalesce(Model.latents_bytes, 0)
    return [
        select(func.coalesce(func.sum(files.c.original_bytes), 0)),
        select(func.coalesce(func.sum(Dataset.array_bytes), 0)).where(Dataset.tenant_id == tenant_id),
        select(func.coalesce(func.sum(weights), 0)).where(
            Model.tenant_id == tenant_id, text(f"({HAS_BYTES})")
        ),
        select(func.coalesce(func.sum(Inference.latents_bytes), 0)).where(Inference.tenant_id == tenant_id),
    ]


def _database_bytes(tenant_id: str) -> list[Select[Any]]:
    long_rows = [
        select(func.coalesce(func.sum(table.row_bytes), 0)).where(table.tenant_id == tenant_id)
        for table in (Job, Dataset)
    ]
    others = [
        select(func.count(table.tenant_id) * size).where(table.tenant_id == tenant_id)
        for table, size in _ROW_BYTES.items()
    ]
    return [*long_rows, *others]


def _upload_bytes(tenant_id: str) -> Select[int]:
    size = case((Upload.size_bytes < _LEAST_UPLOAD, _LEAST_UPLOAD), else_=Upload.size_bytes)
    return select(func.coalesce(func.sum(size), 0)).where(
        Upload.tenant_id == tenant_id, Upload.state == UploadState.RECEIVING
    )


def _open_jobs(tenant_id: str) -> Select[int]:
    return select(func.count(Job.state)).where(Job.tenant_id == tenant_id, Job.state.in_(_OPEN_JOBS))


def _shares(tenant_id: str, now: datetime) -> Select[int]:
    valid = Key.revoked_at.is_(None) & (Key.expires_at > now)
    return select(func.count(Key.target_id)).where(
        Key.target_id.is_not(None), Key.tenant_id == tenant_id, valid
    )
