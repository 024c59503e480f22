"""Migrate the database to the newest schema: ``python -m store.migrate``."""

import logging
import sys
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session

from store.database import Database, DatabaseUnusable, get_database
from store.free_space import vacuum_once
from store.tables import DEFAULT_TENANT, Tenant

logger = logging.getLogger(__name__)

_MIGRATION_LOCK = 0x1A7E  # PostgreSQL's advisory lock: two containers that start at the same time take turns


def alembic_config() -> Config:
    """Return the configuration of Alembic. There is no ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(database: Database) -> None:
    """Apply the missing migrations, and add the default tenant.

    Raises
    ------
    DatabaseUnusable
        If a newer version made the database, or if it is damaged, is no database, or does not answer.
    """
    name = _name(database)
    try:
        _refuse_newer(database)
        _migrate(database)
        vacuum_once(database)
    except OperationalError as error:
        raise DatabaseUnusable(
            f"the database {name} cannot be opened: {_first_line(error)}. Check that it is there and running, and that this user "
            "may write to it."
        ) from error
    except DatabaseError as error:
        if not database.is_sqlite or not _is_damaged(error):
            raise
        raise DatabaseUnusable(
            f"the database {name} is damaged or no SQLite database: {_first_line(error)}. Restore it from a backup, or move "
            "it away to begin with an empty one."
        ) from error


def refuse_newer(database: Database) -> None:
    """Raise `DatabaseUnusable` if a newer version made the database. If it does not answer, log a warning."""
    try:
        _refuse_newer(database)
    except DatabaseError as error:
        logger.warning("the database %s does not answer: %s", _name(database), _first_line(error))


def schema_problem(session: Session) -> tuple[str, str] | None:
    """Return why this version cannot work with the schema of the database, and what to do; None if it can."""
    known, newest = _revisions()
    current = _schema(session)
    if current == newest:
        return None
    if unknown := current - known:
        return (
            f"the database has the schema {_listed(unknown)}, which this version of Latentry does not know: its newest is "
            f"{_listed(newest)}",
            "install the version of Latentry that migrated the database, or a newer one",
        )
    has = f"the schema {_listed(current)}" if current else "no schema"
    return (
        f"the database has {has}, but this version of Latentry needs {_listed(newest)}",
        "run `python -m store.migrate`; `latentry up` and the compose file migrate when they start",
    )


@cache
def _revisions() -> tuple[frozenset[str], frozenset[str]]:
    """Return all schemas that this version knows, and the newest one."""
    scripts = ScriptDirectory.from_config(alembic_config())
    return frozenset(one.revision for one in scripts.walk_revisions()), frozenset(scripts.get_heads())


def _schema(session: Session) -> frozenset[str]:
    return frozenset(MigrationContext.configure(session.connection()).get_current_heads())


def _listed(schemas: frozenset[str]) -> str:
    return ", ".join(sorted(schemas))


def _refuse_newer(database: Database) -> None:
    with database.read() as session:
        unknown = _schema(session) - _revisions()[0]
    if unknown:
        raise DatabaseUnusable(
            f"the database {_name(database)} was made by a newer version of Latentry: its schema is {_listed(unknown)}, which "
            "this version does not know. Install that version or a newer one, or use another data folder or database."
        )


def _name(database: Database) -> str:
    return make_url(database.url).render_as_string(hide_password=True)


def _is_damaged(error: DatabaseError) -> bool:
    return getattr(error.orig, "sqlite_errorname", "") in ("SQLITE_NOTADB", "SQLITE_CORRUPT")


def _first_line(error: DatabaseError) -> str:
    return next(iter(str(error.orig).strip().splitlines()), type(error.orig).__name__)


def _migrate(database: Database) -> None:
    config = alembic_config()
    with database.engine.begin() as connection:
        _lock(database, connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with database.write() as session:
        _lock(database, session)
        if session.get(Tenant, DEFAULT_TENANT) is None:
            session.add(Tenant(id=DEFAULT_TENANT, name="default"))


def _lock(database: Database, transaction: Connection | Session) -> None:
    """Let other processes that migrate wait until the transaction ends. SQLite has one writer anyway."""
    if not database.is_sqlite:
        transaction.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})


def main() -> None:
    """Migrate the database that the settings name."""
    try:
        migrate(get_database())
    except DatabaseUnusable as error:
        sys.exit(str(error))
    print("The database is at the newest schema.")


if __name__ == "__main__":
    main()
