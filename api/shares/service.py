"""The database operations of the routes of shares. A share is a row of the table of keys that has a target."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from api.datasets.service import find as find_dataset
from api.errors import Invalid, NotFound
from api.grants import KIND_OF_PREFIX, TargetKind
from api.http.idempotency import fingerprint, store_answer, stored_answer
from api.http.pagination import Page, newest_page
from api.jobs.service import find as find_job
from api.limits.quotas import check_amounts
from api.models.service import find as find_model
from api.shares.schemas import DEFAULT_DAYS, NewShare, ShareDocument, ShareRequest, ShareState
from domain.states import JobState
from store import audit
from store.database import database_now
from store.deletion import SHARED, revoke_shares
from store.identifiers import PATTERN
from store.keys import new_key
from store.settings import Settings
from store.tables import Dataset, Job, Key, Model

_FIND: Mapping[TargetKind, Callable[[Session, str, str], Any]] = {
    "dataset": find_dataset,
    "job": find_job,
    "model": find_model,
}


def documents(session: Session, rows: Sequence[Key]) -> list[ShareDocument]:
    """Return the documents of shares."""
    now, targets = database_now(session), _targets(session, {str(row.target_id) for row in rows})
    return [_document(row, *targets.get(str(row.target_id), ("", {})), now) for row in rows]


def _targets(session: Session, ids: set[str]) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the names and the links of targets, by id. A model is named by its number and after its job."""
    datasets = select(Dataset.id, Dataset.name).where(Dataset.id.in_(ids))
    named = func.coalesce(func.nullif(Job.name, ""), literal("search on ") + Dataset.name)
    jobs = select(Job.id, named).join(Dataset, Dataset.id == Job.dataset_id).where(Job.id.in_(ids))
    models = (
        select(Model.id, Model.number, named, Job.id)
        .join(Job, Job.id == Model.job_id)
        .join(Dataset, Dataset.id == Job.dataset_id)
        .where(Model.id.in_(ids))
    )
    found = {}
    for kind, query in (("dataset", datasets), ("job", jobs)):
        for row_id, name in session.execute(query):
            found[row_id] = name, {kind: f"/v1/{kind}s/{row_id}"}
    for row_id, number, name, job_id in session.execute(models):
        found[row_id] = (
            f"model {number} of {name}",
            {"model": f"/v1/models/{row_id}", "job": f"/v1/jobs/{job_id}"},
        )
    return found


def _document(row: Key, target_name: str, links: dict[str, str], now: datetime) -> ShareDocument:
    target_id, expires_at = row.target_id or "", row.expires_at or now
    kind = KIND_OF_PREFIX[target_id.partition("_")[0]]
    state: ShareState = "active" if expires_at > now else "expired"
    return ShareDocument(
        id=row.id,
        kind=kind,
        target_id=target_id,
        target_name=target_name,
        label=row.name,
        state="revoked" if row.revoked_at else state,
        beginning=row.beginning,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        links={"self": f"/v1/shares/{row.id}", **links},
    )


def create(
    session: Session, settings: Settings, tenant_id: str, request: ShareRequest, idempotency_key: str | None
) -> NewShare:
    """Share a data set, a job or a model.

    Raises
    ------
    NotFound, Invalid, QuotaReached
        If the target does not exist, the time of expiry is not allowed, or the tenant has too many shares.
    """
    asked = fingerprint("POST /v1/shares", request.model_dump_json())
    if (stored := stored_answer(session, tenant_id, idempotency_key, asked)) is not None:
        return NewShare.model_validate(stored)
    _require_target(session, tenant_id, request.target_id)
    check_amounts(session, settings, tenant_id, shares=1)
    now = database_now(session)
    row, token = new_key(
        "share",
        now,
        tenant_id=tenant_id,
        name=request.label,
        scopes=["read"],
        expires_at=_expiry(settings, request, now),
        target_id=request.target_id,
    )
    session.add(row)
    audit.record(session, "share.created", row, target_id=row.target_id)
    session.flush()
    made = NewShare(**documents(session, [row])[0].model_dump(), token=token)
    kept = made.model_copy(update={"token": None})  # the token itself is never stored
    store_answer(session, tenant_id, idempotency_key, asked, kept.model_dump(mode="json"))
    return made


def _require_target(session: Session, tenant_id: str, target_id: str) -> None:
    """Raise `NotFound` unless the tenant has the target. Nobody may delete it before the transaction ends."""
    kind = KIND_OF_PREFIX.get(target_id.partition("_")[0], "dataset")
    row = _FIND[kind](session, tenant_id, target_id)
    deleted_with = session.get_one(Job, row.job_id) if isinstance(row, Model) else row
    session.refresh(deleted_with, with_for_update=SHARED)
    if deleted_with.state == JobState.DELETING:
        raise NotFound(f"{target_id} is being deleted")


def _expiry(settings: Settings, request: ShareRequest, now: datetime) -> datetime:
    latest = now + timedelta(days=settings.share_max_days)
    if request.expires_at is None and request.expires_in_days is None:
        return min(now + timedelta(days=DEFAULT_DAYS), latest)
    if request.expires_at is not None:
        is_allowed = now < request.expires_at <= latest
        found, given, name = request.expires_at, request.expires_at.isoformat(), "expires_at"
    else:
        days = request.expires_in_days or 0.0
        is_allowed = days <= settings.share_max_days
        found, given, name = (
            now + timedelta(days=min(days, settings.share_max_days)),
            f"{days:g}",
            "expires_in_days",
        )
    if not is_allowed:
        raise Invalid.field(
            f"/{name}",
            name,
            f"expected a time within {settings.share_max_days:g} days from now; got {given}",
            "the operator of the service sets the maximum: LATENTRY_SHARE_MAX_DAYS",
        )
    return found


def list_page(
    session: Session, tenant_id: str, target_id: str | None, page_size: int, page_token: str | None
) -> Page[ShareDocument]:
    """Return a page of the tenant's shares, newest first; of one target, if it is given."""
    query = select(Key).where(Key.tenant_id == tenant_id, Key.target_id.is_not(None))
    if target_id is not None:
        query = query.where(Key.target_id == target_id)
    rows, token = newest_page(session, query, Key, page_size, page_token)
    return Page(items=documents(session, rows), next_page_token=token)


def find(session: Session, tenant_id: str, share_id: str) -> Key:
    """Return a share of the tenant, or raise `NotFound`."""
    row = session.get(Key, share_id) if PATTERN.fullmatch(share_id) else None
    if row is None or row.target_id is None or row.tenant_id != tenant_id:
        raise NotFound(f"there is no share {share_id}", hint="GET /v1/shares lists those of your lab")
    return row


def revoke(session: Session, tenant_id: str, share_id: str) -> ShareDocument:
    """Revoke a share. Revoking it again changes nothing."""
    row = find(session, tenant_id, share_id)
    revoke_shares(session, Key.id == row.id)
    session.flush()
    return documents(session, [row])[0]
