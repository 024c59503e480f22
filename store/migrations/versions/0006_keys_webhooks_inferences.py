"""Keys, webhooks with what they are sent, inferences; warnings of jobs.

Revision ID: 0006
Revises: 0005
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)



def _refers(name: str, table: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([name], [target], name=op.f(f"fk_{table}_{name}"))


def _lease() -> "list[sa.Column[Any]]":
    return [
        sa.Column("lease_token", sa.String(32)),
        sa.Column("lease_expires_at", _TIME),
        sa.Column("leased_by", sa.String(200)),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
    ]


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("warnings", sa.JSON(), nullable=True))
    op.create_table(
        "keys",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("beginning", sa.String(20), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.Column("last_used_at", _TIME),
        sa.Column("revoked_at", _TIME),
        _refers("tenant_id", "keys", "tenants.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
    )
    op.create_index("uq_keys_digest", "keys", ["digest"], unique=True)
    op.create_index("ix_keys_tenant", "keys", ["tenant_id", "id"])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("states", sa.JSON(), nullable=False),
        sa.Column("secret", sa.String(100), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("deleted_at", _TIME),
        _refers("tenant_id", "webhooks", "tenants.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_tenant", "webhooks", ["tenant_id", "id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("webhook_id", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(40)),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.String()),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
        *_lease(),
        _refers("webhook_id", "webhook_deliveries", "webhooks.id"),
        _refers("job_id", "webhook_deliveries", "jobs.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index("ix_webhook_deliveries_due", "webhook_deliveries", ["state", "due_at"])
    op.create_index("ix_webhook_deliveries_webhook", "webhook_deliveries", ["webhook_id", "id"])
    op.create_table(
        "inferences",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("model_id", sa.String(40), nullable=False),
        sa.Column("dataset_id", sa.String(40), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("checkpoint_key", sa.String(200), nullable=False),
        sa.Column("trials_done", sa.Integer(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("latents_path", sa.String(200)),
        sa.Column("error", sa.JSON()),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("ended_at", _TIME),
        *_lease(),
        _refers("tenant_id", "inferences", "tenants.id"),
        _refers("model_id", "inferences", "models.id"),
        _refers("dataset_id", "inferences", "datasets.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inferences")),
    )
    op.create_index("ix_inferences_tenant", "inferences", ["tenant_id", "id"])
    op.create_index("ix_inferences_state", "inferences", ["state"])
    op.create_index("ix_inferences_model", "inferences", ["model_id"])


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("warnings")
    for table in ("inferences", "webhook_deliveries", "webhooks", "keys"):
        op.drop_table(table)
