"""`Prefer: wait=30`: answer when the resource has come to its end, or when the time is over."""

import re
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import anyio
from anyio import to_thread
from fastapi import Header

Prefer = Annotated[
    str | None,
    Header(description="`wait=30`: wait up to so many seconds (at most 60) for the end before answering."),
]
_LONGEST_WAIT_SECONDS = 60.0
Document = TypeVar("Document")


def wanted_wait_seconds(prefer: str | None) -> float:
    """Seconds that a `Prefer` header asks to wait; 0 without one."""
    match = re.search(r"(?:^|[,;\s])wait=(\d{1,6})", prefer or "")
    return min(float(match[1]), _LONGEST_WAIT_SECONDS) if match else 0.0


async def wait_for(
    read: Callable[[], Document], is_final: Callable[[Document], bool], prefer: str | None
) -> Document:
    """Read a document again and again until it is final or the wanted time is over."""
    deadline = time.monotonic() + wanted_wait_seconds(prefer)
    while True:
        document = await to_thread.run_sync(read)
        if is_final(document) or time.monotonic() >= deadline:
            return document
        await anyio.sleep(0.25)
