"""Decisions of strategies, pauses, priorities, losses apart from attempts, time of devices.

Revision ID: 0004
Revises: 0003
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
def _columns() -> dict[str, list[sa.Column[Any]]]:
    return {
        "datasets": [
            sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        ],
        "jobs": [
            sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
            sa.Column("warm_models", sa.JSON()),
            sa.Column("final_model_id", sa.String(40)),
            sa.Column("served_at", _TIME),
            sa.Column("paused_at", _TIME),
            sa.Column("paused_seconds", sa.Double(), server_default="0", nullable=False),
        ],
        "models": [
            sa.Column("is_alone", sa.Boolean(), server_default=sa.false(), nullable=False),
            sa.Column("final_fit_of", sa.Integer()),
            sa.Column("target_epochs", sa.Integer(), server_default="0", nullable=False),
            sa.Column("latest_smoothed_sv_loss", sa.Double()),
            sa.Column("start_key", sa.String(200)),
        ],
        "slices": [
            sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
            sa.Column("not_before", _TIME),
            sa.Column("device_seconds", sa.Double()),
        ],
    }


def upgrade() -> None:
    """Apply. Models in training continue to the end of their budget."""
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    op.create_table(
        "decisions",
        sa.Column("id", _COUNTER, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("model_number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("lowest_sv_loss", sa.Double()),
        sa.Column("latest_sv_loss", sa.Double()),
        sa.Column("parent_number", sa.Integer()),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_decisions_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_decisions_job", "decisions", ["job_id", "id"])
    op.create_index("ix_jobs_state", "jobs", ["state"])
    op.create_index("ix_jobs_served", "jobs", ["served_at"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_jobs_served", "jobs")
    op.drop_index("ix_jobs_state", "jobs")
    op.drop_table("decisions")
    for table, columns in _columns().items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            for column in columns:
                batch_op.drop_column(column.name)
