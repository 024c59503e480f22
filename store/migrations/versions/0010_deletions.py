"""What is being deleted, when latents were deleted, and the resource of each stored response.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_ANSWERS = sa.table(
    "idempotent_requests",
    sa.column("tenant_id", sa.String),
    sa.column("key", sa.String),
    sa.column("body", sa.JSON),
    sa.column("resource_id", sa.String),
)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "deletions",
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("target_id", sa.String(40), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_deletions_tenant_id"),
        sa.PrimaryKeyConstraint("kind", "target_id", name="pk_deletions"),
    )
    op.add_column("models", sa.Column("latents_deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("idempotent_requests", sa.Column("resource_id", sa.String(40), nullable=True))
    op.create_index("ix_idempotent_requests_resource", "idempotent_requests", ["resource_id"])
    connection = op.get_bind()
    for row in connection.execute(sa.select(_ANSWERS.c.tenant_id, _ANSWERS.c.key, _ANSWERS.c.body)).all():
        own = (_ANSWERS.c.tenant_id == row.tenant_id) & (_ANSWERS.c.key == row.key)
        connection.execute(sa.update(_ANSWERS).where(own).values(resource_id=row.body.get("id")))


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_idempotent_requests_resource", table_name="idempotent_requests")
    op.drop_column("idempotent_requests", "resource_id")
    op.drop_column("models", "latents_deleted_at")
    op.drop_table("deletions")
