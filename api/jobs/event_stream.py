"""The events of a job as a stream of server-sent events."""

from collections.abc import AsyncIterator

import anyio
from anyio import to_thread
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from api.errors import TooManyRequests
from api.events.event_poller import Feed, StreamListener
from api.jobs.schemas import EventDocument
from api.jobs.service import events_after
from domain.quotas import Use
from store import metrics
from store.database import Database
from store.tables import Event

_KEEP_ALIVE_SECONDS = 15.0
_PAGE_EVENTS = 200
_FIRST_TICK_SECONDS = 0.5
_older_events = anyio.CapacityLimiter(2)
"""Threads that read older events. They are separate from the threads of other requests."""


class EventStream(StreamingResponse):
    """Send the older events of a job from the database, then the new ones as the feed brings them, until the job ends.

    Parameters
    ----------
    feed, database
        Of the process.
    listener
        The stream.
    most
        How many streams the key may have.

    Raises
    ------
    TooManyRequests
        If the key has this many streams already.
    """

    def __init__(self, feed: Feed, database: Database, listener: StreamListener, most: int) -> None:
        if not feed.add(listener, most):
            raise too_many_streams(feed.streams()[listener.tenant_id, listener.key_id], most)
        super().__init__(
            _pieces(feed, database, listener),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._feed, self._listener = feed, listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; afterwards, or when the client has left, the feed forgets the stream."""
        try:
            with metrics.streams.labels("api").track_inprogress():
                await super().__call__(scope, receive, send)
        finally:
            self._feed.remove(self._listener)


def too_many_streams(used: int, most: int) -> TooManyRequests:
    """Return the error of a key that has as many streams as it may have."""
    return TooManyRequests(
        f"your key has {used} event streams open; at most {most} are allowed",
        hint="close a stream, or read the events as a list: GET /v1/jobs/{job_id}/events",
        headers={"Retry-After": "10"},
        use=Use("streams", used, most),
    )


def encode(event: Event) -> bytes:
    """Return an event as it is sent."""
    return _encode(EventDocument.model_validate(event, from_attributes=True))


def _encode(event: EventDocument) -> bytes:
    return format_sse_event(event=event.kind, id=str(event.id), data_str=event.model_dump_json())


async def _pieces(feed: Feed, database: Database, listener: StreamListener) -> AsyncIterator[bytes]:
    """Yield events until the job ends, and comments while there are none."""

    def read_older(until: int) -> list[EventDocument]:
        with database.read() as session:
            return events_after(session, listener.row_id, listener.position, _PAGE_EVENTS, until)

    while not listener.ended_because:
        if feed.join(listener):
            is_complete = listener.is_complete  # before the events are taken
            if events := listener.take():
                yield b"".join(events)
            elif is_complete:
                return
            elif not await listener.wait(_KEEP_ALIVE_SECONDS):
                yield b": still here\n\n"
        elif (until := feed.position) is None:
            await listener.wait(_KEEP_ALIVE_SECONDS)
        else:
            page = await to_thread.run_sync(read_older, until, limiter=_older_events)
            if page:
                yield b"".join(_encode(event) for event in page)
            listener.position = page[-1].id if len(page) == _PAGE_EVENTS else until
    # `retry` tells the client that the stream is not complete: it connects again, and sends the id of its last event.
    yield f"retry: 1000\n: the stream ends: {listener.ended_because}\n\n".encode()
