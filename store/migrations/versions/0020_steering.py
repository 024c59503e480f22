"""Steering by the operator: tenants can be paused, and workers drained.

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("tenants", "paused_at", sa.DateTime(timezone=True)),
    ("tenants", "pause_reason", sa.String(length=200)),
    ("workers", "draining_since", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    """Apply."""
    for table, name, kind in _COLUMNS:
        op.add_column(table, sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Undo. Paused tenants continue, and draining workers take work again."""
    for table, name, _ in _COLUMNS:
        op.drop_column(table, name)
