"""Checks of the database: its response, its schema and its clock."""

import time
from typing import Any

from sqlalchemy import make_url, text

from api.checks.base import DATABASE_AWAY, Finding, Parts, failed, ok, reason, unknown, warning
from store.database import database_now
from store.migrate import schema_problem
from store.tables import utc_now

_SLOW_SECONDS = 0.1
_MOST_SKEW_SECONDS = 5.0


def check_database(parts: Parts) -> Finding:
    """Check that the database responds quickly, and that its clock agrees with the clock of this machine."""
    where = _where(parts.database.url)
    try:
        with parts.database.read() as session:
            session.execute(text("SELECT 1"))  # opens the connection
            begun = time.monotonic()
            version = session.execute(
                text("SELECT sqlite_version()" if parts.database.is_sqlite else "SHOW server_version")
            ).scalar_one()
            seconds = time.monotonic() - begun
            skew = (database_now(session) - utc_now()).total_seconds()
    except Exception as error:
        return failed("the database does not respond", DATABASE_AWAY, error=reason(error), **where)
    kind = "SQLite" if parts.database.is_sqlite else "PostgreSQL"
    message = f"{kind} {version} responds in {seconds * 1000:.1f} ms"
    details = {**where, "seconds": round(seconds, 5), "clock_skew_s": round(skew, 2)}
    if abs(skew) > _MOST_SKEW_SECONDS:
        hint = "synchronise both clocks by NTP: the expiry of keys and the age of messages depend on them"
        return warning(
            f"{message}, but its clock differs from this machine's by {skew:+.0f} s", hint, **details
        )
    if seconds > _SLOW_SECONDS:
        return warning(f"{message}, which is slow", "check its load and the network", **details)
    return ok(message, **details)


def check_migrations(parts: Parts) -> Finding:
    """Check that the schema of the database belongs to this version of the service."""
    try:
        with parts.database.read() as session:
            problem = schema_problem(session)
    except Exception as error:
        return unknown(error)
    if problem is None:
        return ok("the schema is the newest")
    return failed(*problem)


def _where(url: str) -> dict[str, Any]:
    """Return host and name of a database, without user, password and options."""
    parsed = make_url(url)
    return {"host": parsed.host, "database": parsed.database}
