"""Divergence of inferred inputs in learning curves; diagnostics of jobs.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("curve_points", sa.Column("kl_inputs", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("diagnostics", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("diagnostics")
    with op.batch_alter_table("curve_points", schema=None) as batch_op:
        batch_op.drop_column("kl_inputs")
