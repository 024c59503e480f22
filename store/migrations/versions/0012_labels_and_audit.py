"""Notes and tags of data sets and jobs, who made what, and the log of all changes.

Revision ID: 0012
Revises: 0011
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_MADE = ("datasets", "inferences", "jobs", "keys", "uploads", "webhooks")
_LABELLED = ("datasets", "jobs")
_INDEXED = ("tenant", "object", "key")
_LISTED = {"datasets": "derived_from", "jobs": "dataset_id"}


def _columns(table: str) -> list[sa.Column[Any]]:
    """Return the new columns of a table."""
    made_by: list[sa.Column[Any]] = [
        sa.Column("created_by_key", sa.String(40), nullable=True),
        sa.Column("created_by_name", sa.String(200), nullable=True),
    ]
    if table not in _LABELLED:
        return made_by
    return [
        *made_by,
        sa.Column("notes", sa.Text(), nullable=False, server_default=""),
        sa.Column("tags", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("search_text", sa.Text(), nullable=False, server_default=""),
    ]


def upgrade() -> None:
    """Apply. A search finds the data sets and jobs that exist by their names and files."""
    op.create_table(
        "audit",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=True),
        sa.Column("key_name", sa.String(200), nullable=True),
        sa.Column("action", sa.String(60), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("object_id", sa.String(40), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    for name in _INDEXED:
        op.create_index(f"ix_audit_{name}", "audit", [f"{name}_id", "id"])
    op.create_index("ix_datasets_derived_from", "datasets", ["derived_from"])
    for table in _MADE:
        for column in _columns(table):
            op.add_column(table, column)
    _write_search_texts()
    for table, filtered in _LISTED.items():
        filters = ("state", filtered, "created_at", "created_by_key", "created_by_name")
        op.create_index(f"ix_{table}_listed", table, ["tenant_id", "id", *filters])
        op.drop_index(f"ix_{table}_tenant", table_name=table)


def _write_search_texts() -> None:
    connection = op.get_bind()
    for table in _LABELLED:
        source = [sa.column("source", sa.JSON)] if table == "datasets" else []
        rows = sa.table(table, sa.column("id"), sa.column("name"), sa.column("search_text"), *source)
        read = sa.select(rows.c.id, rows.c.name, *source)
        for row in connection.execute(read).mappings().all():
            parts = [row["name"], "", *([row["source"].get("filename") or ""] if source else [])]
            text = ("\n".join(parts).replace("\x1f", " ") + "\x1f").casefold()
            connection.execute(sa.update(rows).where(rows.c.id == row["id"]).values(search_text=text))


def downgrade() -> None:
    """Undo."""
    for table in _LISTED:
        op.create_index(f"ix_{table}_tenant", table, ["tenant_id", "id"])
        op.drop_index(f"ix_{table}_listed", table_name=table)
    op.drop_index("ix_datasets_derived_from", table_name="datasets")
    for table in _MADE:
        for column in _columns(table):
            op.drop_column(table, column.name)  # in place: a batch would drop the table, which others refer to
    for name in _INDEXED:
        op.drop_index(f"ix_audit_{name}", table_name="audit")
    op.drop_table("audit")
