"""The app on a database of each kind, and a served example with one of everything."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import limits
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from zarr.abc.store import Store

from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from tests.api.api_examples import Example, add_dataset, fill
from tests.app_copies import app_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", upload_max_bytes=2**20, body_max_bytes=2**14)


@pytest.fixture
def arrays(database: Database) -> Store:
    return open_array_store("sql:", database)


@pytest.fixture
def app(settings: Settings, database: Database, arrays: Store) -> FastAPI:
    return app_of(settings, database, arrays)


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    """A client of the app on a database of each kind."""
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def light_app(settings: Settings, sqlite_database: Database) -> FastAPI:
    """The app on SQLite, where the kind of database does not matter."""
    return app_of(settings, sqlite_database, open_array_store("sql:", sqlite_database))


@pytest.fixture
def light_client(light_app: FastAPI) -> TestClient:
    return TestClient(light_app, raise_server_exceptions=False)


@pytest.fixture
def still_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock by which requests are counted stands still, so no minute ends while a busy machine sends those of a test."""
    now = time.time()
    clock = SimpleNamespace(time=lambda: now)
    for module in (limits.storage.memory, limits.strategies):
        monkeypatch.setattr(module, "time", clock)


@pytest.fixture
def dataset_id(database: Database) -> str:
    """A data set that is ready."""
    with database.write() as session:
        return add_dataset(session)


@pytest.fixture
def light_dataset_id(sqlite_database: Database) -> str:
    with sqlite_database.write() as session:
        return add_dataset(session)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """One of everything, for tests that only read."""
    folder = tmp_path_factory.mktemp("example")
    settings = Settings(data_dir=folder, json_max_elements=1000)
    database = Database(settings.database_url)
    migrate(database)
    arrays = open_array_store("sql:", database)
    yield fill(app_of(settings, database, arrays), database, arrays)
    database.close()


@pytest.fixture(scope="session")
def reader(example: Example) -> TestClient:
    """A client of the example."""
    return TestClient(example.app, raise_server_exceptions=False)


def serve(app: FastAPI, **options: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def example_url(example: Example) -> Iterator[str]:
    """URL of a real server of the example."""
    yield from serve(example.app)


@pytest.fixture
def light_url(light_app: FastAPI) -> Iterator[str]:
    """URL of a real server of `light_app`."""
    yield from serve(light_app)
