"""Limits of wrong keys. A right key always works, so nobody can lock out others with wrong ones."""

import base64
import binascii
import hashlib
import ipaddress
import logging
import math
import time
from threading import Lock

import redis
from cachetools import LRUCache
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers
from starlette.types import Scope

from api.errors import Problem, TooManyRequests, Unauthorized
from store.settings import Settings

logger = logging.getLogger(__name__)

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="latentry", Basic realm="latentry"'}
"""Header of an answer to a request without a valid key."""
_AWAY_SECONDS = 30.0
_MOST_REFUSED = 10_000
"""Addresses that are remembered after too many wrong keys."""
_REDIS_OPTIONS = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}


class WrongKeys:
    """Counts of wrong keys in the last minute, by address and in all.

    The processes of the API share the counts in Redis. If Redis does not respond, each process has its own for a while.

    Parameters
    ----------
    settings
        The limits, and the URL of Redis.
    """

    def __init__(self, settings: Settings) -> None:
        self._by_address = RateLimitItemPerMinute(settings.wrong_keys_per_minute)
        self._in_all = RateLimitItemPerMinute(settings.wrong_keys_per_minute_in_all)
        # Services with other databases may share the Redis.
        self._service = hashlib.sha256(settings.database_url.encode()).hexdigest()[:12]
        url = settings.redis_url.replace("unix://", "redis+unix://", 1)
        self._shared = SlidingWindowCounterRateLimiter(storage_from_string(url, **_REDIS_OPTIONS))
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._away_until = 0.0
        self._lock = Lock()
        self._refused: LRUCache[str, tuple[Problem, float]] = LRUCache(_MOST_REFUSED)

    def count(self, host: str, error: Unauthorized) -> Problem:
        """Count a wrong key from an address, and return the error for its client: `error` itself, or 429 above a limit."""
        address = network_of(host)
        for limit, key, what in (
            (self._by_address, address, "from your address"),
            (self._in_all, "", "from all addresses together"),
        ):
            if (seconds := self._excess_seconds(limit, key)) is not None:
                problem = TooManyRequests(
                    f"{error.detail}; {limit.amount} wrong keys in a minute came {what}",
                    hint=f"send the right key, which still works; or wait {seconds} s before you try another one",
                    headers={"Retry-After": str(seconds), **(error.headers or {})},
                )
                with self._lock:
                    self._refused[key] = problem, time.monotonic() + seconds
                return problem
        return error

    def refusal(self, host: str) -> Problem | None:
        """Return the error of a wrong key from an address that has sent too many; None if it has not. Nothing is counted."""
        for key in (network_of(host), ""):
            with self._lock:
                problem, until = self._refused.get(key, (None, 0.0))
            if time.monotonic() < until:
                return problem
        return None

    def _excess_seconds(self, limit: RateLimitItem, key: str) -> int | None:
        """Count a wrong key, and return the seconds until the next one is allowed, or None below the limit."""
        limiter = self._own if time.monotonic() < self._away_until else self._shared
        try:
            if limiter.hit(limit, self._service, key):
                return None
            reset = limiter.get_window_stats(limit, self._service, key).reset_time
        except redis.RedisError as error:
            logger.warning("wrong keys are counted by each process for %g s: %s", _AWAY_SECONDS, error)
            self._away_until = time.monotonic() + _AWAY_SECONDS
            return self._excess_seconds(limit, key)
        return max(1, math.ceil(reset - time.time()))


def network_of(host: str) -> str:
    """Return the addresses that count as one client: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64 if address.version == 6 else 32), strict=False))


def secret_of(header: str) -> str:
    """Return the key in the header `Authorization`."""
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
        "the header Authorization is malformed",
        hint="expected `Bearer lat_…`, or Basic with the key as the password",
        headers=CHALLENGE,
    )


def given_secret(scope: Scope) -> str | None:
    """Return the key that a request has; None if it has none, or a malformed header."""
    header = Headers(scope=scope).get("authorization")
    try:
        return None if header is None else secret_of(header)
    except Unauthorized:
        return None
