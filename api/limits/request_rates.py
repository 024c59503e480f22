"""What tenants and keys send and write in a minute or a day, and how much of a quota is in use, in this process."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from api.errors import TooManyRequests
from domain.quotas import QUOTAS, QuotaName, Use
from store import quotas
from store.settings import Settings


@dataclass(frozen=True)
class Holder:
    """A tenant with its own amounts, for `LiveUse`; `key_id` is the caller's key if it is of this tenant."""

    tenant_id: str
    key_id: str | None
    own: Mapping[str, float]


LiveUse = Callable[[Holder], Use | None]
"""Return how much of a quota a holder uses in this process; None if it does not apply."""


class RequestRates:
    """Counts the requests of tenants and of keys in a minute, and the rows that they write within a day, in this process.

    Parameters
    ----------
    settings
        The default amounts.
    """

    def __init__(self, settings: Settings) -> None:
        self._defaults = quotas.default_amounts(settings)
        self._windows = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, name: QuotaName, of: str, own: Mapping[str, float] | None, amount: int = 1) -> None:
        """Count a request of a tenant or a key, or bytes that it writes.

        Raises
        ------
        TooManyRequests
            If the minute or the day has too many.
        """
        allowed = int((own or {}).get(name, self._defaults[name]))
        if not allowed:
            return
        window = _window(name, allowed)
        if not self._windows.hit(window, name, of, cost=amount):
            raise self._excess(name, of, allowed)

    def excess(self, name: QuotaName, of: str, own: Mapping[str, float]) -> TooManyRequests | None:
        """Return the error that `count` would raise now, or None. Nothing is counted."""
        allowed = int(own.get(name, self._defaults[name]))
        if not allowed or self._windows.test(_window(name, allowed), name, of):
            return None
        return self._excess(name, of, allowed)

    def _excess(self, name: QuotaName, of: str, allowed: int) -> TooManyRequests:
        reset = self._windows.get_window_stats(_window(name, allowed), name, of).reset_time
        wait = max(1, round(reset - time.time()))
        return TooManyRequests(
            f"{QUOTAS[name].what}: {allowed} {QUOTAS[name].unit} are allowed; try again in {wait} s",
            hint=f"{QUOTAS[name].remedy}; the operator of the service can allow more",
            headers={"Retry-After": str(wait), "RateLimit": f'"{name}";r=0;t={wait}'},
            use=Use(name, allowed, allowed, datetime.fromtimestamp(time.time() + wait, UTC)),
        )

    def of_tenant(self, holder: Holder) -> Use:
        """Return how many requests of a tenant the running minute has."""
        return self._use("requests_per_minute", holder.tenant_id, holder.own)

    def of_written(self, holder: Holder) -> Use:
        """Return how many bytes of rows the requests of a tenant have written within a day."""
        return self._use("written_bytes_per_day", holder.tenant_id, holder.own)

    def of_key(self, holder: Holder) -> Use | None:
        """Return how many requests with a key the running minute has."""
        if holder.key_id is None:
            return None
        return self._use("key_requests_per_minute", holder.key_id, holder.own)

    def _use(self, name: QuotaName, of: str, own: Mapping[str, float]) -> Use:
        allowed = int(own.get(name, self._defaults[name]))
        if not allowed:
            return Use(name, 0, 0)
        stats = self._windows.get_window_stats(_window(name, allowed), name, of)
        return Use(name, allowed - stats.remaining, allowed)


def _window(name: QuotaName, allowed: int) -> RateLimitItem:
    return (RateLimitItemPerDay if name == "written_bytes_per_day" else RateLimitItemPerMinute)(allowed)
