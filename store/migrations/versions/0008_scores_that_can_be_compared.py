"""Seeds of evaluation, split groups, bits per spike, who trained the best weights, baselines, pace of workers.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_PACES = ("overhead_pace", "arithmetic_pace")
_JOBS = sa.table("jobs", sa.column("id", sa.String), sa.column("spec", sa.JSON))


def upgrade() -> None:
    """Apply. Jobs that exist keep the split and the held-out samples that they were trained with."""
    op.add_column("trials", sa.Column("split_group", sa.Integer(), nullable=True))
    op.add_column("trials", sa.Column("group_first_bin", sa.Double(), nullable=True))
    op.add_column("curve_points", sa.Column("sv_bits_per_spike_valid", sa.Double(), nullable=True))
    op.create_index("ix_jobs_dataset", "jobs", ["dataset_id"])
    op.add_column("models", sa.Column("best_hyperparameters", sa.JSON(), nullable=True))
    op.add_column("models", sa.Column("trained_by", sa.Integer(), nullable=True))
    for table in ("models", "inferences"):
        for name in ("baselines", "baseline_settings"):
            op.add_column(table, sa.Column(name, sa.JSON(), nullable=True))
    for name in _PACES:
        op.add_column("workers", sa.Column(name, sa.Double(), nullable=True))
    connection = op.get_bind()
    for row in connection.execute(sa.select(_JOBS.c.id, _JOBS.c.spec)).all():
        training = {**row.spec.get("training", {}), "evaluation_seed": row.spec.get("seed", 0)}
        spec = {**row.spec, "training": training}
        connection.execute(sa.update(_JOBS).where(_JOBS.c.id == row.id).values(spec=spec))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("trials", schema=None) as batch_op:
        batch_op.drop_column("group_first_bin")
        batch_op.drop_column("split_group")
    with op.batch_alter_table("curve_points", schema=None) as batch_op:
        batch_op.drop_column("sv_bits_per_spike_valid")
    op.drop_index("ix_jobs_dataset", table_name="jobs")
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.drop_column("trained_by")
        batch_op.drop_column("best_hyperparameters")
    for table in ("models", "inferences"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("baselines")
            batch_op.drop_column("baseline_settings")
    with op.batch_alter_table("workers", schema=None) as batch_op:
        for name in _PACES:
            batch_op.drop_column(name)
    connection = op.get_bind()
    for row in connection.execute(sa.select(_JOBS.c.id, _JOBS.c.spec)).all():
        new = {"evaluation_seed", "test_fraction"}
        training = {name: value for name, value in row.spec.get("training", {}).items() if name not in new}
        spec = {**row.spec, "training": training}
        connection.execute(sa.update(_JOBS).where(_JOBS.c.id == row.id).values(spec=spec))
