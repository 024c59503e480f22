"""Bring the database to the newest schema: ``python -m store.migrate``."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from store.database import Database, get_database
from store.tables import DEFAULT_TENANT, Tenant

_MIGRATION_LOCK = 0x1A7E  # PostgreSQL's advisory lock: two containers that start at once take turns


def alembic_config() -> Config:
    """Alembic's configuration; there is no ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(database: Database) -> None:
    """Apply the migrations that are missing, and make the default tenant."""
    config = alembic_config()
    with database.engine.begin() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with database.write() as session:
        if session.get(Tenant, DEFAULT_TENANT) is None:
            session.add(Tenant(id=DEFAULT_TENANT, name="default"))


def main() -> None:
    """Migrate the database of the settings."""
    migrate(get_database())
    print("The database is at the newest schema.")


if __name__ == "__main__":
    main()
