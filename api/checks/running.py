"""Checks side by side, each with a time limit: one that hangs is itself a finding."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from threading import Lock, Thread

from api.checks.base import Check, Finding, Parts, failed, reason
from api.checks.schemas import CheckDocument, ChecksDocument, CheckStatus

LIMIT_SECONDS = 5.0
"""Of each check."""
_KEPT_SECONDS = 2.0
"""Whoever asks again so soon gets the same answer: the checks write and read, and are no load to put on a service."""
_ORDER = list(CheckStatus)


class _Run:
    """One run of a check in a thread of its own, which nothing can end."""

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
                f"the check met an error: {type(error).__name__}",
                "see the log of the API",
                error=reason(error),
            )
        self.seconds = time.monotonic() - self.begun

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, deadline: float) -> Finding:
        """What it found, or that it has not come back."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self.finding is not None:
            return self.finding
        self.seconds = time.monotonic() - self.begun
        return failed(
            f"no answer within {self.seconds:.0f} s",
            "it hangs: a network that swallows packets, a lock that somebody holds, or a disk that does not answer",
        )


class Checks:
    """The checks of one service.

    Parameters
    ----------
    parts
        What is looked at.
    checks
        By name.
    limit_seconds
        Of each check.
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
        """Run all checks; those that an earlier request left hanging are waited for and not begun again."""
        with self._lock:
            if self._last is None or time.monotonic() - self._last_at > _KEPT_SECONDS:
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
