"""`Idempotency-Key`: the answer to a POST is stored in the transaction of what it made.

Same key and request: the stored answer. Same key, other request: 422. Two at once: the second waits for the first's
transaction and then gets its answer.
"""

import hashlib
from typing import Annotated, Any

from fastapi import Header
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.errors import IdempotencyMismatch
from store.tables import IdempotentRequest

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="A name of your choice for this request; sent again with the same key, it is answered and not repeated.",
    ),
]


def fingerprint(route: str, content: str) -> str:
    """What makes two requests the same: the route and the SHA-256 of the content."""
    return hashlib.sha256(f"{route}\n{content}".encode()).hexdigest()


def stored_answer(session: Session, tenant_id: str, key: str | None, request: str) -> dict[str, Any] | None:
    """Return the body that was answered to this request before, or None.

    Raises
    ------
    IdempotencyMismatch
        If the key came with another request.
    """
    if key is None:
        return None
    if session.get_bind().dialect.name == "postgresql":
        # SQLite's writing transactions come one after the other anyway.
        lock = func.hashtextextended(f"{tenant_id}\n{key}", 0)
        session.execute(select(func.pg_advisory_xact_lock(lock)))
    row = session.get(IdempotentRequest, (tenant_id, key))
    if row is None:
        return None
    if row.fingerprint != request:
        raise IdempotencyMismatch(
            f"the Idempotency-Key {key!r} was used before, for another request",
            hint="use a fresh key for each new request; repeat a key only with the very same request",
        )
    return row.body


def store_answer(
    session: Session, tenant_id: str, key: str | None, request: str, body: dict[str, Any]
) -> None:
    """Keep an answer for when its key comes again."""
    if key is not None:
        session.add(IdempotentRequest(tenant_id=tenant_id, key=key, fingerprint=request, body=body))
