"""Health and readiness."""

import logging
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy import func, select

from api.dependencies import DatabaseDependency
from api.http.links import Link
from domain.states import SliceState
from store.database import database_now
from store.migrate import schema_problem
from store.tables import OutboxMessage, Slice
from store.workers import alive_workers

logger = logging.getLogger(__name__)

router = APIRouter(tags=["service"])

_OUTBOX_LATE_SECONDS = 30.0


class Health(BaseModel):
    """The process responds."""

    status: Annotated[str, Field(examples=["ok"])]


class Service(BaseModel):
    """Name and version of the service, and links to its resources."""

    name: str = "Latentry"
    version: str
    links: dict[str, Link]


class WorkerHealth(BaseModel):
    """A training process that was active recently. `GET /v1/checks`, which needs a key, also returns the names."""

    device: Annotated[str, Field(examples=["cuda:0"])]
    device_name: str | None = Field(
        description="Model of a GPU; of a CPU that `LATENTRY_DEVICE=auto` took, the reason. null: `cpu` was set."
    )
    seen_at: datetime


class Readiness(BaseModel):
    """Whether the service accepts requests and has workers."""

    ready: bool = Field(
        description="Whether the database responds and has the schema of this version. If so, the service handles requests "
        "and accepts jobs."
    )
    workers: list[WorkerHealth] = Field(
        description="Training processes seen in the last 30 s. A worker starts its process with the first slice."
    )
    slices_queued: int
    slices_running: int
    messages_waiting: int
    warnings: list[str]


@router.get("/v1", operation_id="get_service")
async def get_service() -> Service:
    """Return the version of the service and links to its resources."""
    own = (
        "datasets",
        "jobs",
        "inferences",
        "keys",
        "shares",
        "usage",
        "retention",
        "audit",
        "webhooks",
        "caller",
        "checks",
    )
    links = {name: f"/v1/{name}" for name in own} | {
        "readiness": "/readyz",
        "docs": "/docs",
        "openapi": "/openapi.json",
    }
    return Service(version=version("latentry"), links=links)


@router.get("/healthz", operation_id="get_health")
async def get_health() -> Health:
    """Return 200 if this process is alive."""
    # It needs no thread: a process whose threads are all busy is alive.
    return Health(status="ok")


@router.get(
    "/readyz",
    operation_id="get_readiness",
    responses={
        503: {"model": Readiness, "description": "The database does not respond, or has another schema."}
    },
)
def get_readiness(response: Response, database: DatabaseDependency) -> Readiness:
    """Return whether the database responds and has the schema of this version, the workers, and the queued and running slices.

    The answer needs no key, so it contains no names of hosts, no addresses and no paths.
    """
    try:
        with database.read() as session:
            if problem := schema_problem(session):
                response.status_code = 503
                return _not_ready("{}: {}".format(*problem))
            now = database_now(session)
            workers = alive_workers(session)
            counts = {
                row.state: row.number
                for row in session.execute(
                    select(Slice.state, func.count().label("number"))
                    .where(Slice.state.in_([SliceState.QUEUED, SliceState.LEASED]))
                    .group_by(Slice.state)
                )
            }
            oldest = session.execute(select(func.min(OutboxMessage.created_at))).scalar_one()
            waiting = session.execute(select(func.count()).select_from(OutboxMessage)).scalar_one()
            warnings = []
            if oldest is not None and now - oldest > timedelta(seconds=_OUTBOX_LATE_SECONDS):
                warnings.append(
                    f"{waiting} messages have been waiting since {oldest.isoformat()}: check that the maintenance loop and the "
                    "broker are running"
                )
            return Readiness(
                ready=True,
                workers=[
                    WorkerHealth(device=w.device, device_name=w.device_name, seen_at=w.seen_at)
                    for w in workers
                ],
                slices_queued=counts.get(SliceState.QUEUED, 0),
                slices_running=counts.get(SliceState.LEASED, 0),
                messages_waiting=waiting,
                warnings=warnings,
            )
    except Exception as error:
        logger.warning(
            "the database does not respond: %s: %s", type(error).__name__, str(error).partition("\n")[0]
        )
        response.status_code = 503
        return _not_ready(
            f"the database does not respond: {type(error).__name__}. The log of the API has the details."
        )


def _not_ready(why: str) -> Readiness:
    return Readiness(
        ready=False, workers=[], slices_queued=0, slices_running=0, messages_waiting=0, warnings=[why]
    )
