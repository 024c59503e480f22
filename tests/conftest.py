"""Servers that tests need, started from packages on free ports or sockets, and gone with the test run."""

import os
import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from store.database import Database
from store.migrate import migrate
from tests.servers import PostgresServer, ReusedDatabase, free_port, postgresql
from worker.embedded import EmbeddedService

# No test fails because the machine is busy.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

pytest.register_assert_rewrite("tests.integration.faulty_service")

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Of the services that tests start: a killed worker's slice is taken up after seconds.
os.environ.setdefault("LATENTRY_LEASE_SECONDS", "6")
os.environ.setdefault("LATENTRY_HEARTBEAT_SECONDS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Generate the synchronous client anew, once for all processes, if the asynchronous one has changed."""
    if not hasattr(config, "workerinput"):
        generator = Path(__file__).resolve().parents[1] / "client/generate_synchronous.py"
        runpy.run_path(str(generator), run_name="__main__")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `make test-all` what `make test` tries elsewhere: routes and sweeps on SQLite, where most other tests of them run.

    On both kinds `make test` tries stores, scheduling and whatever a test names itself.
    """
    for item in items:
        of_folder = item.path.relative_to(Path(__file__).parent).as_posix()
        kind = (
            item.callspec.params.get("database")
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else None
        )
        if kind == "sqlite" and of_folder.startswith(("api/", "worker/maintenance/")):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of the tests that only need a database."""
    with postgresql() as server:
        yield server


@pytest.fixture
def postgres_database_url(postgres_server: PostgresServer) -> str:
    """SQLAlchemy URL of a fresh PostgreSQL database."""
    return postgres_server.new_database()


def migrated(url: str) -> str:
    """Migrate a database, close it, and give its URL."""
    database = Database(url)
    migrate(database)
    database.close()
    return url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database, of which copies are made: that is quicker than to migrate each."""
    path = tmp_path_factory.mktemp("migrated") / "test.db"
    migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def reused_database(postgres_server: PostgresServer) -> ReusedDatabase:
    """A migrated PostgreSQL database that tests use one after the other: to empty one is quicker than to create one."""
    return ReusedDatabase(postgres_server, migrated(postgres_server.new_database()))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated database of each kind."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    reused: ReusedDatabase = request.getfixturevalue("reused_database")
    database = Database(reused.take())
    yield database
    database.close()
    reused.give_back()


@pytest.fixture
def sqlite_database(migrated_file: Path, tmp_path: Path) -> Iterator[Database]:
    """A migrated SQLite database, where the kind does not matter."""
    path = shutil.copy(migrated_file, tmp_path / "test.db")
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture(scope="session")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., EmbeddedService]]:
    """Starts whole services (API, workers, maintenance, broker), each in its own folder, on a free port."""
    running: list[EmbeddedService] = []

    def start(data_dir: Path | None = None, *, workers: int = 1) -> EmbeddedService:
        folder = data_dir or tmp_path_factory.mktemp("service")
        service = EmbeddedService(folder, port=0, workers=workers, threads=1)
        running.append(service)
        service.start()
        return service

    yield start
    for service in running:
        service.stop()


@pytest.fixture(scope="session")
def service(start_service: Callable[..., EmbeddedService], metrics_port: int) -> EmbeddedService:
    """One service for the tests that disturb nothing. It serves metrics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTRY_METRICS_PORT", str(metrics_port))
        return start_service(workers=1)


@pytest.fixture(scope="session")
def metrics_port() -> int:
    """Port of the metrics of `service`."""
    return free_port()


@pytest.fixture(scope="session")
def spikes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NPZ of 40 trials × 20 bins × 8 neurons whose rates are known, with a condition for each trial."""
    random = np.random.default_rng(0)
    time_s = np.arange(20) * 0.02
    phases = random.uniform(0, 2 * np.pi, (40, 1, 8))
    rates_hz = 20 * np.exp(np.sin(2 * np.pi * 2 * time_s[None, :, None] + phases))
    path = tmp_path_factory.mktemp("files") / "spikes.npz"
    np.savez(
        path,
        spikes=random.poisson(rates_hz * 0.02).astype(np.uint8),
        bin_width_s=0.02,
        true_rates_hz=rates_hz.astype(np.float32),
        condition=np.arange(40) % 4,
    )
    return path
