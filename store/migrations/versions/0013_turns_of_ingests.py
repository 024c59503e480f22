"""Ingests take turns by tenant: when the ingest of a data set began.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("datasets", sa.Column("started_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_datasets_state", "datasets", ["state"])
    op.create_index("ix_datasets_started", "datasets", ["started_at"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_datasets_started", "datasets")
    op.drop_index("ix_datasets_state", "datasets")
    op.drop_column("datasets", "started_at")
