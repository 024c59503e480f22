"""Quota of rows: jobs and data sets record the size of their rows.

Revision ID: 0017
Revises: 0016
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_ROW_BYTES = 1_000
_MODEL_ROWS_BYTES = 2_100


def upgrade() -> None:
    """Apply."""
    connection = op.get_bind()
    for name, document in (("jobs", "spec"), ("datasets", "report")):
        op.add_column(name, sa.Column("row_bytes", sa.BigInteger(), nullable=True))
        table = sa.table(name, sa.column("id"), sa.column(document, sa.JSON), sa.column("row_bytes"))
        rows = connection.execute(sa.select(table.c.id, table.c[document]))
        for row_id, value in rows.all():
            value = value or {}
            models = value.get("budget", {}).get("models", 0) if document == "spec" else 0
            size = _ROW_BYTES + len(json.dumps(value)) + _MODEL_ROWS_BYTES * models
            connection.execute(sa.update(table).where(table.c.id == row_id).values(row_bytes=size))
        op.create_index(f"ix_{name}_row_bytes", name, ["tenant_id", "row_bytes"])


def downgrade() -> None:
    """Undo."""
    for name in ("jobs", "datasets"):
        op.drop_index(f"ix_{name}_row_bytes", name)
        op.drop_column(name, "row_bytes")
