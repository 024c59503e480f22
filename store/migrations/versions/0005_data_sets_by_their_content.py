"""Data sets by their content, originals by theirs, uploads under way.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_NOT_REJECTED = sa.text("state != 'rejected'")
_COLUMNS = {"digest": 64, "original": 64, "direct_upload_id": 40, "derived_from": 40}


def upgrade() -> None:
    """Apply. Data sets from before are found by no content, and their files are not among the originals."""
    for name, length in _COLUMNS.items():
        op.add_column("datasets", sa.Column(name, sa.String(length)))
    op.create_index("ix_datasets_original", "datasets", ["original"])
    op.create_index(
        "uq_datasets_content",
        "datasets",
        ["tenant_id", "digest"],
        unique=True,
        sqlite_where=_NOT_REJECTED,
        postgresql_where=_NOT_REJECTED,
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("filename", sa.String(200), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64)),
        sa.Column("is_direct", sa.Boolean(), nullable=False),
        sa.Column("tus_metadata", sa.String(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_uploads_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index("ix_uploads_sha256", "uploads", ["sha256"])
    op.create_index("ix_uploads_expires", "uploads", ["expires_at"])


def downgrade() -> None:
    """Undo."""
    op.drop_table("uploads")
    op.drop_index("uq_datasets_content", "datasets")
    op.drop_index("ix_datasets_original", "datasets")
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        for name in _COLUMNS:
            batch_op.drop_column(name)
