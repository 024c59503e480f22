"""The database operations of the routes of usage."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from api.auth import Caller
from api.errors import Forbidden, NotFound
from api.http.pagination import Page, cut_page, decode_tenant
from api.labels import names_of_jobs
from api.limits.request_rates import Holder, LiveUse
from api.usage.schemas import (
    QueueDocument,
    QuotaAmounts,
    UsageDocument,
    WorkDocument,
    WorkerDocument,
    WorkersDocument,
)
from domain.quotas import QuotaName, QuotaState, Use
from domain.states import DatasetState, InferenceState, SliceState
from store import audit, outbox, quotas
from store.database import database_now
from store.settings import Settings
from store.tables import Dataset, Deletion, Inference, OutboxMessage, Slice, Tenant
from store.workers import alive_workers

_Queue = Literal["slices", "inferences", "ingests", "deletions", "messages"]


def document(
    session: Session,
    settings: Settings,
    live_uses: Sequence[LiveUse],
    tenant: Tenant,
    key_id: str | None = None,
) -> UsageDocument:
    """Return the use of a tenant; with the id of a key also the use of the key."""
    own = tenant.quotas or {}
    limits = quotas.allowed(session, settings, tenant.id)
    uses: dict[QuotaName, Use] = dict(quotas.amounts_in_use(session, settings, tenant.id))
    uses["job_model_epochs"] = Use("job_model_epochs", 0, limits["job_model_epochs"])
    uses |= {use.name: use for use in quotas.device_time(session, settings, tenant.id)}
    holder = Holder(tenant.id, key_id, own)
    uses |= {use.name: use for live in live_uses if (use := live(holder)) is not None}
    return UsageDocument(
        tenant=tenant.id,
        quotas=[QuotaState.of(use) for use in uses.values()],
        own_amounts=own,
        waits_for=quotas.why_work_waits(session, settings, tenant),
        paused_at=tenant.paused_at,
        pause_reason=tenant.pause_reason,
        links={"self": f"/v1/usage?tenant={tenant.id}"},
    )


def find(session: Session, caller: Caller, tenant_id: str | None) -> Tenant:
    """Return the caller's tenant, or another one for the operator.

    Raises
    ------
    Forbidden, NotFound
        If the caller is not the operator and asks for another tenant, or the tenant does not exist.
    """
    wanted = tenant_id or caller.tenant_id
    if wanted != caller.tenant_id:
        require_operator(caller)
    if (row := session.get(Tenant, wanted)) is None:
        raise NotFound(f"there is no tenant {wanted}", hint="GET /v1/usage/tenants lists them")
    return row


def require_operator(caller: Caller) -> None:
    """Raise `Forbidden` unless the caller operates the service."""
    if not caller.is_operator:
        raise Forbidden(
            "only the operator of the service sees workers and other tenants, and changes quotas",
            hint="use the key of the settings, LATENTRY_ADMIN_KEY. GET /v1/usage shows what your tenant uses",
        )


def list_page(
    session: Session, settings: Settings, live_uses: Sequence[LiveUse], page_size: int, page_token: str | None
) -> Page[UsageDocument]:
    """Return a page of the use of all tenants, by their names."""
    query = select(Tenant).order_by(Tenant.id).limit(page_size + 1)
    if (after := decode_tenant(page_token)) is not None:
        query = query.where(Tenant.id > after)
    found = session.execute(query).scalars().all()
    rows, token = cut_page(found, page_size, [row.id for row in found])
    return Page(items=[document(session, settings, live_uses, row) for row in rows], next_page_token=token)


def change(session: Session, settings: Settings, row: Tenant, amounts: QuotaAmounts) -> None:
    """Set amounts of a tenant; null removes an own amount."""
    changed: Mapping[str, float | None] = amounts.model_dump(exclude_unset=True)
    merged = {**(row.quotas or {}), **changed}
    row.quotas = {name: value for name, value in merged.items() if value is not None} or None
    audit.record(session, "tenant.quotas_changed", row, **changed)
    session.flush()
    quotas.note_device_time(session, settings, row)
    session.flush()


def pause(session: Session, row: Tenant, reason: str) -> None:
    """Let no work of a tenant begin; what runs ends. A paused tenant gets the new reason."""
    is_paused = row.paused_at is not None
    if is_paused and (row.pause_reason or "") == reason:
        return
    if not is_paused:
        row.paused_at = database_now(session)
    row.pause_reason = reason or None
    audit.record(session, "tenant.paused", row, reason=reason)


def resume(session: Session, row: Tenant) -> None:
    """Let the work of a paused tenant begin again, at once."""
    if row.paused_at is None:
        return
    row.paused_at = row.pause_reason = None
    audit.record(session, "tenant.resumed", row)
    for task in (outbox.RUN_SLICE, outbox.INGEST):  # the maintenance loop sends the further messages
        outbox.post(session, task)


@dataclass(frozen=True)
class _Audited:
    """The worker of an entry of the log, whose ids are shorter than names: the end of a name is unique."""

    id: str
    tenant_id: str


def drain(session: Session, caller: Caller, name: str) -> WorkerDocument:
    """Let a worker begin nothing more, and end when it is idle.

    Raises
    ------
    NotFound
        If no worker of this name is alive.
    """
    worker = next((one for one in alive_workers(session) if one.name == name), None)
    if worker is None:
        raise NotFound(f"no worker {name} is alive", hint="GET /v1/workers lists those that are")
    if worker.draining_since is None:
        worker.draining_since = database_now(session)
        entry = _Audited(name[-40:], caller.tenant_id)
        audit.record(session, "worker.drained", entry, name=name, device=worker.device)
        session.flush()
    return next(one for one in workers(session).workers if one.name == name)


def workers(session: Session) -> WorkersDocument:
    """Return the workers that are alive with what they do, and the numbers of what waits and runs, of all tenants."""
    work: dict[str | None, list[WorkDocument]] = defaultdict(list)
    leased = session.execute(select(Slice).where(Slice.state == SliceState.LEASED)).scalars().all()
    names = names_of_jobs(session, [row.job_id for row in leased])
    for row in leased:
        work[row.leased_by].append(
            _work(row.kind, row, row.job_id, len(row.model_ids), names.get(row.job_id))
        )
    for one in session.execute(select(Inference).where(Inference.state == InferenceState.RUNNING)).scalars():
        work[one.leased_by].append(_work("inference", one))
    alive = sorted(alive_workers(session), key=lambda worker: worker.name)
    return WorkersDocument(
        workers=[
            WorkerDocument(
                name=one.name,
                device=one.device,
                device_name=one.device_name,
                started_at=one.started_at,
                seen_at=one.seen_at,
                draining_since=one.draining_since,
                work=work[one.name],
            )
            for one in alive
        ],
        queues=_queues(session),
    )


def _work(
    kind: str, row: Slice | Inference, job_id: str | None = None, models: int = 1, job_name: str | None = None
) -> WorkDocument:
    names = {"job_id": job_id, "job_name": job_name}
    return WorkDocument(
        kind=kind, id=row.id, tenant=row.tenant_id, models=models, since=row.started_at, **names
    )


def _queues(session: Session) -> list[QueueDocument]:
    ingesting = Dataset.state == DatasetState.INGESTING
    held = Dataset.leased_by.is_not(None) & Dataset.lease_token.is_not(None)
    is_deleting = Deletion.held_until > database_now(session)
    counted: dict[_Queue, tuple[Any, ColumnElement[bool], ColumnElement[bool] | None]] = {
        "slices": (Slice.created_at, Slice.state == SliceState.QUEUED, Slice.state == SliceState.LEASED),
        "inferences": (
            Inference.created_at,
            Inference.state == InferenceState.QUEUED,
            Inference.state == InferenceState.RUNNING,
        ),
        "ingests": (Dataset.created_at, ingesting & ~held, ingesting & held),
        "deletions": (Deletion.requested_at, Deletion.held_until.is_(None) | ~is_deleting, is_deleting),
        "messages": (OutboxMessage.created_at, OutboxMessage.id.is_not(None), None),
    }
    found = []
    for name, (made_at, waits, runs) in counted.items():
        waiting, oldest = session.execute(select(func.count(), func.min(made_at)).where(waits)).one()
        running = 0 if runs is None else session.execute(select(func.count()).where(runs)).scalar_one()
        found.append(QueueDocument(name=name, waiting=waiting, running=running, waiting_since=oldest))
    return found
