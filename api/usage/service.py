"""The database operations of the routes of usage."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import Caller
from api.errors import Forbidden, NotFound
from api.http.pagination import Page, cut_page, decode_tenant
from api.limits.request_rates import Holder, LiveUse
from api.usage.schemas import QuotaAmounts, UsageDocument
from domain.quotas import QuotaName, QuotaState, Use
from store import audit, quotas
from store.settings import Settings
from store.tables import Tenant


def document(
    session: Session,
    settings: Settings,
    live_uses: Sequence[LiveUse],
    tenant: Tenant,
    key_id: str | None = None,
) -> UsageDocument:
    """Return the use of a tenant; with the id of a key also the use of the key."""
    own = tenant.quotas or {}
    limits = quotas.allowed(session, settings, tenant.id)
    uses: dict[QuotaName, Use] = dict(quotas.amounts_in_use(session, settings, tenant.id))
    uses["job_model_epochs"] = Use("job_model_epochs", 0, limits["job_model_epochs"])
    uses |= {use.name: use for use in quotas.device_time(session, settings, tenant.id)}
    holder = Holder(tenant.id, key_id, own)
    uses |= {use.name: use for live in live_uses if (use := live(holder)) is not None}
    spent = quotas.spent_device_time(session, settings, tenant.id)
    return UsageDocument(
        tenant=tenant.id,
        quotas=[QuotaState.of(use) for use in uses.values()],
        own_amounts=own,
        waits_for=None if spent is None else spent.sentence(),
        links={"self": f"/v1/usage?tenant={tenant.id}"},
    )


def find(session: Session, caller: Caller, tenant_id: str | None) -> Tenant:
    """Return the caller's tenant, or another one for the operator.

    Raises
    ------
    Forbidden, NotFound
        If the caller is not the operator and asks for another tenant, or the tenant does not exist.
    """
    wanted = tenant_id or caller.tenant_id
    if wanted != caller.tenant_id:
        require_operator(caller)
    if (row := session.get(Tenant, wanted)) is None:
        raise NotFound(f"there is no tenant {wanted}", hint="GET /v1/usage/tenants lists them")
    return row


def require_operator(caller: Caller) -> None:
    """Raise `Forbidden` unless the caller operates the service."""
    if not caller.is_operator:
        raise Forbidden(
            "only the operator of the service sees other tenants and changes quotas",
            hint="use the key of the settings, LATENTRY_ADMIN_KEY. GET /v1/usage shows what your tenant uses",
        )


def list_page(
    session: Session, settings: Settings, live_uses: Sequence[LiveUse], page_size: int, page_token: str | None
) -> Page[UsageDocument]:
    """Return a page of the use of all tenants, by their names."""
    query = select(Tenant).order_by(Tenant.id).limit(page_size + 1)
    if (after := decode_tenant(page_token)) is not None:
        query = query.where(Tenant.id > after)
    found = session.execute(query).scalars().all()
    rows, token = cut_page(found, page_size, [row.id for row in found])
    return Page(items=[document(session, settings, live_uses, row) for row in rows], next_page_token=token)


def change(session: Session, settings: Settings, row: Tenant, amounts: QuotaAmounts) -> None:
    """Set amounts of a tenant; null removes an own amount."""
    changed: Mapping[str, float | None] = amounts.model_dump(exclude_unset=True)
    merged = {**(row.quotas or {}), **changed}
    row.quotas = {name: value for name, value in merged.items() if value is not None} or None
    audit.record(session, "tenant.quotas_changed", row, **changed)
    session.flush()
    quotas.note_device_time(session, settings, row)
    session.flush()
