"""The engine and its two kinds of transaction, on SQLite and PostgreSQL."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from sqlite3 import OperationalError
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from store.settings import get_settings

_READ_ONLY = "latentry_read_only"

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
            event.listen(self.engine, "begin", _begin_sqlite)
        self._reading = self.engine.execution_options(**{_READ_ONLY: True})

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


def _configure_sqlite(connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # `_begin_sqlite` sends BEGIN
    # Of a new file only, and before its first page: see `store.sqlite_space`.
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
