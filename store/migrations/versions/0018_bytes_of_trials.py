"""Rows of trials count with their data set.

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_TRIAL_ROW_BYTES = 100


def upgrade() -> None:
    """Apply."""
    op.add_column("datasets", sa.Column("trial_bytes", sa.BigInteger(), nullable=True))
    trials = sa.table("trials", sa.column("dataset_id"), sa.column("details", sa.JSON))
    datasets = sa.table(
        "datasets",
        sa.column("id"),
        sa.column("trial_bytes", sa.BigInteger),
        sa.column("row_bytes", sa.BigInteger),
    )
    size = _TRIAL_ROW_BYTES + sa.func.length(sa.cast(trials.c.details, sa.Text))
    connection = op.get_bind()
    sums = sa.select(trials.c.dataset_id, sa.func.sum(size)).group_by(trials.c.dataset_id)
    for dataset_id, added in connection.execute(sums).all():
        row_bytes = sa.func.coalesce(datasets.c.row_bytes, 0) + int(added)
        of_row = sa.update(datasets).where(datasets.c.id == dataset_id)
        connection.execute(of_row.values(trial_bytes=int(added), row_bytes=row_bytes))


def downgrade() -> None:
    """Undo. The sums of rows stay larger until their rows change."""
    op.drop_column("datasets", "trial_bytes")
