"""The route of the log of changes."""

from fastapi import APIRouter

from api.audit import service
from api.audit.schemas import AuditDocument
from api.audit.service import AuditFiltersDependency
from api.auth import CallerDependency
from api.dependencies import DatabaseDependency
from api.errors import problem_responses
from api.http.pagination import Page, PageSize, PageToken

router = APIRouter(tags=["audit"])


@router.get("/v1/audit", operation_id="list_audit", responses=problem_responses(403, 422))
def list_audit(
    database: DatabaseDependency,
    caller: CallerDependency,
    filters: AuditFiltersDependency,
    *,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[AuditDocument]:
    """List who made, changed, cancelled or deleted what, newest first. Nobody can change this log."""
    with database.read() as session:
        return service.list_page(session, caller, filters, page_size, page_token)
