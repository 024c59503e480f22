"""The database operations of the routes of keys."""

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import ALL_SCOPES, Caller, require_scope
from api.errors import Forbidden, Invalid, NotFound
from api.http.idempotency import fingerprint, store_answer, stored_answer
from api.http.pagination import Page, newest_page
from api.keys.schemas import KeyDocument, KeyRequest, NewKey
from api.limits.quotas import check_amounts
from store import audit
from store.database import database_now
from store.deletion import revoke_shares
from store.identifiers import PATTERN
from store.keys import new_key
from store.settings import Settings
from store.tables import Key, Tenant

_LATEST = datetime(9000, 1, 1, tzinfo=UTC)


def document(row: Key) -> KeyDocument:
    """Return the document of a key."""
    return KeyDocument(
        id=row.id,
        name=row.name,
        tenant=row.tenant_id,
        scopes=sorted(ALL_SCOPES & set(row.scopes)),
        beginning=row.beginning,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )


def create(
    session: Session, settings: Settings, caller: Caller, request: KeyRequest, idempotency_key: str | None
) -> NewKey:
    """Create a key.

    Raises
    ------
    Forbidden
        If the caller lacks one of the scopes, or names another tenant and is not the operator.
    Invalid
        If the time of expiry is in the past.
    QuotaReached
        If the tenant may have no more rows.
    """
    require_scope(caller, "admin")
    asked = fingerprint("POST /v1/keys", request.model_dump_json())
    if (stored := stored_answer(session, caller.tenant_id, idempotency_key, asked)) is not None:
        return NewKey.model_validate(stored)
    tenant_id = request.tenant or caller.tenant_id
    if tenant_id != caller.tenant_id and not caller.is_operator:
        raise Forbidden(
            f"your key can create keys for the tenant {caller.tenant_id!r}, not for {tenant_id!r}",
            hint="only the operator of the service can do this, with the key of the settings",
        )
    for scope in request.scopes:
        require_scope(caller, scope)
    now = database_now(session)
    expires_at = request.expires_at
    if expires_at is not None and not now < expires_at < _LATEST:
        raise Invalid.field(
            "/expires_at",
            "expires_at",
            f"expected a time after {now.isoformat()} and before the year {_LATEST.year}; got {expires_at.isoformat()}",
        )
    if session.get(Tenant, tenant_id) is None:
        session.add(Tenant(id=tenant_id, name=tenant_id))
        session.flush()
    check_amounts(session, settings, tenant_id)
    row, secret = new_key(
        "key",
        now,
        tenant_id=tenant_id,
        name=request.name,
        scopes=sorted(set(request.scopes)),
        expires_at=expires_at,
    )
    session.add(row)
    audit.record(session, "key.created", row)
    session.flush()
    made = NewKey(**document(row).model_dump(), secret=secret)
    kept = made.model_copy(update={"secret": None})  # the secret itself is never stored
    store_answer(session, caller.tenant_id, idempotency_key, asked, kept.model_dump(mode="json"))
    return made


def list_page(session: Session, caller: Caller, page_size: int, page_token: str | None) -> Page[KeyDocument]:
    """Return a page of the tenant's keys, newest first; the operator sees the keys of all tenants."""
    require_scope(caller, "admin")
    query = select(Key).where(Key.target_id.is_(None))
    if not caller.is_operator:
        query = query.where(Key.tenant_id == caller.tenant_id)
    rows, token = newest_page(session, query, Key, page_size, page_token)
    return Page[KeyDocument](items=[document(row) for row in rows], next_page_token=token)


def find(session: Session, caller: Caller, key_id: str) -> Key:
    """Return a key that the caller may manage, or raise `NotFound`."""
    require_scope(caller, "admin")
    row = session.get(Key, key_id) if PATTERN.fullmatch(key_id) else None
    if (
        row is None
        or row.target_id is not None
        or not (caller.is_operator or row.tenant_id == caller.tenant_id)
    ):
        raise NotFound(f"there is no key {key_id}", hint="GET /v1/keys lists them")
    return row


def revoke(session: Session, caller: Caller, key_id: str) -> KeyDocument:
    """Revoke a key, and the shares that it made. Revoking it again changes nothing."""
    row = find(session, caller, key_id)
    if row.revoked_at is None:
        row.revoked_at = database_now(session)
        revoke_shares(session, Key.created_by_key == row.id)
        audit.record(session, "key.revoked", row)
    return document(row)
