"""Names of the field: validation loss, refit, minimal learning rate, minimal improvement, continue.

Revision ID: 0009
Revises: 0008
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COLUMNS = (("curve_points", "ordinary_loss", "validation_loss"), ("models", "final_fit_of", "refit_of"))
_KEYS = {
    "ordinary_loss": "validation_loss",
    "last_ordinary_loss": "last_validation_loss",
    "best_by_ordinary": "best_by_validation_loss",
    "least_learning_rate": "min_learning_rate",
    "least_improvement": "min_delta",
    "final_fit": "refit",
    "final_fit_of": "refit_of",
}
_DOCUMENTS = (
    ("jobs", ("spec", "diagnostics")),
    ("models", ("scores", "best_hyperparameters")),
    ("events", ("data",)),
    ("inferences", ("scores",)),
)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(name, name): _renamed(one, names) for name, one in value.items()}
    return [_renamed(one, names) for one in value] if isinstance(value, list) else value


def _rename(names: dict[str, str], kinds: tuple[str, str]) -> None:
    connection = op.get_bind()
    for table, columns in _DOCUMENTS:
        rows = sa.table(table, sa.column("id"), *(sa.column(name, sa.JSON) for name in columns))
        for row in connection.execute(sa.select(rows)).mappings().all():
            old = {name: row[name] for name in columns if row[name] is not None}
            new = _renamed(old, names)
            if new != old:
                connection.execute(sa.update(rows).where(rows.c.id == row["id"]).values(new))
    decisions = sa.table("decisions", sa.column("kind", sa.String))
    connection.execute(sa.update(decisions).where(decisions.c.kind == kinds[0]).values(kind=kinds[1]))


def upgrade() -> None:
    """Apply."""
    for table, old, new in _COLUMNS:
        op.alter_column(table, old, new_column_name=new)
    _rename(_KEYS, ("go_on", "continue"))


def downgrade() -> None:
    """Undo."""
    for table, old, new in _COLUMNS:
        op.alter_column(table, new, new_column_name=old)
    _rename({new: old for old, new in _KEYS.items()}, ("continue", "go_on"))
