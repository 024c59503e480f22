"""Tables of the service itself: messages to workers, workers, and the objects of the array store."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, counter_type, utc_now

# PostgreSQL compares keys byte by byte, so that a prefix is a range of the index.
_key_type = String(400).with_variant(String(400, collation="C"), "postgresql")


class OutboxMessage(Base):
    """A message to the workers. It is written in the transaction of its rows and sent after their commit."""

    __tablename__ = "outbox"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(counter_type, primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(String(60))
    arguments: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Deletion(Base):
    """Something that workers delete in the background, see `store.deletion`. The row itself goes last."""

    __tablename__ = "deletions"

    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    target_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    requested_at: Mapped[datetime] = mapped_column(default=utc_now)
    held_until: Mapped[datetime | None]  # until when one process works on it


class Worker(Base):
    """A training process that was alive at `seen_at`."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    device: Mapped[str] = mapped_column(String(100))
    device_name: Mapped[str | None] = mapped_column(String(200))  # its model, or why `auto` took the CPU
    overhead_pace: Mapped[float | None]  # measured when the process started, see `domain.cost.Pace`
    arithmetic_pace: Mapped[float | None]
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    seen_at: Mapped[datetime] = mapped_column(default=utc_now)
    draining_since: Mapped[datetime | None]  # since then it claims nothing, and it ends when it is idle


class ArrayObject(Base):
    """One object of the array store: a Zarr chunk, its metadata, or a checkpoint."""

    __tablename__ = "array_objects"

    key: Mapped[str] = mapped_column(_key_type, primary_key=True)
    value: Mapped[bytes]
    size_bytes: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
