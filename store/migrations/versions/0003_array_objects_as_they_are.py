"""PostgreSQL keeps array objects as they are, and does not try to compress them.

Chunks are compressed already and weights do not compress; trying took most of the server's time for a checkpoint, and a range
of a compressed object costs as much as all before it.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply; objects that are there already stay compressed."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE array_objects ALTER COLUMN value SET STORAGE EXTERNAL")


def downgrade() -> None:
    """Undo."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE array_objects ALTER COLUMN value SET STORAGE EXTENDED")
