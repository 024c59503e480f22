"""What routes of keys do in the database."""

import secrets
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import ALL_SCOPES, Caller, lacks, secret_digest
from api.errors import Forbidden, Invalid, NotFound
from api.idempotency import fingerprint, store_answer, stored_answer
from api.keys.schemas import KeyDocument, KeyRequest, NewKey
from api.pagination import Page, cut_page, decode_id
from api.validation_errors import FieldProblem
from store.database import database_now
from store.identifiers import PATTERN, new_id
from store.tables import Key, Tenant

_BEGINNING = len("lat_") + 6
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)


def document(row: Key) -> KeyDocument:
    """A key as it is answered."""
    return KeyDocument(
        id=row.id,
        name=row.name,
        tenant=row.tenant_id,
        scopes=sorted(ALL_SCOPES & set(row.scopes)),
        beginning=row.beginning,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )


def create(session: Session, caller: Caller, request: KeyRequest, idempotency_key: str | None) -> NewKey:
    """Make a key.

    Raises
    ------
    Forbidden
        If the caller may not: no scope can be given that one lacks, no tenant but one's own.
    Invalid
        If it would have expired already.
    """
    require_admin(caller)
    asked = fingerprint("POST /v1/keys", request.model_dump_json())
    if (stored := stored_answer(session, caller.tenant_id, idempotency_key, asked)) is not None:
        return NewKey.model_validate(stored)
    tenant_id = request.tenant or caller.tenant_id
    if tenant_id != caller.tenant_id and not caller.is_operator:
        raise Forbidden(
            f"your key makes keys for {caller.tenant_id!r}, not for {tenant_id!r}",
            hint="only whoever runs the service can, with the key of its settings",
        )
    for scope in request.scopes:
        if scope not in caller.scopes:
            raise lacks(caller, scope)
    now = database_now(session)
    expires_at = request.expires_at
    if expires_at is not None and not now < expires_at < _LATEST:
        message = f"expected a time to come, before {_LATEST.year}; got {expires_at.isoformat()}, it is {now.isoformat()}"
        raise Invalid(
            message, errors=[FieldProblem(pointer="expires_at", code="expires_at", message=message)]
        )
    if session.get(Tenant, tenant_id) is None:
        session.add(Tenant(id=tenant_id, name=tenant_id))
        session.flush()
    secret = f"lat_{secrets.token_urlsafe(32)}"
    row = Key(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=request.name,
        digest=secret_digest(secret),
        beginning=secret[:_BEGINNING],
        scopes=sorted(set(request.scopes)),
        created_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    made = NewKey(**document(row).model_dump(), secret=secret)
    kept = made.model_copy(update={"secret": None})  # a secret is kept nowhere
    store_answer(session, caller.tenant_id, idempotency_key, asked, kept.model_dump(mode="json"))
    return made


def list_page(session: Session, caller: Caller, page_size: int, page_token: str | None) -> Page[KeyDocument]:
    """A page of the tenant's keys, newest first; of everybody's for whoever runs the service."""
    require_admin(caller)
    query = select(Key).order_by(Key.id.desc())
    if not caller.is_operator:
        query = query.where(Key.tenant_id == caller.tenant_id)
    if (before := decode_id(page_token)) is not None:
        query = query.where(Key.id < before)
    rows = session.execute(query.limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [row.id for row in rows])
    return Page[KeyDocument](items=[document(row) for row in rows], next_page_token=token)


def find(session: Session, caller: Caller, key_id: str) -> Key:
    """Return a key that the caller may manage, or raise `NotFound`."""
    require_admin(caller)
    row = session.get(Key, key_id) if PATTERN.fullmatch(key_id) else None
    if row is None or not (caller.is_operator or row.tenant_id == caller.tenant_id):
        raise NotFound(f"there is no key {key_id}", hint="GET /v1/keys lists them")
    return row


def revoke(session: Session, caller: Caller, key_id: str) -> KeyDocument:
    """Make a key worthless from now on; again changes nothing."""
    row = find(session, caller, key_id)
    row.revoked_at = row.revoked_at or database_now(session)
    return document(row)


def require_admin(caller: Caller) -> None:
    """Refuse whoever may not manage keys."""
    if "admin" not in caller.scopes:
        raise lacks(caller, "admin")
