"""Alembic's entry point: run the migrations on the connection of `store.migrate`."""

from typing import Any, Literal

from alembic import context

from store.tables import Base, UtcDateTime


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Render `UtcDateTime` as SQLAlchemy's own type, since a migration must not depend on the current code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
