"""Seeds of evaluation in the specifications of jobs; groups of trials that no split divides.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_JOBS = sa.table("jobs", sa.column("id", sa.String), sa.column("spec", sa.JSON))


def upgrade() -> None:
    """Apply. Jobs that exist keep the split and the held-out samples that they were trained with."""
    op.add_column("trials", sa.Column("split_group", sa.Integer(), nullable=True))
    connection = op.get_bind()
    for row in connection.execute(sa.select(_JOBS.c.id, _JOBS.c.spec)).all():
        training = {**row.spec.get("training", {}), "evaluation_seed": row.spec.get("seed", 0)}
        spec = {**row.spec, "training": training}
        connection.execute(sa.update(_JOBS).where(_JOBS.c.id == row.id).values(spec=spec))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("trials", schema=None) as batch_op:
        batch_op.drop_column("split_group")
    connection = op.get_bind()
    for row in connection.execute(sa.select(_JOBS.c.id, _JOBS.c.spec)).all():
        new = {"evaluation_seed", "test_fraction"}
        training = {name: value for name, value in row.spec.get("training", {}).items() if name not in new}
        spec = {**row.spec, "training": training}
        connection.execute(sa.update(_JOBS).where(_JOBS.c.id == row.id).values(spec=spec))
