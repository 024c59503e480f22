"""`Prefer: wait=30`: respond when the resource has reached a final state, or when the time is over."""

import re
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import anyio
from anyio import to_thread
from fastapi import Header

Prefer = Annotated[
    str | None,
    Header(
        description="`wait=30`: respond when the resource has reached a final state, or after 30 seconds. At most 60 seconds."
    ),
]
_LONGEST_WAIT_SECONDS = 60.0
Document = TypeVar("Document")


def wanted_wait_seconds(prefer: str | None) -> float:
    """Return the seconds to wait that a `Prefer` header requests; 0 without the header."""
    match = re.search(r"(?:^|[,;\s])wait=(\d{1,6})", prefer or "")
    return min(float(match[1]), _LONGEST_WAIT_SECONDS) if match else 0.0


async def wait_for(
    read: Callable[[], Document], is_final: Callable[[Document], bool], prefer: str | None
) -> Document:
    """Read a document repeatedly until it is final or the requested time is over."""
    deadline = time.monotonic() + wanted_wait_seconds(prefer)
    while True:
        document = await to_thread.run_sync(read)
        if is_final(document) or time.monotonic() >= deadline:
            return document
        await anyio.sleep(0.25)
