"""The database operations of the routes of the retention."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import Caller, require_scope
from api.errors import Forbidden, NotFound
from api.retention.schemas import RetentionItem, RetentionReport, TenantDays
from store import audit
from store.database import LOCK, database_now
from store.retention import KINDS, Due, count_due, cutoff, kept_days, setting_of
from store.settings import Settings
from store.tables import Tenant


def report(session: Session, caller: Caller, settings: Settings, tenant_id: str | None) -> RetentionReport:
    """Return the days and what is due of the caller's tenant; the operator sees the given tenant, or all of them.

    Raises
    ------
    Forbidden, NotFound
        If the caller may not see the tenant, or it does not exist.
    """
    require_scope(caller, "admin")
    if tenant_id is not None:
        tenants = [_find(session, caller, tenant_id)]
    elif caller.is_operator:
        tenants = list(session.execute(select(Tenant).order_by(Tenant.id)).scalars())
    else:
        tenants = [session.get_one(Tenant, caller.tenant_id)]
    return RetentionReport(
        items=[_item(session, settings, tenant, kind) for tenant in tenants for kind in KINDS]
    )


def set_days(
    session: Session, caller: Caller, settings: Settings, tenant_id: str, days: TenantDays
) -> RetentionReport:
    """Replace the days of a tenant.

    Raises
    ------
    Forbidden, NotFound
        If the caller is not the operator, or the tenant does not exist.
    """
    if not caller.is_operator:
        raise Forbidden(
            "only the operator of the service can change for how long data is kept",
            hint="ask the operator; GET /v1/retention shows the present days",
        )
    tenant = _find(session, caller, tenant_id, lock=True)
    tenant.retention = days.model_dump(exclude_none=True) or None
    audit.record(session, "tenant.retention_changed", tenant, days=tenant.retention)
    session.flush()
    return report(session, caller, settings, tenant_id)


def _find(session: Session, caller: Caller, tenant_id: str, *, lock: bool = False) -> Tenant:
    is_visible = caller.is_operator or tenant_id == caller.tenant_id
    row = session.get(Tenant, tenant_id, with_for_update=LOCK if lock else None) if is_visible else None
    if row is None:
        raise NotFound(
            f"there is no tenant {tenant_id}", hint="GET /v1/retention lists those that you may see"
        )
    return row


def _item(session: Session, settings: Settings, tenant: Tenant, kind: str) -> RetentionItem:
    before = cutoff(settings, tenant.retention, database_now(session), kind)
    due = Due(0, 0) if before is None else count_due(session, tenant.id, kind, before)
    return RetentionItem(
        tenant=tenant.id,
        kind=kind,
        days=kept_days(settings, tenant.retention, kind),
        is_own=kind in (tenant.retention or {}),
        setting=setting_of(kind),
        older_than=before,
        due=due.items,
        due_bytes=due.size_bytes,
    )
