"""Checks of the database: it answers, its schema is the newest, its clock is right."""

import time
from typing import Any

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url, text

from api.checks.base import Finding, Parts, failed, ok, reason, warning
from store.database import database_now
from store.migrate import alembic_config
from store.tables import utc_now

_SLOW_SECONDS = 0.1
_MOST_SKEW_SECONDS = 5.0
AWAY_HINT = "is it running, and is LATENTRY_DATABASE_URL right? The API goes on by itself when it is back"


def check_database(parts: Parts) -> Finding:
    """The database answers, soon, and its clock is near this machine's."""
    where = _where(parts.database.url)
    try:
        with parts.database.read() as session:
            session.execute(text("SELECT 1"))  # the connection is there from here on
            begun = time.monotonic()
            version = session.execute(
                text("SELECT sqlite_version()" if parts.database.is_sqlite else "SHOW server_version")
            ).scalar_one()
            seconds = time.monotonic() - begun
            skew = (database_now(session) - utc_now()).total_seconds()
    except Exception as error:
        return failed("the database does not answer", AWAY_HINT, error=reason(error), **where)
    kind = "SQLite" if parts.database.is_sqlite else "PostgreSQL"
    message = f"{kind} {version} answers in {seconds * 1000:.1f} ms"
    details = {**where, "seconds": round(seconds, 5), "clock_skew_s": round(skew, 2)}
    if abs(skew) > _MOST_SKEW_SECONDS:
        hint = "let both machines keep their time by NTP: expiry of keys and ages of messages are told by it"
        return warning(f"{message}, but its clock is {skew:+.0f} s off this machine's", hint, **details)
    if seconds > _SLOW_SECONDS:
        return warning(f"{message}, which is slow", "is it under load, or far away?", **details)
    return ok(message, **details)


def check_migrations(parts: Parts) -> Finding:
    """The schema of the database is that of this version of the service."""
    scripts = ScriptDirectory.from_config(alembic_config())
    newest = scripts.get_current_head()
    try:
        with parts.database.read() as session:
            here = MigrationContext.configure(session.connection()).get_current_revision()
    except Exception as error:
        return failed("not known: the database does not answer", AWAY_HINT, error=reason(error))
    if here == newest:
        return ok(f"the schema is the newest, {newest}")
    if here not in {one.revision for one in scripts.walk_revisions()} and here is not None:
        hint = "it was migrated by a newer version of the service: install that version here"
        return failed(f"the schema {here} is not known to this version", hint)
    hint = "run `python -m store.migrate` (`latentry up` and the compose files do so by themselves)"
    return failed(f"the schema is {here or 'empty'}, the newest is {newest}", hint)


def _where(url: str) -> dict[str, Any]:
    """Host and name of a database; neither user, password nor options."""
    parsed = make_url(url)
    return {"host": parsed.host, "database": parsed.database}
