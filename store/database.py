"""The engine and its two kinds of transaction, on SQLite and PostgreSQL."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from sqlite3 import OperationalError
from threading import Event, Lock
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from store.metrics import use_connections
from store.settings import get_settings
from store.tables.audit import current_actor

_READ_ONLY = "latentry_read_only"
_TURN = "latentry_turn"
_LONGEST_WAIT_SECONDS = 10.0
_HEAD_PAUSE_SECONDS, _QUEUE_PAUSE_SECONDS = 0.001, 0.004

_AFTER_COMMIT = "after_commit"
LOCK: dict[str, Any] = {"key_share": True}
"""Arguments of `with_for_update` that lock a row, but let other transactions write rows that refer to it.

PostgreSQL's plain FOR UPDATE would cause deadlocks. A worker that renewed the lease of a slice and then records an event of the
job would wait for the holder of the job, who may wait for the slice.
"""


class DatabaseUnusable(RuntimeError):
    """The database cannot be used. The message says why, and what to do."""


class Database:
    """A database by URL.

    Parameters
    ----------
    url
        SQLAlchemy URL; ``sqlite:///…`` or ``postgresql+psycopg://…``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_pre_ping": True}
        if self.is_sqlite:
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            options = {"connect_args": {"timeout": 30, "check_same_thread": False}, "pool_size": 20}
        self.engine: Engine = create_engine(url, **options)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
            if parsed.database:
                self._take_turns(_WriterTurns(parsed.database))
            event.listen(self.engine, "begin", _begin_sqlite)  # after the turn is taken
        event.listen(self.engine, "checkout", lambda *_: use_connections(1))
        event.listen(self.engine, "checkin", lambda *_: use_connections(-1))
        self._reading = self.engine.execution_options(**{_READ_ONLY: True})

    def _take_turns(self, turns: "_WriterTurns") -> None:
        """Let each writing transaction wait for its turn before it begins; the turn ends with the use of its connection."""

        def take(connection: Connection) -> None:
            if not connection.get_execution_options().get(_READ_ONLY, False):
                connection.info[_TURN] = turns.take()

        def give_back(_connection: Any, record: ConnectionPoolEntry) -> None:
            if (end := record.info.pop(_TURN, None)) is not None:
                end()

        event.listen(self.engine, "begin", take)
        event.listen(self.engine, "checkin", give_back)

    @cached_property
    def apart(self) -> "Database":
        """The same database through a second pool of connections.

        With a single pool, transactions that read arrays could hold all connections while each waits for one more.
        """
        return Database(self.url)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that may write. It is committed at the end of the block, and rolled back on an error."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session
        for act in session.info.pop(_AFTER_COMMIT, ()):
            act()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that only reads. On SQLite it waits for no writer."""
        with Session(self._reading, expire_on_commit=False) as session, session.begin():
            yield session

    def truncate_log(self) -> bool:
        """Copy SQLite's write-ahead log into the database and empty it, so that it has no deleted content.

        Returns
        -------
        bool
            False if another connection was reading an older state. Other databases need nothing.
        """
        if not self.is_sqlite:
            return True
        with closing(self.engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
            # Most of the work, while others can write. Without it, they would wait for the disk.
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
            cursor.fetchone()
            cursor.execute("PRAGMA busy_timeout=50")  # writers wait meanwhile
            try:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                (busy, *_) = cursor.fetchone() or (1,)
            finally:
                cursor.execute("PRAGMA busy_timeout=30000")
        return not busy

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
        if "apart" in vars(self):
            self.apart.close()


class _WriterTurns:
    """Turns of the processes that write into an SQLite file.

    SQLite lets a waiting writer sleep for up to 100 ms between its tries. So a process that writes again and again would keep
    others waiting for many seconds. Here, a process waits in a queue before each transaction. The one at its head begins when
    the present one ends, and a process that has just written must queue again.

    Turns only help: SQLite's own lock decides who writes. After 10 s, or on a file system without locks, a writer goes on
    without its turn.

    Parameters
    ----------
    path
        Path of the database. The two files of the locks are beside it.
    """

    def __init__(self, path: str) -> None:
        self._path, self._of_process = path, _AlternatingLock()

    def take(self) -> Callable[[], None]:
        """Wait for the turn of this process, and of this thread in it; return what ends the turn."""
        deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
        turn = ExitStack()
        if self._of_process.acquire(current_actor().tenant_id, _LONGEST_WAIT_SECONDS):
            turn.callback(self._of_process.release)
        with suppress(OSError), ExitStack() as head:
            self._lock(head, "-queue", deadline, _QUEUE_PAUSE_SECONDS)
            self._lock(turn, "-writer", deadline, _HEAD_PAUSE_SECONDS)
        return turn.close

    def _lock(self, until: ExitStack, suffix: str, deadline: float, pause_seconds: float) -> None:
        """Lock a file until a stack is closed. The system unlocks it if the process dies."""
        file = os.open(self._path + suffix, os.O_CREAT | os.O_RDWR, 0o644)
        until.callback(os.close, file)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return
            time.sleep(pause_seconds)


class _AlternatingLock:
    """A lock that the oldest waiting thread of another tenant gets next, or else the oldest of the same tenant."""

    def __init__(self) -> None:
        self._inside, self._is_held = Lock(), False
        self._latest: str | None = None
        self._waiting: list[tuple[str | None, Event]] = []

    def acquire(self, tenant_id: str | None, seconds: float) -> bool:
        """Wait for the lock, and return whether this thread holds it."""
        mine = tenant_id, Event()
        with self._inside:
            self._waiting.append(mine)
            self._pass_on()
        if mine[1].wait(seconds):
            return True
        with self._inside:
            if mine[1].is_set():
                return True
            self._waiting.remove(mine)
            return False

    def release(self) -> None:
        """Let the next thread hold it."""
        with self._inside:
            self._is_held = False
            self._pass_on()

    def _pass_on(self) -> None:
        if self._is_held or not self._waiting:
            return
        next_one = next((one for one in self._waiting if one[0] != self._latest), self._waiting[0])
        self._waiting.remove(next_one)
        self._latest, self._is_held = next_one[0], True
        next_one[1].set()


def _configure_sqlite(connection: Any, _entry: ConnectionPoolEntry | None = None) -> None:
    connection.isolation_level = None  # `_begin_sqlite` sends BEGIN
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if (
        not pages
    ):  # before the first page, see `store.free_space`; later it would write, and wait for other writers
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA secure_delete=ON")  # free pages have no deleted content
    # The switch to WAL, once for each database, does not wait for locks. So it is tried again.
    deadline = time.monotonic() + 30
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except OperationalError as error:
            if error.sqlite_errorname not in ("SQLITE_BUSY", "SQLITE_LOCKED") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    # Under WAL, a deferred transaction that reads and then writes loses updates or fails at once.
    # So a writing transaction takes the write lock when it begins.
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def after_commit(session: Session, act: Callable[[], None]) -> None:
    """Call a function after the commit of a transaction of `Database.write`, and not if it is rolled back."""
    session.info.setdefault(_AFTER_COMMIT, []).append(act)


def commit_without_waiting(session: Session) -> None:
    """Let the commit of a transaction not wait for the disk, so that it holds its locks briefly. Of PostgreSQL only.

    If the server stops within the next second, the changes may be lost. So this is for work that is then repeated.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET LOCAL synchronous_commit = off"))


def database_now(session: Session) -> datetime:
    """Return the time of the database's clock (UTC), so that leases do not depend on the clocks of workers."""
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)  # all processes that use an SQLite file are on one machine
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now.astimezone(UTC)


@lru_cache
def get_database() -> Database:
    """Return the database of this process, by its settings."""
    return Database(get_settings().database_url)
