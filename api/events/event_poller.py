"""The one poller of a process, which feeds all event streams and long polls.

A thread reads what is new for all listeners at once, a few times a second. So the number of queries and of threads does not
grow with the number of listeners, and a listener costs nothing while nothing happens.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

import anyio
from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.states import JobState
from store.database import Database, database_now
from store.event_reader import EventReader
from store.tables import Dataset, Event, Inference, Job, Key

logger = logging.getLogger(__name__)

Watched = type[Job] | type[Dataset] | type[Inference]
Encoded = tuple[int, bytes]
"""Id of an event, and the event as it is sent."""

_TICK_SECONDS = 0.25
_SOON_SECONDS = 0.05
"""Interval of two ticks while there are new listeners, or events that are not read yet."""
_KEYS_SECONDS = 2.0
_FAILED_SECONDS = 1.0
_MOST_WAITING = 2000
"""How many events may wait for a slow reader."""
_DELETED = "the job was deleted"
_STOPS = "the service stops"
_KEY_ENDED = "the key was revoked or has expired"
_SLOW = "the client reads too slowly"


class Listener:
    """Waits until the state of a row is no longer `state`.

    Parameters
    ----------
    table, row_id
        The row.
    state
        Its state when the client last read it.
    """

    def __init__(self, table: Watched, row_id: str, state: str) -> None:
        self.table, self.row_id, self.state = table, row_id, state
        self.ended_because = ""
        self._loop, self._woken = asyncio.get_running_loop(), asyncio.Event()

    def wake(self) -> None:
        """Wake the listener, from any thread."""
        with suppress(RuntimeError):  # its event loop has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    def end(self, why: str) -> None:
        """Tell the listener to wait no longer."""
        self.ended_because = self.ended_because or why
        self.wake()

    async def wait(self, seconds: float) -> bool:
        """Wait until the listener is woken; return False if it is not within this time."""
        with anyio.move_on_after(seconds):
            await self._woken.wait()
            self._woken.clear()
            return True
        return False


class StreamListener(Listener):
    """Receives the events of a job.

    Parameters
    ----------
    job_id
        The job.
    tenant_id, key_id
        Who reads the stream. `key_id` is None without a key, and for the key of the settings.
    after
        Id of the last event that the client has.
    """

    def __init__(self, job_id: str, tenant_id: str, key_id: str | None, after: int) -> None:
        super().__init__(Job, job_id, "")
        self.tenant_id, self.key_id, self.position = tenant_id, key_id, after
        self.waiting: deque[Encoded] = deque()
        self.is_joined = False  # else it reads older events from the database first
        self.is_complete = False  # the job has ended, and all its events are in `waiting`

    def put(self, events: list[Encoded]) -> None:
        """Let events wait for the reader; end the stream if there are too many."""
        if len(self.waiting) + len(events) > _MOST_WAITING:
            self.end(_SLOW)
        elif events:
            self.waiting.extend(events)
            self.wake()

    def take(self) -> list[bytes]:
        """Return the events that wait, in order, each one once."""
        taken = []
        while self.waiting:
            number, text = self.waiting.popleft()
            if number > self.position:
                self.position = number
                taken.append(text)
        return taken


class Feed:
    """The listeners of a process, and the thread that reads for them while there are any.

    Parameters
    ----------
    database
        Where the thread reads.
    encode
        Returns an event as it is sent. It is called once for each event, and not for each stream.
    """

    def __init__(self, database: Database, encode: Callable[[Event], bytes]) -> None:
        self._database, self._encode = database, encode
        self._lock, self._soon = threading.Lock(), threading.Event()
        self._listeners: set[Listener] = set()
        self._thread: threading.Thread | None = None
        self._reader = EventReader()
        self._keys_due = 0.0

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Feed a listener within the block."""
        self.add(listener)
        try:
            yield
        finally:
            self.remove(listener)

    def add(self, listener: Listener, most: int | None = None) -> bool:
        """Begin to feed a listener, unless its key has `most` streams; return whether it is fed."""
        with self._lock:
            if most is not None and isinstance(listener, StreamListener):
                of_key = self._streams()[listener.tenant_id, listener.key_id]
                if of_key >= most:
                    return False
            if self._thread is None:
                self._reader = EventReader()
                thread = threading.Thread(target=self._run, name="feed", daemon=True)
                thread.start()
                self._thread = thread
            self._listeners.add(listener)
        self._soon.set()
        return True

    def remove(self, listener: Listener) -> None:
        """Feed a listener no longer."""
        with self._lock:
            self._listeners.discard(listener)

    def streams(self) -> Counter[tuple[str, str | None]]:
        """Return the number of open streams of this process, by tenant and id of the key."""
        with self._lock:
            return self._streams()

    def close(self) -> None:
        """End all streams and long polls, because the process ends."""
        with self._lock:
            for listener in self._listeners:
                listener.end(_STOPS)

    @property
    def position(self) -> int | None:
        """Id of the event up to which all events have been read; None before the first tick."""
        return self._reader.position

    def join(self, listener: StreamListener) -> bool:
        """Feed a stream with new events from now on; return False if it must read older ones first."""
        with self._lock:
            if not listener.is_joined and self.position is not None and listener.position >= self.position:
                listener.is_joined = True
                self._soon.set()  # the job may have ended
            return listener.is_joined

    def _streams(self) -> Counter[tuple[str, str | None]]:
        return Counter(
            (one.tenant_id, one.key_id) for one in self._listeners if isinstance(one, StreamListener)
        )

    def _run(self) -> None:
        """Tick while there are listeners."""
        is_failing = False
        while True:
            pause = _TICK_SECONDS
            try:
                self._tick()
                is_failing = False
            except Exception as error:
                if not is_failing:
                    logger.exception("event streams wait: their events could not be read")
                logger.debug("still failing: %s", error)
                is_failing, pause = True, _FAILED_SECONDS
                self._start_again()
            time.sleep(_SOON_SECONDS)
            if self._reader.has_all or is_failing:
                self._soon.wait(pause - _SOON_SECONDS)
            self._soon.clear()
            with self._lock:
                if not self._listeners:
                    self._thread = None
                    return

    def _start_again(self) -> None:
        """After a failed tick, let each stream read from the database what it does not have."""
        with self._lock:
            self._reader = EventReader()
            for one in self._listeners:
                if isinstance(one, StreamListener):
                    one.is_joined = False

    def _tick(self) -> None:
        """Read what is new, and give it to the listeners.

        Example: two streams listen to job A. One query reads its new events. They are encoded once, and both streams get them.
        """
        with self._lock:
            listeners, is_first = set(self._listeners), self.position is None
        streams = [one for one in listeners if isinstance(one, StreamListener)]
        with self._database.read() as session:
            ended_keys = self._ended_keys(session, {one.key_id for one in streams if one.key_id})
            # The states come first: all events of a job that has ended are then visible.
            states = _states(session, listeners)
            events = self._reader.read(session, {one.row_id for one in streams}) if streams else []
        encoded: defaultdict[str, list[Encoded]] = defaultdict(list)
        for event in events:
            encoded[event.job_id].append((event.id, self._encode(event)))
        with self._lock:
            if not streams:  # the next stream need not wait until the events since the last one are read
                self._reader = EventReader()
            for one in self._listeners:
                state = states.get((one.table, one.row_id))
                if not isinstance(one, StreamListener):
                    if one in listeners and state != one.state:
                        one.wake()
                elif one not in listeners:  # this tick read no events of its job
                    one.is_joined = False
                    one.wake()
                else:
                    self._give(one, state, encoded[one.row_id])
                    if one.key_id in ended_keys:
                        one.end(_KEY_ENDED)
                    if is_first:
                        one.wake()

    def _give(self, stream: StreamListener, state: str | None, events: list[Encoded]) -> None:
        """Give a stream the new events of its job.

        Example: the job became `done` and its last event was read. The stream gets the event, and then ends.
        """
        if state is None:
            stream.end(_DELETED)
        elif stream.is_joined:
            stream.put(events)
            if JobState(state).is_final and self._reader.has_all:
                stream.is_complete = True
                stream.wake()

    def _ended_keys(self, session: Session, key_ids: Collection[str]) -> set[str]:
        """Return which of these keys are no longer valid. They are read every few seconds."""
        if not key_ids or time.monotonic() < self._keys_due:
            return set()
        is_valid = Key.revoked_at.is_(None) & (
            Key.expires_at.is_(None) | (Key.expires_at > database_now(session))
        )
        valid = session.execute(select(Key.id).where(Key.id.in_(key_ids), is_valid)).scalars()
        ended = set(key_ids).difference(valid)
        self._keys_due = time.monotonic() + _KEYS_SECONDS
        return ended


def _states(session: Session, listeners: Iterable[Listener]) -> dict[tuple[Watched, str], str]:
    """Return the states of the rows of all listeners, by one query for each table."""
    ids: defaultdict[Watched, set[str]] = defaultdict(set)
    for one in listeners:
        ids[one.table].add(one.row_id)
    return {
        (table, row.id): row.state
        for table, wanted in ids.items()
        for row in session.execute(select(table.id, table.state).where(table.id.in_(wanted)))
    }
