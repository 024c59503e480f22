"""One simulation: so many workers and jobs on one database, for so many seconds or until every job is done."""

import multiprocessing
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, select, text

from benchmarks.simulation.load import Outcome, add_jobs, are_all_done, read_outcome, write_data
from benchmarks.simulation.processes import (
    Measures,
    Place,
    read_measures,
    run_control,
    run_maintenance,
    run_worker,
)
from benchmarks.simulation.servers import Server, broker
from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from store.tables import Slice, Worker
from worker.scheduling.leases import reap

EPOCHS_PER_SLICE = 30
_STOP_SECONDS = 180.0
BEATS_PER_SLICE = 12
"""As many as with the settings of the service: a slice of 60 s, a heartbeat every 5 s."""


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Parameters
    ----------
    database_url, arrays
        Of a new database; ``sql`` or ``file``.
    workers, jobs, models_per_job, epochs
        How many; `epochs` is the budget of each model.
    slice_seconds
        Length of a slice of training; heartbeats and epochs are shortened with it.
    seconds
        Everybody is stopped after this time, or when every job is done.
    warm_up_s
        Time before that which is not measured: workers begin one by one, and everything runs for the first time.
    kill_every_s
        So often a worker is killed, with SIGKILL in the middle of whatever it does, and another begins; 0: never.
    server
        Of the database, if there is one.
    """

    database_url: str
    arrays: str
    workers: int
    jobs: int
    slice_seconds: float
    seconds: float
    warm_up_s: float = 0.0
    models_per_job: int = 16
    epochs: int = 100_000
    kill_every_s: float = 0.0
    server: Server | None = None


@dataclass
class Simulated:
    """What was measured.

    Parameters
    ----------
    plan
        What was simulated.
    outcome
        Of the jobs.
    measures
        Of the processes that were not killed.
    began
        When all processes were there, all jobs had slices queued and the warm-up was over, by the machine's monotonic clock.
    seconds
        From then until everybody was told to stop.
    database_cpu_s, broker_cpu_s
        CPU time of the servers in these seconds.
    connections
        To the database server, shortly before the end.
    killed
        Workers.
    of_role
        The measures by what the processes did.
    """

    plan: Plan
    outcome: Outcome
    measures: list[Measures]
    began: float
    seconds: float
    database_cpu_s: float
    broker_cpu_s: float
    connections: int | None
    killed: int
    of_role: dict[str, list[Measures]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for measures in self.measures:
            self.of_role.setdefault(measures.role, []).append(measures)


class _Processes:
    """Started from a server that has imported everything, so that sixty of them are there in seconds and share memory."""

    def __init__(self, place: Place, plan: Plan) -> None:
        self._place, self._plan = place, plan
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.simulation.preloaded"])
        self._running: dict[str, Any] = {}

    def start(self, name: str, target: Any, *more: Any) -> None:
        process = self._context.Process(target=target, args=(self._place, name, *more), daemon=True)
        process.start()
        self._running[name] = process

    def start_worker(self, name: str, delay_s: float) -> None:
        self.start(name, run_worker, self._plan.slice_seconds / EPOCHS_PER_SLICE, delay_s)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.join()

    def check(self) -> None:
        for name, process in self._running.items():
            if process.exitcode not in (None, 0):
                raise RuntimeError(f"{name} ended with status {process.exitcode}; its traceback is above")

    def join(self) -> None:
        for name, process in self._running.items():
            process.join(_STOP_SECONDS)
            if process.exitcode is None:
                raise RuntimeError(f"{name} still ran {_STOP_SECONDS:.0f} s after it was told to stop")
        self.check()


def simulate(plan: Plan, folder: Path) -> Simulated:
    """Run a plan in an empty folder."""
    array_url = "sql:" if plan.arrays == "sql" else f"file://{folder / 'arrays'}"
    database = Database(plan.database_url)
    migrate(database)
    arrays = open_array_store(array_url, database)
    with broker(folder) as messages:
        environment = {
            "LATENTRY_DATA_DIR": str(folder),
            "LATENTRY_DATABASE_URL": plan.database_url,
            "LATENTRY_REDIS_URL": messages.url,
            "LATENTRY_ARRAY_URL": array_url,
            "LATENTRY_SLICE_SECONDS": str(plan.slice_seconds),
            "LATENTRY_HEARTBEAT_SECONDS": str(plan.slice_seconds / BEATS_PER_SLICE),
        }
        place = Place(folder / "measures", environment)
        place.folder.mkdir()
        processes = _Processes(place, plan)
        names = [f"worker-{number:02d}" for number in range(plan.workers)]
        try:
            for number, name in enumerate(names):
                processes.start_worker(name, plan.warm_up_s * number / plan.workers)
            _wait_for(database, select(func.count()).select_from(Worker), plan.workers, processes)
            # As many as `latentry up` and docker/compose.yaml have.
            for number in range(1 if database.is_sqlite else 2):
                processes.start(f"control-{number}", run_control)
            processes.start("maintenance", run_maintenance)
            servers = [plan.server, messages]
            budget = {"models": plan.models_per_job, "epochs": plan.epochs}
            write_data(arrays)
            add_jobs(database, [{"budget": budget, "seed": seed} for seed in range(plan.jobs)])
            begun = select(func.count(Slice.job_id.distinct()))
            _wait_for(database, begun, plan.jobs, processes)
            place.begin_file.touch()
            time.sleep(plan.warm_up_s)
            before, began = [_cpu_seconds(server) for server in servers], time.monotonic()
            killed = _watch(plan, database, processes, names)
            after, seconds = [_cpu_seconds(server) for server in servers], time.monotonic() - began
            connections = None if plan.server is None else _connections(database)
        finally:
            place.stop_file.touch()
        processes.join()
    outcome = read_outcome(database)
    database.close()
    found = [read_measures(path) for path in sorted(place.folder.glob("*.json"))]
    database_cpu_s, broker_cpu_s = (now - then for then, now in zip(before, after, strict=True))
    return Simulated(plan, outcome, found, began, seconds, database_cpu_s, broker_cpu_s, connections, killed)


def _watch(plan: Plan, database: Database, processes: _Processes, names: list[str]) -> int:
    """Wait for the end; on the way, kill workers and put others in their place. Returns how many were killed."""
    started, killed = time.monotonic(), 0
    while (spent := time.monotonic() - started) < plan.seconds and not are_all_done(database):
        time.sleep(0.1)
        processes.check()
        if plan.kill_every_s and spent > plan.kill_every_s * (killed + 1):
            name = names.pop(0)
            processes.kill(name)
            with database.write() as session:  # as `worker.tasks.run_slice` does when it sees the death
                reap(session, Settings(), held_by=name)
            killed += 1
            names.append(f"worker-{len(names) + killed:02d}")
            processes.start_worker(names[-1], 0.0)
    return killed


def _wait_for(database: Database, query: Select[int], number: int, processes: _Processes) -> None:
    while True:
        processes.check()
        with database.read() as session:
            if session.execute(query).scalar_one() >= number:
                return
        time.sleep(0.1)


def _connections(database: Database) -> int:
    of_database = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    with database.read() as session:
        return int(session.execute(of_database).scalar_one())


def _cpu_seconds(server: Server | None) -> float:
    return 0.0 if server is None else server.cpu_seconds()
