"""Routes of the retention."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.auth import CallerDependency
from api.dependencies import DatabaseDependency, SettingsDependency
from api.errors import problem_responses
from api.json_bodies import JsonRoute
from api.retention import service
from api.retention.schemas import RetentionReport, TenantDays

router = APIRouter(tags=["service"], route_class=JsonRoute)


@router.get("/v1/retention", operation_id="get_retention", responses=problem_responses(403, 404, 422))
def get_retention(
    database: DatabaseDependency,
    settings: SettingsDependency,
    caller: CallerDependency,
    tenant: Annotated[
        str | None,
        Query(max_length=40, description="Only this tenant. The operator sees all tenants otherwise."),
    ] = None,
) -> RetentionReport:
    """Return for how long data is kept, and what the next sweep removes: how much, and older than what. It removes nothing."""
    with database.read() as session:
        return service.report(session, caller, settings, tenant)


@router.put(
    "/v1/retention/{tenant}",
    operation_id="set_retention",
    responses=problem_responses(400, 403, 404, 413, 415, 422),
)
def set_retention(
    tenant: str,
    days: TenantDays,
    database: DatabaseDependency,
    settings: SettingsDependency,
    caller: CallerDependency,
) -> RetentionReport:
    """Replace the days for which the data of a tenant is kept. Days that you omit are those of the settings."""
    with database.write() as session:
        return service.set_days(session, caller, settings, tenant, days)
