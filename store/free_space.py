"""Give the space of deleted rows back.

An SQLite file does not shrink by itself. `store.database` creates files with ``auto_vacuum=INCREMENTAL``. The migration rewrites
an older file once.

PostgreSQL uses a page of an index again only when all its entries are gone. Thinned learning curves keep some entries in each
page, and new models have larger ids. So the index of the points would grow for ever, and sparse indexes are rebuilt.
"""

import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url, text

from store.database import Database

logger = logging.getLogger(__name__)

_INCREMENTAL = 2
_STEP_PAGES = 500
_KEPT_FREE = 0.05
"""This part of a file may stay free: the next rows use it."""
_LOG_BYTES = 16 * 2**20
"""The write-ahead log is emptied when it is larger."""
_SMALL_INDEX_BYTES = 64 * 2**20
"""A smaller index is not rebuilt."""
_SPARSE = 3
"""An index is rebuilt when it is this many times larger than its entries."""
_REBUILD_LOCK = 0x1DE4  # PostgreSQL's advisory lock: two processes do not rebuild at the same time
_SPARSE_INDEXES = text("""
    SELECT format('%I.%I', space.nspname, entry.relname) AS name, pg_relation_size(entry.oid) AS bytes
    FROM pg_index JOIN pg_class entry ON entry.oid = indexrelid JOIN pg_class owner ON owner.oid = indrelid
    JOIN pg_namespace space ON space.oid = owner.relnamespace
    JOIN pg_attribute field ON field.attrelid = owner.oid AND field.attnum = ANY (indkey)
    JOIN pg_stats ON schemaname = space.nspname AND tablename = owner.relname AND pg_stats.attname = field.attname
    WHERE space.nspname = current_schema() AND indisvalid AND NOT 0 = ANY (indkey) AND entry.reltuples >= 0
    AND pg_relation_size(entry.oid) > :small
    GROUP BY space.nspname, entry.oid, entry.relname, entry.reltuples
    HAVING pg_relation_size(entry.oid) > :sparse * entry.reltuples * (sum(avg_width) + 20)
""")
_INTERRUPTED = text(r"""
    SELECT format('%I.%I', nspname, relname) FROM pg_index JOIN pg_class entry ON entry.oid = indexrelid
    JOIN pg_namespace space ON space.oid = relnamespace
    WHERE nspname = current_schema() AND NOT indisvalid AND relname ~ '_cc(new|old)[0-9]*$'
""")
"""What a rebuild leaves that did not end."""


@contextmanager
def _connection(database: Database) -> Iterator[sqlite3.Connection]:
    """Yield a connection of `sqlite3` outside any transaction."""
    pooled = database.engine.raw_connection()
    try:
        driver = pooled.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        yield driver
    finally:
        pooled.close()


def _read(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def vacuum_once(database: Database) -> None:
    """Rewrite an older SQLite file so that it can shrink in small steps. Log a warning if that is not possible now."""
    path = make_url(database.url).database
    if not database.is_sqlite or not path:
        return
    with _connection(database) as connection:
        if _read(connection, "auto_vacuum") == _INCREMENTAL:
            return
        size, free = Path(path).stat().st_size, shutil.disk_usage(Path(path).parent).free
        later = "it grows and does not shrink until the next start at which this succeeds"
        if free < 2.2 * size:
            needed, there = f"{2.2 * size / 1e6:.0f} MB", f"{free / 1e6:.0f} MB"
            logger.warning(
                "%s: rewriting it once needs %s of free disk, there are %s; %s", path, needed, there, later
            )
            return
        logger.info("rewriting the database %s (%.0f MB) once, so that it can shrink", path, size / 1e6)
        try:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("VACUUM")
        except sqlite3.OperationalError as error:
            logger.warning("%s could not be rewritten: %s; %s", path, error, later)


def give_back_space(database: Database, stopping: threading.Event) -> int:
    """Give the space of deleted rows back, without keeping others waiting.

    An SQLite file shrinks by its free pages, in small transactions with pauses, and its write-ahead log is emptied. PostgreSQL
    rebuilds sparse indexes beside the old ones.

    Returns
    -------
    int
        Number of pages that were given back, or of indexes that were rebuilt.
    """
    return _shrink_file(database, stopping) if database.is_sqlite else _rebuild_indexes(database)


def _rebuild_indexes(database: Database) -> int:
    rebuilt = 0
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.execute(text(f"SELECT pg_try_advisory_lock({_REBUILD_LOCK})")).scalar_one():
            return 0
        try:
            for name in connection.execute(_INTERRUPTED).scalars().all():
                connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            limits = {"small": _SMALL_INDEX_BYTES, "sparse": _SPARSE}
            for name, size in connection.execute(_SPARSE_INDEXES, limits).tuples().all():
                logger.info("rebuilding the index %s (%.0f MB), which is sparse", name, size / 1e6)
                connection.exec_driver_sql(f"REINDEX INDEX CONCURRENTLY {name}")
                rebuilt += 1
        finally:
            connection.execute(text(f"SELECT pg_advisory_unlock({_REBUILD_LOCK})"))
    return rebuilt


def _shrink_file(database: Database, stopping: threading.Event) -> int:
    given = 0
    with _connection(database) as connection:
        while _read(connection, "auto_vacuum") == _INCREMENTAL and not stopping.is_set():
            free = _read(connection, "freelist_count")
            if free <= max(_STEP_PAGES, _KEPT_FREE * _read(connection, "page_count")):
                break
            begun = time.monotonic()
            connection.execute(f"PRAGMA incremental_vacuum({_STEP_PAGES})").fetchall()
            given += free - _read(connection, "freelist_count")
            stopping.wait(time.monotonic() - begun)
    log = Path(f"{make_url(database.url).database}-wal")
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        database.truncate_log()
    return given
