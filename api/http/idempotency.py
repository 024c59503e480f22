"""`Idempotency-Key`: the response to a POST is stored in the same transaction as its result.

A repeated request with the same key gets the stored response. A different request with the same key gets 422. If two equal
requests arrive at once, the second waits for the transaction of the first and then gets its response.
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
        description="A text of your choice that identifies this request. A repeated request with the same key returns the stored "
        "response and creates nothing new.",
    ),
]


def fingerprint(route: str, content: str) -> str:
    """Return the fingerprint of a request. Equal fingerprints mean equal route and content."""
    return hashlib.sha256(f"{route}\n{content}".encode()).hexdigest()


def stored_answer(session: Session, tenant_id: str, key: str | None, request: str) -> dict[str, Any] | None:
    """Return the stored response body of an earlier equal request, or None.

    Raises
    ------
    IdempotencyMismatch
        If the key was used for a different request.
    """
    if key is None:
        return None
    if session.get_bind().dialect.name == "postgresql":
        # SQLite runs one writing transaction at a time, so it needs no lock.
        lock = func.hashtextextended(f"{tenant_id}\n{key}", 0)
        session.execute(select(func.pg_advisory_xact_lock(lock)))
    row = session.get(IdempotentRequest, (tenant_id, key))
    if row is None:
        return None
    if row.fingerprint != request:
        raise IdempotencyMismatch(
            f"the Idempotency-Key {key!r} was used before for a different request",
            hint="use a new key for each new request; repeat a key only with exactly the same request",
        )
    return row.body


def store_answer(
    session: Session, tenant_id: str, key: str | None, request: str, body: dict[str, Any]
) -> None:
    """Store the response body of a request for its repetitions."""
    if key is not None:
        session.add(
            IdempotentRequest(
                tenant_id=tenant_id, key=key, fingerprint=request, body=body, resource_id=body.get("id")
            )
        )
