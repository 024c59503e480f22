"""The model of a worker's device, and the precision in which the models of a job train.

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Of jobs that are older, the precision is that of their specification."""
    op.add_column("workers", sa.Column("device_name", sa.String(length=200), nullable=True))
    op.add_column("jobs", sa.Column("precision", sa.String(length=10), nullable=True))


def downgrade() -> None:
    """Undo."""
    for table, column in (("jobs", "precision"), ("workers", "device_name")):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column(column)
