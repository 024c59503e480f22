"""Decide whether a request is sent again, and after how long; without any input or output."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic

_FIRST_DELAY_SECONDS = 0.25
_LONGEST_DELAY_SECONDS = 8.0
_NOT_CARRIED_OUT = (429, 503)
_MAYBE_CARRIED_OUT = (502, 504)


class Patience:
    """The retries of one request, with exponential backoff and jitter.

    Parameters
    ----------
    seconds
        Time from now; no request is sent after it.
    is_repeatable
        Whether two requests have the effect of one. Any other request is sent again only if it was certainly not carried out.
    """

    def __init__(self, seconds: float, is_repeatable: bool = True) -> None:
        self._is_repeatable = is_repeatable
        self._deadline = monotonic() + seconds
        self._delay = _FIRST_DELAY_SECONDS

    def after_answer(self, status: int, retry_after: str | None = None) -> float | None:
        """Return the seconds to wait after an answer with this status and header `Retry-After`; None for no retry."""
        passes = status in _NOT_CARRIED_OUT or (self._is_repeatable and status in _MAYBE_CARRIED_OUT)
        return self._next(_seconds_of(retry_after)) if passes else None

    def after_failure(self, was_sent: bool) -> float | None:
        """Return the seconds to wait after a request without an answer; None for no retry."""
        return self._next(0.0) if self._is_repeatable or not was_sent else None

    def _next(self, at_least: float) -> float | None:
        delay = max(at_least, self._delay * random.uniform(0.5, 1.0))
        self._delay = min(2 * self._delay, _LONGEST_DELAY_SECONDS)
        return delay if monotonic() + delay < self._deadline else None


def _seconds_of(retry_after: str | None) -> float:
    """Return the delay that a header `Retry-After` asks for, in seconds; it has a number or a date."""
    text = (retry_after or "0").strip()
    if text.isdecimal():
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    zoned = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (zoned - datetime.now(UTC)).total_seconds())
