"""The route of checks."""

from collections.abc import Mapping

from fastapi import APIRouter, Request

from api.auth import CallerDependency
from api.checks.base import Check, Parts
from api.checks.brokers import check_broker, check_queues
from api.checks.databases import check_database, check_migrations
from api.checks.running import Checks
from api.checks.schemas import ChecksDocument
from api.checks.storage import check_array_storage, check_disk, check_originals
from api.checks.versions import check_versions
from api.checks.work import check_ingest, check_maintenance, check_workers

router = APIRouter(tags=["service"])

CHECKS: Mapping[str, Check] = {
    "database": check_database,
    "migrations": check_migrations,
    "broker": check_broker,
    "queues": check_queues,
    "workers": check_workers,
    "ingest": check_ingest,
    "maintenance": check_maintenance,
    "array_storage": check_array_storage,
    "originals": check_originals,
    "disk": check_disk,
    "versions": check_versions,
}


@router.get("/v1/checks", operation_id="get_checks")
def get_checks(request: Request, caller: CallerDependency) -> ChecksDocument:
    """Look at every part of the service, side by side and for some seconds at most, and say what is wrong and what to do.

    The answer is 200 whatever is found. While the database is away only the key of the settings is known to be valid.
    """
    found = _checks(request).run()
    if caller.is_operator:
        return found
    hidden = [one.model_copy(update={"details": None}) for one in found.checks]
    return found.model_copy(update={"checks": hidden})


def _checks(request: Request) -> Checks:
    """The checks of this app, which know those that still hang from an earlier request."""
    state = request.app.state
    if not hasattr(state, "checks"):
        parts = Parts(state.settings, state.database, state.arrays, state.originals)
        state.checks = Checks(parts, CHECKS)
    checks: Checks = state.checks
    return checks
