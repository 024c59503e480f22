"""The processes of the service as a soak needs them: they may be killed at any time, and outlive what is not their fault.

What fails in a task is noted and the process goes on, as Celery and the training process do. Whoever is killed leaves no
measures, so what is worth knowing is written down at once.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import redis
from sqlalchemy.orm import Session

from benchmarks.simulation.fake_training import Pace, instead_of_the_network
from benchmarks.simulation.processes import CONTROL, SLICES, Place, handle_message
from store.array_store import open_array_store
from store.database import Database
from store.settings import Settings
from store.tables import Worker
from worker.context.process import TrainingProcess
from worker.process.run_next import run_next
from worker.scheduling.leases import Lease, LeaseLost


def run_mortal_worker(place: Place, name: str, epoch_seconds: float) -> None:
    """A training process; SIGTERM lets it end its slice at the epoch's end, and go."""
    settings, stopping = place.settings(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    database = Database(settings.database_url)
    arrays = open_array_store(settings.array_url, database)

    def should_yield() -> bool:
        return stopping.is_set() or place.is_stopping()

    process = TrainingProcess(database, arrays, settings, name, device="cpu", should_yield=should_yield)
    process.say_alive()

    def keep_saying() -> None:
        while not stopping.wait(10.0):
            with _as_a_task(place, name):
                process.say_alive()

    threading.Thread(target=keep_saying, daemon=True).start()
    queue: Any = redis.Redis.from_url(settings.redis_url)
    with instead_of_the_network(Pace(epoch_seconds)), _refusals_noted(place, name):
        while not should_yield():
            if queue.brpop(SLICES, timeout=0.5) is not None:
                with _as_a_task(place, name):
                    run_next(process)
    with _as_a_task(place, name), database.write() as session:
        if (row := session.get(Worker, name)) is not None:
            session.delete(row)


def run_mortal_control(place: Place, name: str) -> None:
    """The tasks of the queue for control."""
    settings = place.settings()
    database = Database(settings.database_url)
    arrays = open_array_store(settings.array_url, database)
    queue: Any = redis.Redis.from_url(settings.redis_url)
    while not place.is_stopping():
        if (taken := queue.brpop(CONTROL, timeout=0.5)) is not None:
            with _as_a_task(place, name):
                handle_message(taken[1], database, arrays, settings)


def run_mortal_maintenance(place: Place, _name: str) -> None:
    """The maintenance loop as it is."""
    place.settings()
    import worker.maintenance.loop  # late: it reads the settings

    stopping = threading.Event()

    def watch() -> None:
        while not place.is_stopping():
            time.sleep(0.1)
        stopping.set()

    threading.Thread(target=watch, daemon=True).start()
    worker.maintenance.loop.run(stopping)


@contextmanager
def _as_a_task(place: Place, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        first_line = str(error).splitlines()[0] if str(error) else ""
        note(place, "error", name=name, error=f"{type(error).__name__}: {first_line[:200]}")


@contextmanager
def _refusals_noted(place: Place, name: str) -> Iterator[None]:
    """Note each lease whose holder is told that it is lost."""
    keep: Callable[[Lease, Session, Settings], None] = Lease.keep

    def noting(lease: Lease, session: Session, settings: Settings) -> None:
        try:
            keep(lease, session, settings)
        except LeaseLost:
            note(place, "refused", name=name, token=lease.token)
            raise

    with patch.object(Lease, "keep", noting):
        yield


def note(place: Place, kind: str, **details: str) -> None:
    """Append a line to what the processes of a soak noted."""
    line = json.dumps({"kind": kind, **details}) + "\n"
    file = os.open(_notes(place), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())  # one write: lines of several processes do not mix
    os.close(file)


def read_notes(place: Place, kind: str) -> list[dict[str, str]]:
    """What was noted, in order."""
    if not _notes(place).exists():
        return []
    found = [json.loads(line) for line in _notes(place).read_text().splitlines()]
    return [one for one in found if one["kind"] == kind]


def _notes(place: Place) -> Path:
    return place.folder / "notes"
