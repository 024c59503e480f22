"""A simulated year of a busy lab: its rows, the daily sweep of old data, and what the main queries cost in each month.

    python -m tests.simulation.year

Each day, its jobs are inserted, one of them is deleted as a user would delete it, and the sweep of the service runs with that
day as "now". These shortcuts are taken:

- Nothing trains. The rows of a day are inserted at once, with its times, and the points of a job by one statement. Of the
  11 losses and norms of a point, 5 have values. PostgreSQL does not check references meanwhile.
- No commit waits for the disk, whose other users would determine all times.
- A sweep does not pause between its transactions. It runs once a day, not every ten minutes.
- PostgreSQL vacuums every fifth day, since its autovacuum would have seconds for the work of days.
"""

import argparse
import gc
import json
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, insert, select, text
from sqlalchemy.orm import Session

from api.http.pagination import Filters
from api.jobs import service as jobs_service
from api.models.service import learning_curve
from domain.job_specification import JobSpecification
from domain.states import DatasetState, DeliveryState, JobState, ModelState, SliceState
from store import tables
from store.array_store import open_array_store
from store.free_space import give_back_space
from store.migrate import migrate
from store.originals import open_originals
from store.settings import Settings
from store.tables import DEFAULT_TENANT
from tests.servers import postgresql
from tests.simulation.measured_database import Locks, MeasuredDatabase
from tests.simulation.query_cost import GROWING, measure
from worker.context.checkpoints import checkpoint_key
from worker.maintenance.deletion import Storage, steps
from worker.maintenance.retention import Sweep
from worker.scheduling.fair_queue import claim_next

_START = datetime(2026, 1, 1, tzinfo=UTC)
_MONTH_DAYS = 30
_WITH_WEIGHTS = 3
_EVENTS_OF_SLICE = 12


@dataclass(frozen=True)
class Year:
    """What is simulated.

    Parameters
    ----------
    database_url
        URL of a new database.
    jobs, points_a_day, epochs, slices
        Jobs of the year, points of learning curves of a day, epochs of a model, slices of a job.
    days, step_days
        Simulated days, and days between two sweeps.
    timed
        How often each query is timed.
    """

    database_url: str
    jobs: int = 10_000
    points_a_day: int = 1_000_000
    epochs: int = 1800
    slices: int = 20
    days: int = 360
    step_days: int = 1
    timed: int = 15

    @property
    def models(self) -> int:
        """Models of each job."""
        return max(1, round(self.points_a_day * self.days / self.jobs / self.epochs))


@dataclass
class Month:
    """The database at the end of a month.

    Parameters
    ----------
    size_mb
        Size of the database on disk.
    inserted
        Points of learning curves that were written so far.
    locks
        What this month's sweeps of rows and of files, the return of space and the deletions needed.
    rows
        Rows of each table that grows. Like the queries, only in months 1, 3, 6, 9, 12 and the last.
    queries
        By name: median time and CPU time of this process in ms, work (steps of SQLite's machine / pages that PostgreSQL
        reads), and full scans.
    """

    month: int
    size_mb: float
    inserted: int
    locks: dict[str, Locks]
    rows: dict[str, int] = field(default_factory=dict)
    queries: dict[str, dict[str, Any]] = field(default_factory=dict)


class _NoPause(threading.Event):
    """Lets a sweep continue at once: its pauses would only lengthen the simulation."""

    def wait(self, timeout: float | None = None) -> bool:
        """Return at once."""
        return self.is_set()


def _id(prefix: str, at: datetime) -> str:
    return f"{prefix}_{int(at.timestamp() * 1000):012x}{secrets.token_hex(6)}"


