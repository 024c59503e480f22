"""What routes ask for: the database, the array store, the originals, the settings, the tenant."""

from typing import Annotated

from fastapi import Depends, Request
from zarr.abc.store import Store

from api.auth import CallerDependency
from store.database import Database
from store.originals import OriginalStore
from store.settings import Settings


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _arrays(request: Request) -> Store:
    arrays: Store = request.app.state.arrays
    return arrays


def _originals(request: Request) -> OriginalStore:
    originals: OriginalStore = request.app.state.originals
    return originals


def _tenant(caller: CallerDependency) -> str:
    return caller.tenant_id


SettingsDependency = Annotated[Settings, Depends(_settings)]
DatabaseDependency = Annotated[Database, Depends(_database)]
ArraysDependency = Annotated[Store, Depends(_arrays)]
OriginalsDependency = Annotated[OriginalStore, Depends(_originals)]
TenantDependency = Annotated[str, Depends(_tenant)]
