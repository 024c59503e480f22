"""A measured simulation: some workers and jobs on one database, for some seconds or until every job is done."""

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Select, func, select, text

from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from store.tables import Slice, Worker
from tests.servers import PostgresServer, broker, cpu_seconds
from tests.simulation.invariants import Outcome, read_outcome
from tests.simulation.jobs import add_jobs, are_all_done, write_data
from tests.simulation.processes import Measures, Place, ProcessPool, read_measures
from worker.scheduling.leases import reap

EPOCHS_PER_SLICE = 30
BEATS_PER_SLICE = 12
"""As many as with the settings of the service: a slice of 60 s, a heartbeat every 5 s."""
_STOP_SECONDS = 180.0


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Parameters
    ----------
    database_url
        URL of a new database.
    arrays
        ``sql`` or ``file``.
    workers, jobs, models_per_job, epochs
        How many; `epochs` is the budget of each model.
    slice_seconds
        Length of a slice of training; heartbeats and epochs are shortened with it.
    seconds
        All processes are stopped after this time, or when every job is done.
    warm_up_s
        Time before the measurement, while workers begin one by one and all code runs for the first time.
    kills, kill_every_s
        So many workers get SIGKILL, one every so many seconds, and others start in their place.
    server
        The PostgreSQL server of the database, if there is one.
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
    kills: int = 0
    kill_every_s: float = 1.0
    server: PostgresServer | None = None


@dataclass(frozen=True)
class Simulated:
    """What was measured.

    Parameters
    ----------
    plan
        What was simulated.
    outcome
        The jobs afterwards.
    measures
        Of the processes that were not killed.
    began
        When all jobs had slices queued and the warm-up was over, by the machine's monotonic clock.
    seconds
        From then until the processes were stopped.
    database_cpu_s, broker_cpu_s
        CPU time of the servers in these seconds.
    connections
        Connections to the database server, shortly before the end.
    killed
        How many workers were killed.
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
        pool = ProcessPool(place, plan.slice_seconds / EPOCHS_PER_SLICE)
        pids = [None if plan.server is None else plan.server.pid, messages.pid]
        try:
            for number in range(plan.workers):
                pool.start("worker", plan.warm_up_s * number / plan.workers)
            _wait_for(database, select(func.count()).select_from(Worker), plan.workers, place)
            # As many as `latentry up` and docker/compose.yaml have.
            for _ in range(1 if database.is_sqlite else 2):
                pool.start("control")
            pool.start("maintenance")
            budget = {"models": plan.models_per_job, "epochs": plan.epochs}
            write_data(arrays)
            add_jobs(database, [{"budget": budget, "seed": seed} for seed in range(plan.jobs)])
            _wait_for(database, select(func.count(Slice.job_id.distinct())), plan.jobs, place)
            place.begin_file.touch()
            time.sleep(plan.warm_up_s)
            before, began = [_cpu_seconds(pid) for pid in pids], time.monotonic()
            killed = _watch(plan, database, pool, place)
            after, seconds = [_cpu_seconds(pid) for pid in pids], time.monotonic() - began
            connections = None if plan.server is None else _connections(database)
        finally:
            place.stop_file.touch()
            late = pool.end(_STOP_SECONDS)
    _check(place)
    if late:
        raise RuntimeError(f"{', '.join(late)} still ran {_STOP_SECONDS:.0f} s after they were told to stop")
    outcome = read_outcome(database)
    database.close()
    database_cpu_s, broker_cpu_s = (now - then for then, now in zip(before, after, strict=True))
    return Simulated(
        plan,
        outcome,
        read_measures(place),
        began,
        seconds,
        database_cpu_s,
        broker_cpu_s,
        connections,
        killed,
    )


def _watch(plan: Plan, database: Database, pool: ProcessPool, place: Place) -> int:
    """Wait for the end; meanwhile kill workers and start others. Return how many were killed."""
    started, killed = time.monotonic(), 0
    while (spent := time.monotonic() - started) < plan.seconds and not are_all_done(database):
        time.sleep(0.1)
        pool.replace_ended()
        _check(place)
        if killed < plan.kills and spent > plan.kill_every_s * (killed + 1):
            name = pool.names("worker")[0]
            pool.kill(name)
            with database.write() as session:  # as `worker.tasks.run_slice` does when it sees the death
                reap(session, Settings(), held_by=name)
            killed += 1
            pool.start("worker")
    return killed


def _check(place: Place) -> None:
    """Raise the first error of a process, if there is one."""
    for note in [*place.read_notes("error"), *place.read_notes("ended")]:
        raise RuntimeError(f"{note['name']} failed: {note.get('error') or note.get('status')}")


def _wait_for(database: Database, query: Select[int], number: int, place: Place) -> None:
    while True:
        _check(place)
        with database.read() as session:
            if session.execute(query).scalar_one() >= number:
                return
        time.sleep(0.1)


def _connections(database: Database) -> int:
    of_database = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    with database.read() as session:
        return int(session.execute(of_database).scalar_one())


def _cpu_seconds(pid: int | None) -> float:
    return 0.0 if pid is None else cpu_seconds(pid)