class SimulatedYear:
    """The service's database while a year passes."""

    def __init__(self, year: Year, folder: Path) -> None:
        self.year = year
        self.settings = Settings(data_dir=folder, database_url=year.database_url)
        self.database = MeasuredDatabase(year.database_url)
        if self.database.is_sqlite:
            for engine in (self.database.engine, self.database.apart.engine):
                event.listen(
                    engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF")
                )
        migrate(self.database)
        self.arrays = open_array_store("sql:", self.database)
        self.storage = Storage(self.database, self.arrays, open_originals(self.settings), self.settings)
        self.inserted = 0
        self.locks: dict[str, Locks] = {}
        self.specification = JobSpecification(dataset_id="dat_" + "0" * 24).model_dump(mode="json")
        with self.database.write() as session:
            hook = tables.Webhook(
                id="whk_" + "0" * 24, tenant_id=DEFAULT_TENANT, url="http://x", states=[], secret="x"
            )
            session.add_all([hook, _dataset(self.specification["dataset_id"])])
        self._live_jobs()

    def _live_jobs(self) -> None:
        """Add jobs that are running all year, with queued slices for the claim."""
        for _ in range(10):
            job = self._job(_START, JobState.RUNNING, None)
            with self.database.write() as session:
                session.execute(insert(tables.Job), [job])
                session.execute(
                    insert(tables.Slice),
                    [_slice(job["id"], _START, SliceState.QUEUED, []) for _ in range(5)],
                )

    def _job(self, at: datetime, state: JobState, ended_at: datetime | None) -> dict[str, Any]:
        return {
            "id": _id("job", at), "tenant_id": DEFAULT_TENANT, "dataset_id": self.specification["dataset_id"],
            "name": "simulated", "state": state, "spec": self.specification, "priority": 0, "paused_seconds": 0.0,
            "created_at": at, "started_at": at, "ended_at": ended_at,
        }  # fmt: skip

    def run(self) -> Iterator[Month]:
        """Simulate the year, and yield each month."""
        jobs = 0
        for day in range(0, self.year.days, self.year.step_days):
            now = _START + timedelta(days=day + self.year.step_days)
            until = self.year.jobs * (day + self.year.step_days) // self.year.days
            job_id = self._work(now, until - jobs)
            jobs = until
            self.database.truncate_log()
            sweep = Sweep(self.database, self.settings, now=now, stopping=_NoPause())
            with self._locks_of("rows"):
                sweep.rows()
            with self._locks_of("files"):
                sum(sweep.files(self.arrays))
            if job_id:
                with self._locks_of("deletion"):
                    for _ in steps(self.storage, "job", job_id):
                        pass
            with self._locks_of("space"):
                give_back_space(self.database, _NoPause())
                self.database.truncate_log()
            if not self.database.is_sqlite and (day // self.year.step_days) % 5 == 0:
                self._vacuum()
            if (day + self.year.step_days) % _MONTH_DAYS == 0:
                yield self._month((day + self.year.step_days) // _MONTH_DAYS, now)
                self.locks = {}
        self.database.close()

    def _locks_of(self, part: str) -> AbstractContextManager[None]:
        return self.database.locks_in(self.locks.setdefault(part, Locks()))

    def _work(self, now: datetime, number: int) -> str | None:
        """Insert what the jobs of a day leave, and return the id of one of them."""
        begun, rows = now - timedelta(hours=5), dict[Any, list[dict[str, Any]]]()
        for _ in range(number):
            job = self._job(begun, JobState.DONE, now - timedelta(hours=1))
            models = [self._model(job["id"], begun, number) for number in range(self.year.models)]
            job["selected_model_id"] = models[0]["id"]
            slices = [
                _slice(job["id"], begun, SliceState.DONE, [models[0]["id"]]) for _ in range(self.year.slices)
            ]
            data = {"slice_id": slices[0]["id"], "models": {"0": 0.5}}
            progress = {"job_id": job["id"], "kind": "progress", "created_at": begun, "data": data}
            weights = [
                {"key": one["checkpoint_key"], "value": bytes(2000), "size_bytes": 2000, "created_at": begun}
                for one in models[:_WITH_WEIGHTS]
            ]
            answer = {
                "tenant_id": DEFAULT_TENANT,
                "key": job["id"],
                "fingerprint": "",
                "body": job["spec"],
                "created_at": now,
            }
            message = {
                "id": _id("dlv", now), "webhook_id": "whk_" + "0" * 24, "job_id": job["id"], "body": {},
                "state": DeliveryState.DELIVERED, "attempts": 1, "due_at": now, "created_at": now, "ended_at": now,
            }  # fmt: skip
            for table, of_job in (
                (tables.Job, [job]), (tables.Model, models), (tables.Slice, slices),
                (tables.Event, [progress] * self.year.slices * _EVENTS_OF_SLICE), (tables.ArrayObject, weights),
                (tables.IdempotentRequest, [answer]), (tables.WebhookDelivery, [message]),
            ):  # fmt: skip
                rows.setdefault(table, []).extend(of_job)
        with self.database.write() as session:
            if not self.database.is_sqlite:
                session.execute(text("SET LOCAL session_replication_role = replica"))
            for table, of_day in rows.items():
                session.execute(insert(table.__table__), of_day)
            for job in rows.get(tables.Job, ()):
                session.execute(
                    text(_POINTS[self.database.is_sqlite]), {"job": job["id"], "epochs": self.year.epochs}
                )
        self.inserted += number * self.year.models * self.year.epochs
        return rows[tables.Job][-1]["id"] if number else None

    def _model(self, job_id: str, at: datetime, number: int) -> dict[str, Any]:
        model_id = _id("mod", at)
        return {
            "id": model_id, "tenant_id": DEFAULT_TENANT, "job_id": job_id, "number": number, "pack": 0, "is_alone": False,
            "state": ModelState.TRAINED, "seed": 0, "architecture": {}, "hyperparameters": {"learning_rate": 0.01},
            "epochs_trained": self.year.epochs, "target_epochs": self.year.epochs, "smoothed_sv_loss": 0.1 + number,
            "scores": {"best_epoch": self.year.epochs * 3 // 4}, "created_at": at, "ended_at": at,
            "checkpoint_key": checkpoint_key(model_id, self.year.epochs, "reported") if number < _WITH_WEIGHTS else None,
        }  # fmt: skip

    def _vacuum(self) -> None:
        """Do what PostgreSQL's autovacuum does within days; here a day lasts a second."""
        with self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM (ANALYZE) " + ", ".join(GROWING))

    def _month(self, month: int, now: datetime) -> Month:
        found = Month(month, self._size_mb(), self.inserted, self.locks)
        if month in (1, *range(3, 13, 3), self.year.days // _MONTH_DAYS):
            with self.database.read() as session:
                for name in GROWING:
                    found.rows[name] = session.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name, query in self._queries(now).items():
                found.queries[name] = measure(self.database, query, self.year.timed)
        return found

    def _size_mb(self) -> float:
        if self.database.is_sqlite:
            path = str(self.database.engine.url.database)
            files = [Path(path + ending) for ending in ("", "-wal")]
            return sum(file.stat().st_size for file in files if file.exists()) / 1e6
        with self.database.read() as session:
            size = session.execute(text("SELECT pg_database_size(current_database())"))
            return int(size.scalar_one()) / 1e6

    def _queries(self, now: datetime) -> Mapping[str, Callable[[Session], object]]:
        """Return the main queries, as the routes and the workers make them."""
        with self.database.read() as session:
            recent = select(tables.Job).where(tables.Job.ended_at < now)
            job = session.execute(recent.order_by(tables.Job.ended_at.desc()).limit(1)).scalar_one()
        model_id = str(job.selected_model_id)

        def list_jobs(session: Session) -> object:
            return jobs_service.list_page(
                session, DEFAULT_TENANT, Filters(), state=[], dataset_id=None, page_size=50, page_token=None
            )

        return {
            "list of jobs": list_jobs,
            "a job": lambda session: jobs_service.document(session, session.get_one(tables.Job, job.id)),
            "its models": lambda session: jobs_service.list_models(session, session.get_one(tables.Job, job.id), 50, None),
            "a learning curve": lambda session: learning_curve(session, DEFAULT_TENANT, model_id),
            "events": lambda session: jobs_service.list_events(session, job.id, 100, None),
            "claim": lambda session: claim_next(session, "simulated", self.settings, after_inference=True),
        }  # fmt: skip


def _dataset(dataset_id: str) -> tables.Dataset:
    return tables.Dataset(
        id=dataset_id, tenant_id=DEFAULT_TENANT, name="simulated", state=DatasetState.READY, source={"kind": "simulated"},
        trials=40, bins=25, neurons=100, bin_width_s=0.02, array_path="nowhere", report={"warnings": []},
    )  # fmt: skip


def _slice(job_id: str, at: datetime, state: SliceState, model_ids: list[str]) -> dict[str, Any]:
    return {
        "id": _id("sli", at), "tenant_id": DEFAULT_TENANT, "job_id": job_id, "kind": "train", "pack": 0, "model_ids": model_ids,
        "first_epoch": 0, "last_epoch": 25, "epochs_trained": 25, "device_seconds": 60.0, "state": state, "attempts": 0,
        "losses": 0, "created_at": at, "started_at": at, "ended_at": at if state == SliceState.DONE else None,
    }  # fmt: skip


_SELECTED = (
    "INSERT INTO curve_points (model_id, epoch, slice_id, train_loss, sv_loss, validation_loss, smoothed_sv_loss, learning_rate) "
    "SELECT models.id, numbers.n, 'sli_000000000000000000000000', 0.5, 0.25, 0.75, 0.125, 0.01 FROM models, numbers "
    "WHERE models.job_id = :job"
)
_POINTS = {
    True: f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :epochs) {_SELECTED}",
    False: _SELECTED.replace("FROM models, numbers", "FROM models, generate_series(1, :epochs) AS numbers(n)"),
}  # fmt: skip


def _show(found: Month) -> None:
    print(f"month {found.month:2}: {found.size_mb:7.0f} MB, {found.inserted:,} points inserted", flush=True)
    for name, number in found.rows.items():
        print(f"    {number:12,} {name}")
    for part, locks in found.locks.items():
        print(f"    {part}: {', '.join(f'{name} {value:.6g}' for name, value in asdict(locks).items())}")
    for name, query in found.queries.items():
        scans = f", scans {', '.join(query['scans'])}" if query["scans"] else ""
        print(
            f"    {name:18} {query['ms']:8.2f} ms, {query['cpu_ms']:.2f} ms CPU, work {query['work']}{scans}"
        )


def main() -> None:
    """Simulate a year on SQLite and on PostgreSQL."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (
        ("jobs", 10_000),
        ("points-a-day", 1_000_000),
        ("days", 360),
        ("step-days", 1),
        ("epochs", 1800),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each month")
    given = parser.parse_args()
    gc.collect()
    gc.freeze()  # as the processes that sweep and delete
    for kind in given.database or ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory() as folder:
            if kind == "sqlite":
                _run(given, kind, f"sqlite:///{folder}/latentry.db", Path(folder))
                continue
            with postgresql() as server:
                _run(given, kind, server.new_database(), Path(folder))


def _run(given: argparse.Namespace, kind: str, url: str, folder: Path) -> None:
    year = Year(url, given.jobs, given.points_a_day, given.epochs, days=given.days, step_days=given.step_days)
    print(f"{kind}: {year.jobs} jobs of {year.models} models with {year.epochs} epochs", file=sys.stderr)
    for month in SimulatedYear(year, folder).run():
        if given.json:
            print(json.dumps({"database": kind, **asdict(month)}), flush=True)
        else:
            _show(month)


if __name__ == "__main__":
    main()
