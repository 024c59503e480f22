"""Authentication by the key in the header `Authorization`, and the scopes of keys."""

import hmac
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Annotated, Literal, get_args

from cachetools import LRUCache
from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBase
from fastapi.security.base import SecurityBase
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from starlette.datastructures import State
from structlog.contextvars import bind_contextvars

from api.errors import Forbidden, TooManyRequests, Unauthorized
from api.grants import Grant, check_grant
from api.limits.request_rates import RequestRates
from api.limits.wrong_keys import CHALLENGE, secret_of
from store.database import Database, database_now
from store.disk_errors import is_disk_error
from store.keys import SHARE_PREFIX, secret_digest
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Actor, Key, Tenant, acting

logger = logging.getLogger(__name__)

Scope = Literal["read", "write", "admin"]
"""`read`: read and download. `write`: change data sets, jobs and models. `admin`: manage the keys of the tenant, and read its
log of changes.
"""

ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
_USED_EVERY = timedelta(minutes=1)
"""The database stores the last use of a key at most once in this interval."""
_MOST_KNOWN_KEYS = 10_000
_READ_METHODS = ("GET", "HEAD", "OPTIONS")


class _Scheme(SecurityBase):
    """A way to send a key. It only appears in the OpenAPI document: `authenticate` reads the header."""

    def __init__(self, name: str, scheme: str, description: str) -> None:
        self.scheme_name, self.model = name, HTTPBase(scheme=scheme, description=description)

    def __call__(self) -> None:
        """Do nothing."""


