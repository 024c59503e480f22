"""The FastAPI app. ``python -m api.server`` serves it."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any

from anyio import CapacityLimiter, create_task_group, to_thread
from fastapi import APIRouter, FastAPI
from starlette.datastructures import State
from zarr.abc.store import Store

from api import error_handlers, errors, health, openapi, page
from api.analyses.routes import make_analyses_router
from api.arrays.download_routes import make_download_router
from api.arrays.groups import ArrayResource
from api.arrays.routes import make_array_router
from api.arrays.zarr_routes import make_zarr_router
from api.audit import routes as audit_routes
from api.auth import ACTING, CALLER, KnownKeys
from api.caches import forget_deleted_until_cancelled
from api.checks import routes as check_routes
from api.computing.fair_executor import FairExecutor
from api.datasets import preview_routes
from api.datasets import routes as dataset_routes
from api.datasets.service import find_arrays
from api.dependencies import KNOWN_PARAMETERS
from api.early_refusals import EarlyRefusals
from api.events.event_poller import Feed
from api.http.links import RootPath
from api.inferences import online_routes
from api.inferences import routes as inference_routes
from api.inferences.service import find_latents as find_inferred
from api.jobs import routes as job_routes
from api.jobs import search_routes
from api.jobs.event_stream import encode
from api.keys import routes as key_routes
from api.limits.request_limits import BodyLimit
from api.limits.request_rates import Holder, RequestRates
from api.limits.request_turns import RequestTurns
from api.limits.wrong_keys import WrongKeys
from api.models import routes as model_routes
from api.models.service import find_latents
from api.request_log import RequestLog
from api.retention import routes as retention_routes
from api.shares import routes as share_routes
from api.uploads import routes as upload_routes
from api.uploads import tus_routes
from api.usage import routes as usage_routes
from api.webhooks import routes as webhook_routes
from domain.quotas import Use
from store.array_store import get_array_store
from store.database import Database, get_database
from store.migrate import refuse_newer
from store.originals import open_originals
from store.settings import Settings, get_settings

DESCRIPTION = """
Single-trial latent dynamics from spikes. Upload a data set, start a search over LFADS models (trained with coordinated
dropout, selected by sample validation), and read firing rates and factors.

Units: times are UTC, bin widths are in seconds, rates in spikes per second, losses in nats per sample. Errors are
`application/problem+json` (RFC 9457).
"""


def create_app(
    settings: Settings | None = None, database: Database | None = None, arrays: Store | None = None
) -> FastAPI:
    """Build the app.

    Parameters
    ----------
    settings, database, arrays
        By default, those that the environment variables describe.
    """
    settings = settings or get_settings()
    app = FastAPI(
        title="Latentry",
        version=version("latentry"),
        description=DESCRIPTION,
        responses=errors.problem_responses(500),
        separate_input_output_schemas=False,
        openapi_url=None,  # `api.openapi` writes the document once, and its page works without the internet
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state = make_state(settings, database or get_database(), arrays or get_array_store())
    error_handlers.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestTurns, at_once=settings.requests_at_once)
    app.add_middleware(EarlyRefusals)
    app.add_middleware(RootPath)
    app.add_middleware(RequestLog)
    for router in _resources():
        app.include_router(
            router,
            dependencies=[CALLER, ACTING, KNOWN_PARAMETERS],
            responses=errors.problem_responses(401, 403, 422, 429, 503, 507),
        )
    app.include_router(health.router)
    openapi.install(app)
    page.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Refuse to start on a database of a newer version; while the app runs, let its caches forget what was deleted.

    End the event streams at the signal to stop.
    """
    await to_thread.run_sync(refuse_newer, app.state.database)
    with _at_signals(app.state.feed.close):
        async with create_task_group() as tasks:
            tasks.start_soon(forget_deleted_until_cancelled, app.state.database)
            yield
            tasks.cancel_scope.cancel()


@contextmanager
def _at_signals(end: Callable[[], None]) -> Iterator[None]:
    """Call a function at SIGTERM and SIGINT, before the server's own handler, which waits for open responses."""
    handlers: dict[signal.Signals, Any] = {}
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(end)
        handlers[signal.Signals(number)](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
                signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def make_state(settings: Settings, database: Database, arrays: Store) -> State:
    """Return the state of the app, which the dependencies of routes read."""
    executor = FairExecutor(
        settings.computation_threads, settings.computation_seconds, settings.computations_per_tenant
    )
    rates = RequestRates(settings)
    feed = Feed(database, encode)

    def streams(holder: Holder) -> Use:
        number = feed.streams()[holder.tenant_id, holder.key_id]
        return Use("streams", number, settings.streams_per_key)

    def analyses(holder: Holder) -> Use:
        return Use("analyses", executor.number(holder.tenant_id), settings.computations_per_tenant)

    return State(
        {
            "settings": settings,
            "database": database,
            "arrays": arrays,
            "originals": open_originals(settings),
            "request_rates": rates,
            "executor": executor,
            # Each request waits for a worker, which has its own time limit.
            "inference_executor": FairExecutor(
                settings.infer_at_once, 2 * settings.infer_seconds, settings.computations_per_tenant
            ),
            "wrong_keys": WrongKeys(settings),
            "known_keys": KnownKeys(),
            # One thread looks up the keys of requests that are probably refused.
            "late_lookups": CapacityLimiter(1),
            "feed": feed,
            "live_uses": [rates.of_tenant, rates.of_key, rates.of_written, streams, analyses],
        }
    )


def _resources() -> list[APIRouter]:
    """Return the routers that require authentication."""
    return [
        key_routes.router,
        share_routes.router,
        audit_routes.router,
        usage_routes.router,
        dataset_routes.router,
        preview_routes.router,
        tus_routes.router,
        upload_routes.router,
        job_routes.router,
        search_routes.router,
        model_routes.router,
        webhook_routes.router,
        inference_routes.router,
        online_routes.router,
        check_routes.router,
        retention_routes.router,
        *(
            make(ArrayResource(kind, plural, find, find_reference=find_latents))
            for make in (make_array_router, make_zarr_router, make_download_router, make_analyses_router)
            for kind, plural, find in (
                ("dataset", "datasets", find_arrays),
                ("model", "models", find_latents),
                ("inference", "inferences", find_inferred),
            )
        ),
    ]
