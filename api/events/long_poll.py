"""`Prefer: wait=30`: respond when the resource has reached a final state, or when the time is over."""

import re
import time
from collections.abc import Callable
from typing import Annotated, Protocol, TypeVar

from anyio import to_thread
from fastapi import Header

from api.events.event_poller import Feed, Listener, Watched
from api.limits.request_turns import without_turn

Prefer = Annotated[
    str | None,
    Header(
        description="`wait=30`: respond when the resource has reached a final state, or after 30 seconds. At most 60 seconds."
    ),
]
_LONGEST_WAIT_SECONDS = 60.0


class _HasState(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def state(self) -> str: ...


Document = TypeVar("Document", bound=_HasState)


def wanted_wait_seconds(prefer: str | None) -> float:
    """Return the seconds to wait that a `Prefer` header requests; 0 without the header."""
    match = re.search(r"(?:^|[,;\s])wait=(\d{1,6})", prefer or "")
    return min(float(match[1]), _LONGEST_WAIT_SECONDS) if match else 0.0


async def wait_for(
    feed: Feed,
    table: Watched,
    read: Callable[[], Document],
    is_final: Callable[[Document], bool],
    prefer: str | None,
) -> Document:
    """Return a document when it is final or the requested time is over. It is read again when the state of its row changes."""
    deadline = time.monotonic() + wanted_wait_seconds(prefer)
    while True:
        document = await to_thread.run_sync(read)
        seconds = deadline - time.monotonic()
        if is_final(document) or seconds <= 0:
            return document
        listener = Listener(table, document.id, document.state)
        with feed.listening(listener):
            async with without_turn():
                await listener.wait(seconds)
        if listener.ended_because:
            deadline = 0.0
