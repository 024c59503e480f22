"""The checks of the quotas of amounts, before a request uses anything (409)."""

from sqlalchemy.orm import Session

from api.errors import QuotaReached
from domain.job_specification import Budget
from domain.quotas import QuotaName, Use
from store import quotas
from store.settings import Settings


def check_amounts(session: Session, settings: Settings, tenant_id: str, **more: float) -> None:
    """Check that the tenant may use more of these quotas. Others of the tenant wait until the transaction ends.

    Parameters
    ----------
    session
        A writing transaction.
    settings, tenant_id
        Of the service, and the tenant.
    more
        The amount that the request adds to each quota, by name. 0 for what is already counted. `database_bytes` is always
        checked.

    Raises
    ------
    QuotaReached
        If the sum goes beyond a quota.
    ValueError
        If a name is not one of `store.quotas.amounts_in_use`.
    """
    quotas.lock_tenant(session, tenant_id)
    look_at_amounts(session, settings, tenant_id, **more)


def look_at_amounts(session: Session, settings: Settings, tenant_id: str, **more: float) -> None:
    """Do what `check_amounts` does without the lock, before a writing transaction: a request that it refuses delays no writer."""
    uses = quotas.amounts_in_use(session, settings, tenant_id)
    more = {"database_bytes": 0, **more}
    if unknown := more.keys() - uses.keys():
        raise ValueError(f"expected some of {sorted(uses)}; got {sorted(unknown)}")
    for use in uses.values():
        if use.name in more and use.refuses(asked := more[use.name]):
            raise QuotaReached.of(use, asked)


def model_epochs(session: Session, settings: Settings, tenant_id: str, budget: Budget) -> tuple[Use, float]:
    """Return the quota of models × epochs of a job, and what a budget asks of it."""
    name: QuotaName = "job_model_epochs"
    allowed = quotas.allowed(session, settings, tenant_id)[name]
    return Use(name, 0, allowed), budget.models * budget.epochs


def check_budget(session: Session, settings: Settings, tenant_id: str, budget: Budget) -> None:
    """Raise `QuotaReached` if a job has more models × epochs than its tenant may ask for."""
    use, asked = model_epochs(session, settings, tenant_id, budget)
    if use.refuses(asked):
        raise QuotaReached.of(use, asked)


def check_upload(session: Session, settings: Settings, tenant_id: str, size_bytes: int) -> None:
    """Check that an announced upload fits into the tenant's quotas: all unfinished uploads count with their sizes.

    Raises
    ------
    QuotaReached
        If it does not.
    """
    quotas.lock_tenant(session, tenant_id)
    uses = quotas.amounts_in_use(session, settings, tenant_id)
    if (under_way := uses["upload_bytes"]).refuses(size_bytes):
        raise QuotaReached.of(under_way, size_bytes)
    if (rows := uses["database_bytes"]).refuses():
        raise QuotaReached.of(rows)
    stored = uses["stored_bytes"]
    if stored.refuses(under_way.used + size_bytes):
        raise QuotaReached.of(stored, under_way.used + size_bytes)


def largest_upload(session: Session, settings: Settings, tenant_id: str) -> int:
    """Return the size of the largest upload that the service and the tenant's quotas allow now; 1 if they allow none."""
    uses = quotas.amounts_in_use(session, settings, tenant_id)
    rests = [use.rest for use in (uses["upload_bytes"], uses["stored_bytes"]) if use.rest is not None]
    return int(max(1, min([settings.upload_max_bytes, *rests])))
