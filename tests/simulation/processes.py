"""The processes of the service with fake training: workers, control processes (`advance`) and the maintenance loop.

Messages come by the real outbox and broker. Only Celery's consumer is missing: a process takes a message from the broker's
queue by itself and calls what the task calls.

Any process may be killed at any time. A failed task is noted and the process continues, as with Celery. A process that ends by
itself writes down what it measured.
"""

import base64
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import psutil
import redis
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from store.array_store import open_array_store
from store.database import Database
from store.outbox import COLLECT
from store.queues import CONTROL, SLICES
from store.settings import Settings, get_settings
from store.tables import Worker
from tests.simulation.fake_training import Pace, instead_of_the_network
from tests.simulation.measured_database import MeasuredDatabase, Transaction
from worker.context.process import TrainingProcess
from worker.maintenance.garbage_collection import collect_all
from worker.process.run_next import run_next
from worker.scheduling.leases import Lease, LeaseLost
from worker.scheduling.scheduler import advance

Role = Literal["worker", "control", "maintenance"]


@dataclass(frozen=True)
class Place:
    """The folder where the processes of a simulation meet.

    Parameters
    ----------
    folder
        For measurements and notes.
    environment
        Settings of the service.
    owner
        The process that started the others. They end when it is gone.
    """

    folder: Path
    environment: dict[str, str]
    owner: int = field(default_factory=os.getpid)

    def settings(self) -> Settings:
        """Make this environment that of the process, and read the settings."""
        os.environ.update(self.environment)
        get_settings.cache_clear()
        return get_settings()

    @property
    def begin_file(self) -> Path:
        """Workers take no slice before this file exists."""
        return self.folder / "begin"

    @property
    def stop_file(self) -> Path:
        """All processes end soon after this file exists."""
        return self.folder / "stop"

    def is_stopping(self) -> bool:
        """Return whether the processes must end."""
        return self.stop_file.exists() or not psutil.pid_exists(self.owner)

    def note(self, kind: str, **details: str) -> None:
        """Append a line to the notes of all processes."""
        line = json.dumps({"kind": kind, **details}) + "\n"
        file = os.open(self.folder / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())  # one write: lines of several processes do not mix
        os.close(file)

    def read_notes(self, kind: str) -> list[dict[str, str]]:
        """Return all notes of a kind, in order."""
        if not (self.folder / "notes").exists():
            return []
        found = [json.loads(line) for line in (self.folder / "notes").read_text().splitlines()]
        return [one for one in found if one["kind"] == kind]

    @contextmanager
    def as_a_task(self, name: str) -> Iterator[None]:
        """Note an error instead of raising it."""
        try:
            yield
        except Exception as error:
            first_line = str(error).splitlines()[0] if str(error) else ""
            self.note("error", name=name, error=f"{type(error).__name__}: {first_line[:200]}")


@dataclass
class Measures:
    """What one process measured; times in seconds, by the machine's monotonic clock.

    Parameters
    ----------
    role
        ``worker``, ``control`` or ``maintenance``.
    transactions
        All transactions of the process.
    started, ended
        When the process could take work, and when it stopped.
    cpu_s
        CPU time between the two.
    data_sets_loaded
        How often a worker had to load the data of its slice.
    slices
        Begin and end of each slice of a worker, in order; the begin is the end of the claim.
    trained
        Time in training of each slice of a worker.
    """

    role: Role
    transactions: list[Transaction] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0
    cpu_s: float = 0.0
    data_sets_loaded: int = 0
    slices: list[tuple[float, float]] = field(default_factory=list)
    trained: list[float] = field(default_factory=list)

    @contextmanager
    def of_this_process(self, place: Place, database: MeasuredDatabase, name: str) -> Iterator[None]:
        """Measure this process, and write the result into the folder."""
        self.started, cpu = time.monotonic(), time.process_time()
        database.transactions.clear()
        yield
        self.ended, self.cpu_s = time.monotonic(), time.process_time() - cpu
        self.transactions = database.transactions
        (place.folder / f"{name}.json").write_text(json.dumps(asdict(self)))


def read_measures(place: Place) -> list[Measures]:
    """Return what all processes measured that ended by themselves."""
    found = [Measures(**json.loads(path.read_text())) for path in sorted(place.folder.glob("*.json"))]
    for measures in found:
        measures.transactions = [Transaction(*one) for one in measures.transactions]
    return found


