"""Points at which a long computation may be stopped, or paused in favour of others.

A server runs computations in threads, which cannot be killed. So every long loop calls `cancellation_point`. By default this does
nothing; within `with cancellable(check)` it calls `check`, which may wait, or raise an error that ends the computation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], None] | None] = ContextVar("cancellation_check", default=None)


def cancellation_point() -> None:
    """Let the server stop or pause the computation here. The caller must hold no lock that another computation needs."""
    check = _check.get()
    if check is not None:
        check()


@contextmanager
def cancellable(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` at each cancellation point of what runs in this context."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)
