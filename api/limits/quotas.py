"""The checks of quotas, before a request uses anything: amounts (409), requests in a minute (429) and the disk (507)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from sqlalchemy.orm import Session

from api.errors import DiskFull, QuotaReached, TooManyRequests
from domain.job_specification import Budget
from domain.quotas import QUOTAS, QuotaName, Use
from store import quotas
from store.disk_errors import free_bytes
from store.settings import Settings


def check_amounts(session: Session, settings: Settings, tenant_id: str, **more: float) -> None:
    """Check that the tenant may use more of these quotas. Others of the tenant wait until the transaction ends.

    Parameters
    ----------
    session
        A writing transaction.
    settings, tenant_id
        Of the service, and the tenant.
    more
        The amount that the request adds to each quota, by name. 0 for what is already counted. `database_bytes` is always
        checked.

    Raises
    ------
    QuotaReached
        If the sum goes beyond a quota.
    ValueError
        If a name is not one of `store.quotas.amounts_in_use`.
    """
    quotas.lock_tenant(session, tenant_id)
    uses = quotas.amounts_in_use(session, settings, tenant_id)
    more = {"database_bytes": 0, **more}
    if unknown := more.keys() - uses.keys():
        raise ValueError(f"expected some of {sorted(uses)}; got {sorted(unknown)}")
    for use in uses.values():
        if use.name in more and use.refuses(asked := more[use.name]):
            raise QuotaReached.of(use, asked)


def model_epochs(session: Session, settings: Settings, tenant_id: str, budget: Budget) -> tuple[Use, float]:
    """Return the quota of models × epochs of a job, and what a budget asks of it."""
    name: QuotaName = "job_model_epochs"
    allowed = quotas.allowed(session, settings, tenant_id)[name]
    return Use(name, 0, allowed), budget.models * budget.epochs


def check_budget(session: Session, settings: Settings, tenant_id: str, budget: Budget) -> None:
    """Raise `QuotaReached` if a job has more models × epochs than its tenant may ask for."""
    use, asked = model_epochs(session, settings, tenant_id, budget)
    if use.refuses(asked):
        raise QuotaReached.of(use, asked)


def check_upload(session: Session, settings: Settings, tenant_id: str, size_bytes: int) -> None:
    """Check that an announced upload fits into the tenant's quotas: all unfinished uploads count with their sizes.

    Raises
    ------
    QuotaReached
        If it does not.
    """
    quotas.lock_tenant(session, tenant_id)
    uses = quotas.amounts_in_use(session, settings, tenant_id)
    if (under_way := uses["upload_bytes"]).refuses(size_bytes):
        raise QuotaReached.of(under_way, size_bytes)
    if (rows := uses["database_bytes"]).refuses():
        raise QuotaReached.of(rows)
    stored = uses["stored_bytes"]
    if stored.refuses(under_way.used + size_bytes):
        raise QuotaReached.of(stored, under_way.used + size_bytes)


def largest_upload(session: Session, settings: Settings, tenant_id: str) -> int:
    """Return the size of the largest upload that the service and the tenant's quotas allow now; 1 if they allow none."""
    uses = quotas.amounts_in_use(session, settings, tenant_id)
    rests = [use.rest for use in (uses["upload_bytes"], uses["stored_bytes"]) if use.rest is not None]
    return int(max(1, min([settings.upload_max_bytes, *rests])))


def check_disk(settings: Settings, size_bytes: int, folder: Path | None = None) -> None:
    """Check that the disk has space for a file and keeps `disk_min_free_bytes` free.

    Parameters
    ----------
    settings, size_bytes
        The settings, and the size of the file.
    folder
        A folder on the disk; by default that of the uploads.

    Raises
    ------
    DiskFull
        If it does not.
    """
    free = free_bytes(folder or settings.uploads_dir)
    if free - size_bytes < settings.disk_min_free_bytes:
        raise DiskFull(
            f"the disk for uploads has {free} bytes free and keeps {settings.disk_min_free_bytes} of them; the file needs "
            f"{size_bytes}",
            hint="ask the operator of the service to free space, then send the file again",
        )


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
