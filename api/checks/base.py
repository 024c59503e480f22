"""Run checks in parallel, each with a time limit. A check that hangs is itself a finding."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from threading import Lock, Thread
from typing import Any

from pydantic import BaseModel, Field
from zarr.abc.store import Store

from store.database import Database
from store.originals import OriginalStore
from store.settings import Settings


class CheckStatus(StrEnum):
    """Severity of a finding, in rising order."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class CheckDocument(BaseModel):
    """One check of the service."""

    name: str = Field(examples=["broker"])
    status: CheckStatus
    message: str = Field(description="The result in words.")
    hint: str | None = Field(None, description="What to do.")
    seconds: float = Field(description="Duration of the check.")
    details: dict[str, Any] | None = Field(
        None,
        description="Numbers and addresses, without passwords. Only the operator of the service sees them.",
    )


class ChecksDocument(BaseModel):
    """All checks of the service."""

    status: CheckStatus = Field(description="The worst status of all checks.")
    checked_at: datetime
    version: str = Field(description="Version of the service.")
    checks: list[CheckDocument]


@dataclass(frozen=True)
class Parts:
    """The parts of the service that the checks examine."""

    settings: Settings
    database: Database
    arrays: Store
    originals: OriginalStore


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes
    ----------
    status
        The severity.
    message
        The result in words. It contains no addresses, since every tenant can read it.
    hint
        What to do; empty if there is nothing to do.
    details
        Numbers and addresses, for the operator of the service.
    """

    status: CheckStatus
    message: str
    hint: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def ok(message: str, **details: Any) -> Finding:
    """Return the finding of a part that works."""
    return Finding(CheckStatus.OK, message, details=details)


def warning(message: str, hint: str, **details: Any) -> Finding:
    """Return the finding of a part that works badly, or will soon fail."""
    return Finding(CheckStatus.WARNING, message, hint, details)


def failed(message: str, hint: str, **details: Any) -> Finding:
    """Return the finding of a part that does not work."""
    return Finding(CheckStatus.FAILED, message, hint, details)


Check = Callable[[Parts], Finding]
"""A check may raise an error or hang: both are reported."""
DATABASE_AWAY = "is it running, and is LATENTRY_DATABASE_URL correct? The API reconnects by itself"


def reason(error: Exception) -> str:
    """Return the type of an error and the first line of its message, for the operator."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__


def unknown(error: Exception) -> Finding:
    """Return the finding of a check that needs the database, which does not respond."""
    return failed("unknown: the database does not respond", DATABASE_AWAY, error=reason(error))


LIMIT_SECONDS = 5.0
"""Time limit of each check."""
_CACHE_SECONDS = 2.0
"""Requests within this time get the same result, since checks write and read and so put load on the service."""
_ORDER = list(CheckStatus)


class _Run:
    """One run of a check in its own thread, which cannot be stopped."""

    def __init__(self, check: Check, parts: Parts) -> None:
        self.begun, self.seconds = time.monotonic(), 0.0
        self.finding: Finding | None = None
        self._check, self._parts = check, parts
        self._thread = Thread(target=self._do, daemon=True)
        self._thread.start()

    def _do(self) -> None:
        try:
            self.finding = self._check(self._parts)
        except Exception as error:
            self.finding = failed(
                f"the check failed with an error: {type(error).__name__}",
                "see the log of the API",
                error=reason(error),
            )
        self.seconds = time.monotonic() - self.begun

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, deadline: float) -> Finding:
        """Return the finding; after the deadline, the finding that the check hangs."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self.finding is not None:
            return self.finding
        self.seconds = time.monotonic() - self.begun
        return failed(
            f"no response within {self.seconds:.0f} s",
            "possible causes: the network drops packets, another process holds a lock, or a disk does not respond",
        )


class Checks:
    """The checks of one service.

    Parameters
    ----------
    parts
        The parts of the service.
    checks
        The checks by name.
    limit_seconds
        Time limit of each check.
    """

    def __init__(
        self, parts: Parts, checks: Mapping[str, Check], *, limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        self._parts, self._checks, self._limit = parts, checks, limit_seconds
        self._runs: dict[str, _Run] = {}
        self._lock = Lock()
        self._last: ChecksDocument | None = None
        self._last_at = 0.0

    def run(self) -> ChecksDocument:
        """Run all checks. A check that still hangs from an earlier request is not started again."""
        with self._lock:
            if self._last is None or time.monotonic() - self._last_at > _CACHE_SECONDS:
                self._last, self._last_at = self._run(), time.monotonic()
            return self._last

    def _run(self) -> ChecksDocument:
        deadline = time.monotonic() + self._limit
        for name, check in self._checks.items():
            if name not in self._runs or self._runs[name].is_over:
                self._runs[name] = _Run(check, self._parts)
        found = [_document(name, self._runs[name], deadline) for name in self._checks]
        return ChecksDocument(
            status=max((one.status for one in found), key=_ORDER.index),
            checked_at=datetime.now(UTC),
            version=version("latentry"),
            checks=found,
        )


def _document(name: str, run: _Run, deadline: float) -> CheckDocument:
    finding = run.wait(deadline)
    return CheckDocument(
        name=name,
        status=finding.status,
        message=finding.message,
        hint=finding.hint or None,
        seconds=round(run.seconds, 4),
        details=dict(finding.details) or None,
    )
