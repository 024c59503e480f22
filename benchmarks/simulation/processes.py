"""The processes of the service, with clocks: training processes, those that decide what comes next, the maintenance loop.

Messages come by the real outbox and broker. Only Celery's consumer is missing: a process takes a message from the broker's
queue by itself and calls what the task calls. What Celery adds per message is not in it.
"""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import redis
from zarr.abc.store import Store

from benchmarks.simulation.fake_training import Pace, instead_of_the_network
from benchmarks.simulation.measured_database import MeasuredDatabase, Transaction
from store.array_store import open_array_store
from store.database import Database
from store.outbox import COLLECT
from store.settings import Settings, get_settings
from worker.context.process import TrainingProcess
from worker.maintenance.garbage_collection import collect_all
from worker.process.run_next import run_next
from worker.scheduling.scheduler import advance

# As in `worker.celery_app`, which must be imported late: it reads the settings.
SLICES, CONTROL = "slices", "control"


@dataclass(frozen=True)
class Place:
    """Where the processes meet.

    Parameters
    ----------
    folder
        For what they measured.
    environment
        Settings of the service.
    owner
        The process that started them; without it they end.
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
        """Workers take no slice before it is there."""
        return self.folder / "begin"

    @property
    def stop_file(self) -> Path:
        """Everybody ends soon after it is there."""
        return self.folder / "stop"

    def is_stopping(self) -> bool:
        """Whether it is, or there is nobody left to say so."""
        return self.stop_file.exists() or not psutil.pid_exists(self.owner)


@dataclass
class Measures:
    """What one process measured; times in seconds, by the machine's monotonic clock.

    Parameters
    ----------
    role
        ``worker``, ``control`` or ``maintenance``.
    transactions
        All.
    started, ended
        When it could take work, and when it stopped.
    cpu_s
        CPU time it spent in between.
    slept_s
        Of a worker: time in training.
    data_sets_loaded
        Of a worker: how often it did not have the data of its slice at hand.
    slices
        Of a worker: begin and end of each, in order; the begin is the end of the claim.
    trained
        Of a worker: time in training of each slice.
    """

    role: str
    transactions: list[Transaction] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0
    cpu_s: float = 0.0
    slept_s: float = 0.0
    data_sets_loaded: int = 0
    slices: list[tuple[float, float]] = field(default_factory=list)
    trained: list[float] = field(default_factory=list)

    @contextmanager
    def of_this_process(self, place: Place, database: MeasuredDatabase, name: str) -> Iterator[None]:
        """Measure a process, and leave the result in the folder."""
        self.started, cpu = time.monotonic(), time.process_time()
        database.transactions.clear()
        yield
        self.ended, self.cpu_s = time.monotonic(), time.process_time() - cpu
        self.transactions = database.transactions
        (place.folder / f"{name}.json").write_text(json.dumps(asdict(self)))


def read_measures(path: Path) -> Measures:
    """What a process left."""
    measures = Measures(**json.loads(path.read_text()))
    measures.transactions = [Transaction(*one) for one in measures.transactions]
    return measures


def run_worker(place: Place, name: str, epoch_seconds: float, delay_s: float) -> None:
    """A training process: as `worker.process.main` with the task `run_slice` before it. Waits before its first slice."""
    settings, pace, measures = place.settings(), Pace(epoch_seconds), Measures("worker")
    database = MeasuredDatabase(settings.database_url)
    arrays = open_array_store(settings.array_url, database)
    process = TrainingProcess(database, arrays, settings, name, device="cpu", should_yield=place.is_stopping)

    def keep_saying() -> None:
        while not place.is_stopping():
            process.say_alive()
            time.sleep(10.0)

    threading.Thread(target=keep_saying, daemon=True).start()
    queue: Any = redis.Redis.from_url(settings.redis_url)
    while not (place.begin_file.exists() or place.is_stopping()):
        time.sleep(0.05)
    time.sleep(delay_s)
    with measures.of_this_process(place, database, name), instead_of_the_network(pace):
        while not place.is_stopping():
            if queue.brpop(SLICES, timeout=0.5) is None:
                continue
            before, slept_s = len(database.transactions), pace.slept_s
            if run_next(process):
                claim = next(t for t in database.transactions[before:] if t.kind == "claim")
                measures.slices.append((claim.ended, time.monotonic()))
                measures.trained.append(pace.slept_s - slept_s)
        measures.slept_s = pace.slept_s
        measures.data_sets_loaded = process.data.data_sets_read


def run_control(place: Place, name: str) -> None:
    """The task `advance`, message by message."""
    settings, measures = place.settings(), Measures("control")
    database = MeasuredDatabase(settings.database_url)
    arrays = open_array_store(settings.array_url, database)
    queue: Any = redis.Redis.from_url(settings.redis_url)
    with measures.of_this_process(place, database, name):
        while not place.is_stopping():
            if (taken := queue.brpop(CONTROL, timeout=0.5)) is not None:
                handle_message(taken[1], database, arrays, settings)


def handle_message(message: bytes, database: Database, arrays: Store, settings: Settings) -> None:
    """Do what `worker.tasks` does with a message of the queue for control."""
    parts = json.loads(message)
    arguments, *_ = json.loads(base64.b64decode(parts["body"]))
    if parts["headers"]["task"] == COLLECT:
        collect_all(database, arrays)
        return
    (job_id,) = arguments
    with database.write() as session:
        advance(session, job_id, settings)


def run_maintenance(place: Place, name: str) -> None:
    """The maintenance loop as it is."""
    settings, measures = place.settings(), Measures("maintenance")
    database = MeasuredDatabase(settings.database_url)
    import worker.maintenance.loop

    stopping = threading.Event()

    def watch() -> None:
        while not place.is_stopping():
            time.sleep(0.1)
        stopping.set()

    threading.Thread(target=watch, daemon=True).start()
    with (
        patch.object(worker.maintenance.loop, "get_database", lambda: database),
        measures.of_this_process(place, database, name),
    ):
        worker.maintenance.loop.run(stopping)