_BEARER = _Scheme("key", "bearer", "`Authorization: Bearer lat_…`")
_BASIC = _Scheme(
    "key as password",
    "basic",
    "For clients that only support passwords: any user name, and the key as the password.",
)


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    Attributes
    ----------
    tenant_id
        The tenant, which owns data sets and jobs.
    scopes
        The permissions.
    key_id
        Id of the key; None without a key, and for the key of the settings.
    is_operator
        Whether the caller operates the service: holds the key of the settings, or the service requires no key.
    name
        Name of the key; None without a key.
    quotas
        The tenant's own amounts, which replace those of the settings.
    grant
        What the caller may look at, if the key is a share; None for any other key.
    """

    tenant_id: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    is_operator: bool = False
    name: str | None = None
    quotas: Mapping[str, float] = field(default_factory=dict, hash=False)
    grant: Grant | None = None

    @property
    def group(self) -> str:
        """Whose requests and computations count together: those of the tenant, or those of all its shares."""
        return self.tenant_id if self.grant is None else f"shares of {self.tenant_id}"


class KnownKeys:
    """The callers of the keys that were right when this process last looked them up.

    Nobody is admitted because of it: it tells whose request may be refused, or wait, before the database is read.
    """

    def __init__(self) -> None:
        self._callers: LRUCache[str, tuple[Caller, float]] = LRUCache(_MOST_KNOWN_KEYS)
        self._lock = Lock()

    def get(self, secret: str, since: float = 0.0) -> Caller | None:
        """Return the caller of a key; None if the key was not right, or not looked up, since a time of `time.monotonic`."""
        with self._lock:
            caller, looked_up = self._callers.get(secret_digest(secret), (None, 0.0))
        return caller if looked_up >= since else None

    def note(self, secret: str, caller: Caller | None, looked_up: float) -> None:
        """Remember the caller of a key, or forget a key that has become wrong."""
        with self._lock:
            if caller is None:
                self._callers.pop(secret_digest(secret), None)
            else:
                self._callers[secret_digest(secret)] = caller, looked_up


def authenticate(request: Request) -> Caller:
    """Return the caller of a request.

    Raises
    ------
    Unauthorized
        If the service requires a key and the request has none, or an invalid one.
    TooManyRequests
        If the key is invalid and too many invalid ones came before.
    Forbidden
        If the key lacks the scope that the method needs, or is a share that does not permit the request.
    NotFound
        If the key is a share of something else.
    """
    settings: Settings = request.app.state.settings
    header = request.headers.get("authorization")
    if header is None:
        if settings.require_key:
            raise Unauthorized(
                "this service requires a key; the request has none",
                hint="send the header Authorization: Bearer lat_… (`latentry` and the Python client: set LATENTRY_KEY); "
                "the operator of the service creates keys: `latentry keys create`",
                headers=CHALLENGE,
            )
        caller = Caller(DEFAULT_TENANT, ALL_SCOPES, is_operator=True)
    else:
        try:
            caller = find_caller(request.app.state, secret_of(header))
        except Unauthorized as error:
            host = request.client.host if request.client else ""
            raise request.app.state.wrong_keys.count(host, error) from None
    if caller.grant is not None:
        check_grant(request, request.app.state.database, caller.grant)
    require_scope(caller, "read" if request.method in _READ_METHODS else "write")
    return caller


def require_scope(caller: Caller, scope: Scope) -> None:
    """Raise `Forbidden` unless the caller has the scope."""
    if scope not in caller.scopes:
        raise Forbidden(
            f"this needs a key with the scope {scope!r}; yours has {', '.join(sorted(caller.scopes)) or 'none'}",
            hint="anyone with a key of the scope 'admin' can create one: POST /v1/keys",
        )


def find_caller(state: State, secret: str) -> Caller:
    """Return the caller of a key.

    Raises
    ------
    Unauthorized
        If the key is wrong.
    """
    known: KnownKeys = state.known_keys
    caller, looked_up = None, time.monotonic()
    try:
        caller = _caller_of_key(state.database, state.settings, secret)
    finally:
        known.note(secret, caller, looked_up)
    return caller


def _caller_of_key(database: Database, settings: Settings, secret: str) -> Caller:
    digest = secret_digest(secret)
    operator = settings.admin_key.get_secret_value()
    if operator and hmac.compare_digest(digest, secret_digest(operator)):
        return Caller(DEFAULT_TENANT, ALL_SCOPES, is_operator=True, name="operator")
    with database.read() as session:
        now = database_now(session)
        of_tenant = select(Key, Tenant.quotas).join(Tenant, Tenant.id == Key.tenant_id)
        row, own = session.execute(of_tenant.where(Key.digest == digest)).one_or_none() or (None, None)
    if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        why = "is unknown" if row is None else "was revoked" if row.revoked_at else "has expired"
        if secret.startswith(SHARE_PREFIX):
            raise Unauthorized(
                f"the link {why}", hint="ask the person who sent it for a new one", headers=CHALLENGE
            )
        raise Unauthorized(
            f"the key {why}",
            hint="check that you sent the whole key; the operator of the service creates new keys: `latentry keys create`",
            headers=CHALLENGE,
        )
    if row.last_used_at is None or now - row.last_used_at > _USED_EVERY:
        _write_use(database, row.id, now)
    grant = None
    if row.target_id is not None and row.expires_at is not None:  # every share expires
        grant = Grant(row.target_id, row.expires_at)
    return Caller(
        row.tenant_id,
        frozenset(row.scopes) & ALL_SCOPES,
        row.id,
        name=row.name,
        quotas=own or {},
        grant=grant,
    )


def _write_use(database: Database, key_id: str, now: datetime) -> None:
    try:
        with database.write() as session:
            session.execute(update(Key).where(Key.id == key_id).values(last_used_at=now))
    except OperationalError as error:
        if not is_disk_error(error):
            raise
        logger.warning("the last use of the key %s is not stored: the disk is full", key_id)


def _caller(
    request: Request,
    _by_bearer: Annotated[None, Depends(_BEARER)],
    _by_password: Annotated[None, Depends(_BASIC)],
) -> Caller:
    return caller_of(request)


def caller_of(request: Request) -> Caller:
    """Return the caller of a request, which is authenticated and counted once."""
    if not hasattr(request.state, "caller"):
        request.state.caller = authenticate(request)
        _count_request(request.app.state.request_rates, request.state.caller)
    caller: Caller = request.state.caller
    return caller


def _count_request(rates: RequestRates, caller: Caller) -> None:
    """Count a request for the quotas of its key and its tenant. The operator can always reach the service."""
    if not caller.is_operator:
        rates.count("key_requests_per_minute", caller.key_id or "", caller.quotas)
        rates.count("requests_per_minute", caller.group, caller.quotas)


CALLER = Depends(_caller)
"""The dependency of every router that requires authentication."""
CallerDependency = Annotated[Caller, CALLER]


async def _act(request: Request, caller: CallerDependency) -> None:
    """Let the rest of the request act for its caller. A dependency that is not `async` could not: it has its own context."""
    rates: RequestRates = request.app.state.request_rates
    # What frees something is counted, but never refused.
    is_refused = request.method != "DELETE" and not request.url.path.endswith(":cancel")

    def count_written(size_bytes: int) -> None:
        with suppress(*() if is_refused else (TooManyRequests,)):
            rates.count("written_bytes_per_day", caller.tenant_id, caller.quotas, size_bytes)

    bind_contextvars(tenant=caller.tenant_id, key=caller.key_id or caller.name)
    acting.set(
        Actor(
            caller.key_id,
            caller.name,
            None if caller.is_operator else count_written,
            caller.grant is not None,
            caller.tenant_id,
        )
    )


ACTING = Depends(_act)
"""The dependency of every router that requires authentication: rows and `store.audit` name the caller."""
