"""Routes of usage and quotas."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Request
from fastapi.openapi.models import Example

from api.auth import CallerDependency
from api.dependencies import DatabaseDependency, SettingsDependency
from api.errors import problem_responses
from api.http.pagination import Page, PageSize, PageToken
from api.json_bodies import JsonRoute
from api.keys.schemas import TenantName
from api.limits.request_rates import LiveUse
from api.usage import service
from api.usage.schemas import (
    QuotaAmounts,
    TenantPause,
    UsageDocument,
    WorkerDocument,
    WorkersDocument,
)

router = APIRouter(tags=["usage"], route_class=JsonRoute)


async def _live_uses(request: Request) -> Sequence[LiveUse]:
    live_uses: Sequence[LiveUse] = request.app.state.live_uses
    return live_uses


LiveUsesDependency = Annotated[Sequence[LiveUse], Depends(_live_uses)]
_AMOUNTS: dict[str, Example] = {
    "more": {
        "summary": "More space and more device time",
        "value": {"stored_bytes": 2e12, "device_seconds_per_day": 4e6},
    },
    "default": {"summary": "Back to the amount of the settings", "value": {"stored_bytes": None}},
}


@router.get("/v1/usage", operation_id="get_usage", responses=problem_responses(404))
def get_usage(
    database: DatabaseDependency,
    settings: SettingsDependency,
    caller: CallerDependency,
    live_uses: LiveUsesDependency,
    tenant: Annotated[
        TenantName | None, Query(description="Another tenant, for the operator of the service.")
    ] = None,
) -> UsageDocument:
    """Return what your tenant uses of each quota, what is allowed, what is left, and when it frees."""
    with database.read() as session:
        row = service.find(session, caller, tenant)
        key_id = caller.key_id if row.id == caller.tenant_id else None
        return service.document(session, settings, live_uses, row, key_id)


@router.get("/v1/usage/tenants", operation_id="list_usage")
def list_usage(
    database: DatabaseDependency,
    settings: SettingsDependency,
    caller: CallerDependency,
    live_uses: LiveUsesDependency,
    *,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[UsageDocument]:
    """List the usage of all tenants, for the operator of the service."""
    service.require_operator(caller)
    with database.read() as session:
        return service.list_page(session, settings, live_uses, page_size, page_token)


@router.patch(
    "/v1/usage/tenants/{tenant}",
    operation_id="change_quotas",
    responses=problem_responses(400, 404, 413, 415),
)
def change_quotas(
    tenant: TenantName,
    amounts: Annotated[QuotaAmounts, Body(openapi_examples=_AMOUNTS)],
    database: DatabaseDependency,
    settings: SettingsDependency,
    caller: CallerDependency,
    live_uses: LiveUsesDependency,
) -> UsageDocument:
    """Set the quotas of a tenant, for the operator of the service. They replace the amounts of the settings at once."""
    service.require_operator(caller)
    with database.write() as session:
        row = service.find(session, caller, tenant)
        service.change(session, settings, row, amounts)
        return service.document(session, settings, live_uses, row)


@router.post(
    "/v1/usage/tenants/{tenant}:pause",
    operation_id="pause_tenant",
    responses=problem_responses(400, 404, 413, 415),
)
def pause_tenant(
    tenant: TenantName,
    database: DatabaseDependency,
    settings: SettingsDependency,
    caller: CallerDependency,
    live_uses: LiveUsesDependency,
    pause: TenantPause | None = None,
) -> UsageDocument:
    """Pause a tenant, for the operator of the service: no job, inference or ingest of it begins. What runs ends.

    Its members can still read everything, upload files and create jobs, which wait.
    """
    service.require_operator(caller)
    with database.write() as session:
        row = service.find(session, caller, tenant)
        service.pause(session, row, pause.reason if pause else "")
        return service.document(session, settings, live_uses, row)


@router.post(
    "/v1/usage/tenants/{tenant}:resume", operation_id="resume_tenant", responses=problem_responses(404, 413)
)
def resume_tenant(
    tenant: TenantName,
    database: DatabaseDependency,
    settings: SettingsDependency,
    caller: CallerDependency,
    live_uses: LiveUsesDependency,
) -> UsageDocument:
    """Resume a paused tenant, for the operator of the service. Its work begins again by itself."""
    service.require_operator(caller)
    with database.write() as session:
        row = service.find(session, caller, tenant)
        service.resume(session, row)
        return service.document(session, settings, live_uses, row)


@router.get("/v1/workers", operation_id="list_workers")
def list_workers(database: DatabaseDependency, caller: CallerDependency) -> WorkersDocument:
    """List the training processes that are alive with what they do, and what waits, for the operator of the service."""
    service.require_operator(caller)
    with database.read() as session:
        return service.workers(session)


@router.post("/v1/workers/{name}:drain", operation_id="drain_worker", responses=problem_responses(404, 413))
def drain_worker(
    name: Annotated[str, Path(max_length=200)], database: DatabaseDependency, caller: CallerDependency
) -> WorkerDocument:
    """Drain a worker, for the operator of the service: it finishes what it does, begins nothing more, and ends when it is idle.

    An idle worker ends within some 10 seconds. A slice that it trains ends after `LATENTRY_SLICE_SECONDS` at most.
    """
    service.require_operator(caller)
    with database.write() as session:
        return service.drain(session, caller, name)
