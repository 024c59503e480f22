"""Answers that are made while they are sent."""

from collections.abc import AsyncIterator, Generator, Iterator, Mapping

import anyio
from anyio import to_thread
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

_making = anyio.CapacityLimiter(8)
"""Threads that may make pieces, apart from those of other requests: however many answers are sent, those go on."""


class Streamed(StreamingResponse):
    """Sends pieces as they are made. What makes them is closed when the answer ends, also where the client has gone before.

    Left to the garbage collector, a file that is half sent would keep its space on disk until that happens to run.

    Parameters
    ----------
    pieces
        The bytes, in order.
    status_code, headers, media_type
        Of the answer.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(_made(pieces), status_code, headers, media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if isinstance(self._pieces, Generator):
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(self._pieces.close, limiter=_making)


async def _made(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await to_thread.run_sync(next, pieces, None, limiter=_making)) is not None:
        yield piece
