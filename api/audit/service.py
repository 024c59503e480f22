"""The database operations of the log of changes: it is only read here, and only written by `store.audit`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Query
from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from api.audit.schemas import AuditDocument
from api.auth import Caller, require_scope
from api.http.on_loop import on_loop
from api.http.pagination import NO_NUL, CreatedAfter, CreatedBefore, Page, cut_page, decode_number, utc
from api.labels import names_of_jobs
from store.tables import AuditEntry, Dataset, Key, Webhook, actor_document

_TABLES = {"dataset": Dataset, "key": Key, "share": Key, "webhook": Webhook}


@dataclass(frozen=True)
class AuditFilters:
    """The filters of the log."""

    action: Annotated[
        str | None,
        Query(max_length=60, pattern=NO_NUL, description="Only this action, such as `job.cancelled`."),
    ] = None
    kind: Annotated[
        str | None,
        Query(
            max_length=20, pattern=NO_NUL, description="Only changes of this kind of object, such as `job`."
        ),
    ] = None
    object_id: Annotated[
        str | None, Query(max_length=40, pattern=NO_NUL, description="Only changes of this object.")
    ] = None
    by: Annotated[
        str | None,
        Query(max_length=200, pattern=NO_NUL, description="Only changes by this key: its id, or its name."),
    ] = None
    tenant: Annotated[
        str | None,
        Query(
            max_length=40, pattern=NO_NUL, description="Only this tenant; for the operator of the service."
        ),
    ] = None
    created_after: CreatedAfter = None
    created_before: CreatedBefore = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the SQL conditions."""
        equal = {"action": self.action, "kind": self.kind, "object_id": self.object_id}
        found = [getattr(AuditEntry, name) == value for name, value in equal.items() if value is not None]
        if self.by is not None:
            found.append(or_(AuditEntry.key_id == self.by, AuditEntry.key_name == self.by))
        if self.tenant is not None:
            found.append(AuditEntry.tenant_id == self.tenant)
        if self.created_after is not None:
            found.append(AuditEntry.at >= utc(self.created_after))
        if self.created_before is not None:
            found.append(AuditEntry.at < utc(self.created_before))
        return found


AuditFiltersDependency = Annotated[AuditFilters, on_loop(AuditFilters)]


def list_page(
    session: Session, caller: Caller, filters: AuditFilters, page_size: int, page_token: str | None
) -> Page[AuditDocument]:
    """Return a page of the tenant's log, newest first; the operator sees the log of all tenants."""
    require_scope(caller, "admin")
    query = select(AuditEntry).where(*filters.conditions())
    if not caller.is_operator:
        query = query.where(AuditEntry.tenant_id == caller.tenant_id)
    if (before := decode_number(page_token)) is not None:
        query = query.where(AuditEntry.id < before)
    rows = session.execute(query.order_by(AuditEntry.id.desc()).limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [str(row.id) for row in rows])
    names = _names(session, rows)
    items = [_document(row, names.get(row.object_id)) for row in rows]
    return Page[AuditDocument](items=items, next_page_token=token)


def _names(session: Session, rows: Sequence[AuditEntry]) -> dict[str, str]:
    """Return the names of the objects that have one, by their ids."""
    found = names_of_jobs(session, [row.object_id for row in rows if row.kind == "job"])
    for table, name in ((Dataset, Dataset.name), (Key, Key.name), (Webhook, Webhook.url)):
        ids = {row.object_id for row in rows if _TABLES.get(row.kind) is table}
        for object_id, shown in session.execute(select(table.id, name).where(table.id.in_(ids))):
            found[object_id] = shown
    return found


def _document(row: AuditEntry, name: str | None) -> AuditDocument:
    return AuditDocument(
        id=row.id,
        tenant=row.tenant_id,
        at=row.at,
        by=actor_document(row.key_id, row.key_name),
        action=row.action,
        kind=row.kind,
        object_id=row.object_id,
        object_name=name or None,
        details=row.details,
    )
