"""The route of the checks."""

from collections.abc import Mapping

from fastapi import APIRouter, Request

from api.auth import CallerDependency
from api.checks.base import Check, Checks, ChecksDocument, Parts
from api.checks.brokers import check_broker, check_queues
from api.checks.databases import check_database, check_migrations
from api.checks.machine import check_array_storage, check_disk, check_originals, check_versions
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
    """Check every part of the service in parallel, for at most 5 seconds, and say what is wrong and what to do.

    The status is 200 whatever the result. While the database does not respond, only the key of the settings is accepted.
    """
    found = _checks(request).run()
    if caller.is_operator:
        return found
    hidden = [one.model_copy(update={"details": None}) for one in found.checks]
    return found.model_copy(update={"checks": hidden})


def _checks(request: Request) -> Checks:
    """Return the checks of this app. They remember checks that still hang from an earlier request."""
    state = request.app.state
    if not hasattr(state, "checks"):
        parts = Parts(state.settings, state.database, state.arrays, state.originals)
        state.checks = Checks(parts, CHECKS)
    checks: Checks = state.checks
    return checks
