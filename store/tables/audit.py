"""Who does something: the actor of a request, the columns that name who made a row, and the log of all changes."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Index, String, event
from sqlalchemy.orm import Mapped, Session, UOWTransaction, mapped_column

from store.tables.base import Base, Document, counter_type, utc_now


@dataclass(frozen=True)
class Actor:
    """The one who acts.

    Attributes
    ----------
    key_id
        Id of the key; None for the operator's key of the settings, and for the service itself.
    name
        Name of the key now; None for anyone, if the service requires no key.
    count_written
        Called with the bytes of the rows that each flush adds; it raises an error to refuse them. None: nobody counts.
    is_visitor
        Whether the key is a share.
    tenant_id
        Tenant of the key; None for the service itself.
    """

    key_id: str | None
    name: str | None
    count_written: Callable[[int], None] | None = None
    is_visitor: bool = False
    tenant_id: str | None = None


acting: ContextVar[Actor] = ContextVar("acting")
"""Who acts in this task or thread: `api.auth` sets it to the caller of a request."""
_SERVICE = Actor(None, "service")


def current_actor() -> Actor:
    """Return who acts: the caller of a request, else the service itself."""
    return acting.get(_SERVICE)


@event.listens_for(Session, "before_flush")
def _count_written(session: Session, _context: UOWTransaction, _instances: object) -> None:
    """Count new rows of any table, so that no kind of row can be forgotten."""
    if session.new and (count := current_actor().count_written) is not None:
        count(sum(row.size_bytes_of_row() for row in session.new))


class CreatedByMixin:
    """Columns that name who made the row, with the name of the key at that time."""

    created_by_key: Mapped[str | None] = mapped_column(String(40), default=lambda: current_actor().key_id)
    created_by_name: Mapped[str | None] = mapped_column(String(200), default=lambda: current_actor().name)

    @property
    def created_by(self) -> Document | None:
        """Who made the row; None if it was anyone, or if the row is older than these columns."""
        return actor_document(self.created_by_key, self.created_by_name)


def actor_document(key_id: str | None, name: str | None) -> Document | None:
    """Return what clients see of an actor; None for anyone."""
    return None if name is None else {"key_id": key_id, "name": name}


def listed(table: str, column: str) -> Index:
    """Return the index of a table's list: the tenant, the order, and all columns that filters read, except texts.

    SQLite then reads no row to find one. Rows have many kilobytes.
    """
    filters = ("state", column, "created_at", "created_by_key", "created_by_name")
    return Index(f"ix_{table}_listed", "tenant_id", "id", *filters)


class AuditEntry(Base):
    """One change: who made it, to what and when. Entries are only ever added, see `store.audit.record`."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_tenant", "tenant_id", "id"),
        Index("ix_audit_object", "object_id", "id"),
        Index("ix_audit_key", "key_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(counter_type, primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(
        String(40)
    )  # of the object; no foreign key: entries outlive everything
    at: Mapped[datetime] = mapped_column(default=utc_now)
    key_id: Mapped[str | None] = mapped_column(String(40))
    key_name: Mapped[str | None] = mapped_column(String(200))  # at that time
    action: Mapped[str] = mapped_column(String(60))  # "job.cancelled"
    kind: Mapped[str] = mapped_column(String(20))  # "job"
    object_id: Mapped[str] = mapped_column(String(40))
    details: Mapped[Document]
