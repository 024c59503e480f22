"""The dependencies of routes: the parts of the service, the caller, and the check of query parameters."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from zarr.abc.store import Store

from api.auth import CallerDependency
from api.events.event_poller import Feed
from api.http.on_loop import on_loop
from store.database import Database
from store.originals import OriginalStore
from store.settings import Settings


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _arrays(request: Request) -> Store:
    arrays: Store = request.app.state.arrays
    return arrays


async def _originals(request: Request) -> OriginalStore:
    originals: OriginalStore = request.app.state.originals
    return originals


async def _feed(request: Request) -> Feed:
    feed: Feed = request.app.state.feed
    return feed


async def _tenant(caller: CallerDependency) -> str:
    return caller.tenant_id


SettingsDependency = Annotated[Settings, Depends(_settings)]
DatabaseDependency = Annotated[Database, Depends(_database)]
ArraysDependency = Annotated[Store, Depends(_arrays)]
OriginalsDependency = Annotated[OriginalStore, Depends(_originals)]
FeedDependency = Annotated[Feed, Depends(_feed)]
TenantDependency = Annotated[str, Depends(_tenant)]


@dataclass(frozen=True)
class Context:
    """The tenant of a request and the parts of the service, for routes that need several of them."""

    tenant_id: TenantDependency
    settings: SettingsDependency
    database: DatabaseDependency
    arrays: ArraysDependency
    originals: OriginalsDependency


ContextDependency = Annotated[Context, on_loop(Context)]


async def _refuse_unknown(request: Request) -> None:
    """Raise `RequestValidationError` if the route has no parameter of a name in the query."""
    route = request.scope["route"]
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = set[str]()
    for name, kind in _parameters(route.dependant):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return  # such a model refuses unknown parameters by itself
        known.add(name)
    unknown = [
        {"type": "extra_forbidden", "loc": ("query", name), "known": known}
        for name in request.query_params
        if name not in known
    ]
    if unknown:
        raise RequestValidationError(unknown)


def _parameters(dependant: Dependant) -> Iterator[tuple[str, object]]:
    """Yield name and type of each query parameter of a route and of its dependencies."""
    for field in dependant.query_params:
        yield field.alias, field.field_info.annotation
    for further in dependant.dependencies:
        yield from _parameters(further)


KNOWN_PARAMETERS = Depends(_refuse_unknown)
"""The dependency of every router that requires authentication: it refuses unknown query parameters."""
