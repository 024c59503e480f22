"""Shares: keys that only show one data set, job or model.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_INDEX = "ix_keys_target"


def upgrade() -> None:
    """Apply."""
    op.add_column("keys", sa.Column("target_id", sa.String(length=40), nullable=True))
    op.create_index(_INDEX, "keys", ["tenant_id", "target_id", "revoked_at", "expires_at"])


def downgrade() -> None:
    """Undo. Shares end: without their target they would be keys."""
    op.execute("DELETE FROM keys WHERE target_id IS NOT NULL")
    op.drop_index(_INDEX, "keys")
    op.drop_column("keys", "target_id")
