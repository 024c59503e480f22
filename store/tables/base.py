"""What all tables have in common: types, times and the columns of a lease."""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    inspect,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_ROW_BYTES = 200
"""About what a row needs besides its values: its header, and the entries of indexes."""
Document = dict[str, Any]
"""A JSON document."""
counter_type = BigInteger().with_variant(Integer, "sqlite")
"""Type of an id that the database counts."""


class UtcDateTime(TypeDecorator[datetime]):
    """A UTC time. SQLite does not store the zone; this type adds it again."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; refuse a time without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone: expected one with a zone, such as datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Add the zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """Return the time of this machine's clock. Leases use `store.database.database_now`."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), Document: JSON, list[Any]: JSON, bytes: LargeBinary}  # noqa: RUF012 (SQLAlchemy's own way)

    def size_bytes_of_row(self) -> int:
        """Return about how many bytes the row needs in the database, with the rows that other processes will add for it."""
        names = inspect(type(self)).column_attrs.keys()
        return _ROW_BYTES + sum(_size_bytes(vars(self).get(name)) for name in names)


def _size_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode(errors="surrogatepass"))
    if isinstance(value, dict | list):
        return len(json.dumps(value, default=str))
    if isinstance(value, bytes):
        return len(value)
    return 0 if value is None else 8


class LeaseMixin:
    """Columns of a row on which one worker at a time may work.

    A claim writes a fresh `lease_token`; every later write of that worker is conditional on it.
    """

    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_expires_at: Mapped[datetime | None]
    leased_by: Mapped[str | None] = mapped_column(String(200))
    attempts: Mapped[int] = mapped_column(default=0)  # that failed or whose process died
    losses: Mapped[int] = mapped_column(default=0, server_default="0")  # attempts whose worker was lost

    def drop_lease(self) -> None:
        """End the lease: its holder can write no more. `leased_by` still shows who worked on the row last."""
        self.lease_token = self.lease_expires_at = None
