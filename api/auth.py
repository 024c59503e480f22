"""Who asks: a key in the header `Authorization`, and what it may do."""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBase
from fastapi.security.base import SecurityBase
from sqlalchemy import select, update

from api.errors import Forbidden, Unauthorized
from store.database import Database, database_now
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Key

Scope = Literal["read", "write", "admin"]
"""`read`: look and download. `write`: everything else with data sets, jobs and models. `admin`: the keys of the tenant."""

ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="latentry", Basic realm="latentry"'}
_USED_EVERY = timedelta(minutes=1)
"""The last use of a key is written no more often."""
_READING = ("GET", "HEAD", "OPTIONS")


class _Scheme(SecurityBase):
    """A way to send a key, for the OpenAPI document; `authenticate` reads the header itself, for all of them."""

    def __init__(self, name: str, scheme: str, description: str) -> None:
        self.scheme_name, self.model = name, HTTPBase(scheme=scheme, description=description)

    def __call__(self) -> None:
        """Nothing to do."""


_BEARER = _Scheme("key", "bearer", "`Authorization: Bearer lat_…`")
_BASIC = _Scheme(
    "key as password", "basic", "For what knows passwords only: any user name, the key as password."
)


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request.

    Attributes
    ----------
    tenant_id
        Whose data sets and jobs are theirs.
    scopes
        What they may do.
    key_id
        Of their key; None without one, or for the key of the settings.
    is_operator
        Whether they run this service: they hold the key of the settings, or no key is asked for.
    """

    tenant_id: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    is_operator: bool = False


def secret_digest(secret: str) -> str:
    """What is kept of a secret: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def authenticate(request: Request) -> Caller:
    """Find out who asks, and whether they may.

    Raises
    ------
    Unauthorized
        Without a key where one is asked for, or with one that is not valid.
    Forbidden
        If the key lacks the scope that the method needs.
    """
    settings: Settings = request.app.state.settings
    header = request.headers.get("authorization")
    if header is None:
        if settings.require_key:
            raise Unauthorized(
                "this service asks for a key, and none came",
                hint="send the header Authorization: Bearer lat_… (`latentry` and the Python client: set LATENTRY_KEY); "
                "whoever runs the service makes keys: `latentry keys create`",
                headers=_CHALLENGE,
            )
        caller = Caller(DEFAULT_TENANT, ALL_SCOPES, is_operator=True)
    else:
        caller = _holder(request.app.state.database, settings, _secret(header))
    needed: Scope = "read" if request.method in _READING else "write"
    if needed not in caller.scopes:
        raise lacks(caller, needed)
    return caller


def lacks(caller: Caller, scope: Scope) -> Forbidden:
    """The problem of a caller who may not."""
    return Forbidden(
        f"this needs a key with the scope {scope!r}; yours has {', '.join(sorted(caller.scopes)) or 'none'}",
        hint="whoever has a key with the scope 'admin' can make one: POST /v1/keys",
    )


def _secret(header: str) -> str:
    """The key in a header."""
    kind, _, given = header.strip().partition(" ")
    if kind.lower() == "bearer" and given.strip():
        return given.strip()
    if kind.lower() == "basic":
        try:
            _user, colon, password = base64.b64decode(given.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if colon:
            return password
    raise Unauthorized(
        "the header Authorization can't be read",
        hint="expected `Bearer lat_…`, or Basic with the key as password",
        headers=_CHALLENGE,
    )


def _holder(database: Database, settings: Settings, secret: str) -> Caller:
    digest = secret_digest(secret)
    operator = settings.admin_key.get_secret_value()
    if operator and hmac.compare_digest(digest, secret_digest(operator)):
        return Caller(DEFAULT_TENANT, ALL_SCOPES, is_operator=True)
    with database.read() as session:
        now = database_now(session)
        row = session.execute(select(Key).where(Key.digest == digest)).scalar_one_or_none()
    if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        why = "is not known here" if row is None else "was revoked" if row.revoked_at else "has expired"
        raise Unauthorized(
            f"the key {why}",
            hint="check that all of it came; whoever runs the service makes a new one: `latentry keys create`",
            headers=_CHALLENGE,
        )
    if row.last_used_at is None or now - row.last_used_at > _USED_EVERY:
        _write_use(database, row.id, now)
    return Caller(row.tenant_id, frozenset(row.scopes) & ALL_SCOPES, row.id)


def _write_use(database: Database, key_id: str, now: datetime) -> None:
    with database.write() as session:
        session.execute(update(Key).where(Key.id == key_id).values(last_used_at=now))


def _caller(
    request: Request,
    _by_bearer: Annotated[None, Depends(_BEARER)],
    _by_password: Annotated[None, Depends(_BASIC)],
) -> Caller:
    return authenticate(request)


CALLER = Depends(_caller)
"""Of every router but those that are open to all."""
CallerDependency = Annotated[Caller, CALLER]
