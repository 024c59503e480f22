"""Quotas: amounts by tenant, device time by day, and the sizes of what is stored.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("datasets", "original_bytes"),
    ("datasets", "array_bytes"),
    ("models", "checkpoint_bytes"),
    ("models", "latents_bytes"),
    ("inferences", "latents_bytes"),
)
_HAS_BYTES = "checkpoint_bytes > 0 OR latents_bytes > 0"
_INDEXES = (
    ("uploads", "ix_uploads_bytes", ["tenant_id", "state", "sha256", "size_bytes"]),
    ("datasets", "ix_datasets_bytes", ["tenant_id", "original", "original_bytes", "array_bytes"]),
    ("models", "ix_models_bytes", ["tenant_id", "checkpoint_bytes", "latents_bytes"]),
    ("inferences", "ix_inferences_bytes", ["tenant_id", "latents_bytes"]),
    ("jobs", "ix_jobs_tenant_state", ["tenant_id", "state"]),
)


def upgrade() -> None:
    """Apply. The maintenance measures arrays and weights that exist."""
    op.add_column("tenants", sa.Column("quotas", sa.JSON(), nullable=True))
    op.add_column("tenants", sa.Column("device_time_frees_at", sa.DateTime(timezone=True), nullable=True))
    for table, name in _COLUMNS:
        op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=True))
    op.create_table(
        "device_usage",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("device_seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_device_usage_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "day", name=op.f("pk_device_usage")),
    )
    for table, name, columns in _INDEXES:
        where = sa.text(_HAS_BYTES) if table == "models" else None
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
    datasets = sa.table("datasets", *map(sa.column, ("id", "original", "original_bytes")), sa.column("source", sa.JSON))
    connection = op.get_bind()
    rows = sa.select(datasets.c.id, datasets.c.source).where(datasets.c.original.is_not(None))
    for row in connection.execute(rows).all():
        size = {"original_bytes": row.source.get("bytes")}
        connection.execute(sa.update(datasets).where(datasets.c.id == row.id).values(size))


def downgrade() -> None:
    """Undo."""
    for table, name, _ in _INDEXES:
        op.drop_index(name, table_name=table)
    op.drop_table("device_usage")
    for table, name in (*_COLUMNS, ("tenants", "quotas"), ("tenants", "device_time_frees_at")):
        op.drop_column(table, name)
