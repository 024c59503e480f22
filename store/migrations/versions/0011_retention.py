"""Retention: days of each tenant, how far each sweep has come, and indexes by age.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_jobs_ended", "jobs", ["tenant_id", "ended_at", "id"]),
    ("ix_models_checkpoint", "models", ["checkpoint_key"]),
    ("ix_models_start", "models", ["start_key"]),
    ("ix_inferences_started", "inferences", ["started_at", "tenant_id"]),
    ("ix_inferences_ended", "inferences", ["ended_at"]),
    ("ix_datasets_original_since", "datasets", ["tenant_id", "original_since"]),
    ("ix_idempotent_requests_created", "idempotent_requests", ["tenant_id", "created_at"]),
    ("ix_webhook_deliveries_ended", "webhook_deliveries", ["webhook_id", "ended_at"]),
)
_OFTEN_DELETED = ("curve_points", "events")
"""PostgreSQL vacuums these tables after 2 % of their rows have changed, not after 20 %, so that space is used again soon."""


def upgrade() -> None:
    """Apply."""
    op.add_column("tenants", sa.Column("retention", sa.JSON(), nullable=True))
    op.add_column(
        "jobs", sa.Column("swept_device_seconds", sa.Double(), nullable=False, server_default="0")
    )
    op.add_column("datasets", sa.Column("original_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("datasets", sa.Column("original_removed_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(sa.text("UPDATE datasets SET original_since = created_at"))
    op.create_table(
        "retention_progress",
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("swept_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_retention_progress_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "kind", name=op.f("pk_retention_progress")),
    )
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns)
    op.drop_index("ix_jobs_served", table_name="jobs")
    op.create_index("ix_jobs_served", "jobs", ["served_at", "tenant_id"])
    if op.get_bind().dialect.name == "postgresql":
        for table in _OFTEN_DELETED:
            op.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02)")


def downgrade() -> None:
    """Undo."""
    if op.get_bind().dialect.name == "postgresql":
        for table in _OFTEN_DELETED:
            op.execute(f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor)")
    op.drop_index("ix_jobs_served", table_name="jobs")
    op.create_index("ix_jobs_served", "jobs", ["served_at"])
    for name, table, _columns in reversed(_INDEXES):
        op.drop_index(name, table_name=table)
    op.drop_table("retention_progress")
    for table, names in (
        ("datasets", ("original_removed_at", "original_since")),
        ("jobs", ("swept_device_seconds",)),
        ("tenants", ("retention",)),
    ):
        for name in names:
            op.drop_column(table, name)
