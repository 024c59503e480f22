"""Responses whose body is produced while it is sent."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any

import anyio
from anyio import to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from api.errors import Problem

logger = logging.getLogger(__name__)

_producers = anyio.CapacityLimiter(8)
"""Threads that produce pieces. They are separate from the threads of other requests, so that downloads never block those."""

_BEGINNING_BYTES = 2**12
"""More than the header of a file."""


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
        super().__init__(self._produce(), status_code, headers, media_type)
        self._pieces, self._begun = pieces, list[bytes]()
        self._run: Callable[[Callable[[], Any]], Awaitable[Any]] = partial(
            to_thread.run_sync, limiter=_producers
        )

    def produce_by(self, run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        """Produce each piece by a function that runs it in a thread, instead of in a thread of all responses."""
        self._run = run

    def begin(self) -> None:
        """Make the first bytes now, so that an error still has its own status."""
        while (
            sum(map(len, self._begun)) < _BEGINNING_BYTES and (piece := next(self._pieces, None)) is not None
        ):
            self._begun.append(piece)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. After an error in a later piece it ends early, and the server closes the connection.

        So the client notices that bytes are missing: the resource may have been deleted meanwhile.
        """
        has_begun = False

        async def send_noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await super().__call__(scope, receive, send_noting)
        except Exception as error:
            if not has_begun:
                raise
            expected = isinstance(error, (Problem, ClientDisconnect))
            logger.warning(
                "%s %s: the response ends early: %s",
                scope["method"],
                scope["path"],
                error,
                exc_info=None if expected else error,
            )
        finally:
            if isinstance(self._pieces, Generator):
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(self._pieces.close, limiter=_producers)

    async def _produce(self) -> AsyncIterator[bytes]:
        for piece in self._begun:
            yield piece
        while (piece := await self._run(partial(next, self._pieces, None))) is not None:
            yield piece
