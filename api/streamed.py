"""Responses whose body is produced while it is sent."""

from collections.abc import AsyncIterator, Generator, Iterator, Mapping

import anyio
from anyio import to_thread
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

_producers = anyio.CapacityLimiter(8)
"""Threads that produce pieces. They are separate from the threads of other requests, so that downloads never block those."""


class Streamed(StreamingResponse):
    """Send pieces as a generator produces them, and close the generator at the end.

    The generator is also closed when the client disconnects: it may hold a temporary file.

    Parameters
    ----------
    pieces
        The bytes, in order.
    status_code, headers, media_type
        Of the response.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(_produce(pieces), status_code, headers, media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if isinstance(self._pieces, Generator):
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(self._pieces.close, limiter=_producers)


async def _produce(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await to_thread.run_sync(next, pieces, None, limiter=_producers)) is not None:
        yield piece