def run_worker(place: Place, name: str, epoch_seconds: float, delay_s: float) -> None:
    """Run a training process: as `worker.process.main` with the task `run_slice` before it.

    SIGTERM lets it finish its epoch and end.
    """
    settings, stopping = place.settings(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    pace, measures = Pace(epoch_seconds), Measures("worker")
    database = MeasuredDatabase(settings.database_url)
    arrays = open_array_store(settings.array_url, database)

    def should_yield() -> bool:
        return stopping.is_set() or place.is_stopping()

    process = TrainingProcess(database, arrays, settings, name, device="cpu", should_yield=should_yield)
    process.say_alive()

    def keep_saying() -> None:
        while not stopping.wait(10.0):
            with place.as_a_task(name):
                process.say_alive()

    threading.Thread(target=keep_saying, daemon=True).start()
    queue: Any = redis.Redis.from_url(settings.redis_url)
    while not (place.begin_file.exists() or should_yield()):
        time.sleep(0.05)
    stopping.wait(delay_s)
    with (
        measures.of_this_process(place, database, name),
        instead_of_the_network(pace),
        _refusals_noted(place, name),
    ):
        while not should_yield():
            if queue.brpop(SLICES, timeout=0.5) is None:
                continue
            before, slept_s, has_run = len(database.transactions), pace.slept_s, False
            with place.as_a_task(name):
                has_run = run_next(process)
            if has_run:
                claim = next(t for t in database.transactions[before:] if t.kind == "claim")
                measures.slices.append((claim.ended, time.monotonic()))
                measures.trained.append(pace.slept_s - slept_s)
        measures.data_sets_loaded = process.data.data_sets_read
    with place.as_a_task(name), database.write() as session:
        if (row := session.get(Worker, name)) is not None:
            session.delete(row)


@contextmanager
def _refusals_noted(place: Place, name: str) -> Iterator[None]:
    """Note each lease whose holder is told that it is lost."""
    keep: Callable[[Lease, Session, Settings], None] = Lease.keep

    def noting(lease: Lease, session: Session, settings: Settings) -> None:
        try:
            keep(lease, session, settings)
        except LeaseLost:
            place.note("refused", name=name, token=lease.token)
            raise

    with patch.object(Lease, "keep", noting):
        yield


def run_control(place: Place, name: str) -> None:
    """Run the tasks of the queue for control, message by message."""
    settings = place.settings()
    database = MeasuredDatabase(settings.database_url)
    arrays = open_array_store(settings.array_url, database)
    queue: Any = redis.Redis.from_url(settings.redis_url)
    with Measures("control").of_this_process(place, database, name):
        while not place.is_stopping():
            if (taken := queue.brpop(CONTROL, timeout=0.5)) is not None:
                with place.as_a_task(name):
                    _handle_message(taken[1], database, arrays, settings)


def _handle_message(message: bytes, database: Database, arrays: Store, settings: Settings) -> None:
    """Do what `worker.tasks` does with a message of the queue for control."""
    parts = json.loads(message)
    arguments, *_ = json.loads(base64.b64decode(parts["body"]))
    if parts["headers"]["task"] == COLLECT:
        sum(collect_all(database, arrays))
        return
    (job_id,) = arguments
    with database.write() as session:
        advance(session, job_id, settings)


def run_maintenance(place: Place, name: str) -> None:
    """Run the maintenance loop as it is."""
    database = MeasuredDatabase(place.settings().database_url)
    import worker.maintenance.loop  # late: it reads the settings

    stopping = threading.Event()

    def watch() -> None:
        while not place.is_stopping():
            time.sleep(0.1)
        stopping.set()

    threading.Thread(target=watch, daemon=True).start()
    with (
        patch.object(worker.maintenance.loop, "get_database", lambda: database),
        Measures("maintenance").of_this_process(place, database, name),
    ):
        worker.maintenance.loop.run(stopping)


_TARGETS: dict[Role, Callable[..., None]] = {
    "worker": run_worker,
    "control": run_control,
    "maintenance": run_maintenance,
}


class ProcessPool:
    """Processes by name; a name is never used again.

    They are forked from a server that has imported everything. So sixty of them start in seconds and share memory.

    Parameters
    ----------
    place
        Where they meet.
    epoch_seconds
        Mean length of an epoch of training.
    """

    def __init__(self, place: Place, epoch_seconds: float) -> None:
        self._place, self._epoch_seconds = place, epoch_seconds
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.simulation.preloaded"])
        self._running: dict[str, BaseProcess] = {}
        self._leaving: dict[str, BaseProcess] = {}
        self._started = 0

    def start(self, role: Role, delay_s: float = 0.0) -> str:
        """Start a process and return its name; a worker waits `delay_s` before its first slice."""
        name = f"{role}-{self._started:03d}"
        self._started += 1
        more: Sequence[float] = (self._epoch_seconds, delay_s) if role == "worker" else ()
        process = self._context.Process(target=_TARGETS[role], args=(self._place, name, *more), daemon=True)
        process.start()
        self._running[name] = process
        return name

    def names(self, role: Role) -> list[str]:
        """Return the running processes of a role, without those that were told to end."""
        return [name for name in self._running if name.startswith(role)]

    def kill(self, name: str) -> None:
        """Send SIGKILL, and wait until the process is dead."""
        process = self._running.pop(name)
        process.kill()
        process.join()

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        process = self._running.get(name)
        if process is not None and process.pid is not None and process.exitcode is None:
            os.kill(process.pid, number)

    def terminate(self, name: str) -> None:
        """Send SIGTERM; the process ends when it has finished its epoch."""
        self.send(name, signal.SIGTERM)
        self._leaving[name] = self._running.pop(name)

    def replace_ended(self) -> None:
        """Note the processes that ended by themselves, and start others in their place."""
        for name, process in list(self._running.items()):
            if process.exitcode is not None:
                del self._running[name]
                self._place.note("ended", name=name, status=str(process.exitcode))
                self.start(next(role for role in _TARGETS if name.startswith(role)))

    def end(self, seconds: float) -> list[str]:
        """Wait until all processes have ended, kill those that have not, and return the names of the killed ones."""
        deadline, late = time.monotonic() + seconds, []
        for name, process in (self._running | self._leaving).items():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                late.append(name)
                process.kill()
                process.join()
        return late
