"""Give the space of deleted rows back to the disk. An SQLite file does not shrink by itself.

`store.database` creates files with ``auto_vacuum=INCREMENTAL``. The migration rewrites an older file once.
"""

import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from store.database import Database

logger = logging.getLogger(__name__)

_INCREMENTAL = 2
_STEP_PAGES = 500
_KEPT_FREE = 0.05
"""This part of a file may stay free: the next rows use it."""
_LOG_BYTES = 16 * 2**20
"""The write-ahead log is emptied when it is larger."""


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
    """Shrink an SQLite file by its free pages, in small transactions with pauses, and empty its write-ahead log.

    Returns
    -------
    int
        Number of pages that were given back.
    """
    if not database.is_sqlite:
        return 0
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
