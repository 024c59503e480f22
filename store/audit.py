"""The log of all changes. This is the one place that writes it.

Nothing changes or deletes its entries, not even retention: who deleted data must stay known. Entries are small, and each
change by a user makes one.
"""

from typing import Any, Protocol

from sqlalchemy.orm import Session

from store.database import database_now
from store.tables import AuditEntry, current_actor


class Owned(Protocol):
    """A row of a resource."""

    @property
    def id(self) -> Any:
        """Its id."""

    @property
    def tenant_id(self) -> Any:
        """The tenant that owns it."""


def record(session: Session, action: str, row: Owned, **details: Any) -> None:
    """Record, in the transaction of a change, who makes it. Call this only if something changes.

    Parameters
    ----------
    session
        The transaction.
    action
        The kind of the row, a dot, and what happens to it: ``job.cancelled``.
    row
        The row.
    details
        Small JSON values, such as the names of the changed fields.
    """
    actor = current_actor()
    session.add(
        AuditEntry(
            tenant_id=row.tenant_id,
            at=database_now(session),
            key_id=actor.key_id,
            key_name=actor.name,
            action=action,
            kind=action.partition(".")[0],
            object_id=row.id,
            details=details,
        )
    )
