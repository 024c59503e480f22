"""What the maintenance loop measures, on a database of each kind."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from prometheus_client import REGISTRY

from store.database import Database, database_now
from store.quotas import stored_bytes
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Dataset, OutboxMessage, Slice, Worker
from worker.maintenance.gauges import Gauges
from worker.scheduling.fair_queue import claim_slice
from worker.scheduling.leases import reap
from worker.scheduling.scheduler import advance


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"latentry_{name}", labels)


def test_work_that_waits_and_is_leased(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 3, "epochs": 5})
    with database.write() as session:
        session.execute(sa.delete(OutboxMessage))
        advance(session, job_id, settings.model_copy(update={"pack_models": 1}))
        now = database_now(session)
        session.execute(sa.update(Slice).values(created_at=now - timedelta(seconds=90)))
        session.add(Worker(name="a", device="cuda:0", seen_at=now))
        session.execute(sa.update(Dataset).values(array_bytes=1234))
        number = session.execute(sa.select(sa.func.count()).select_from(Slice)).scalar_one()
        messages = session.execute(sa.select(sa.func.count()).select_from(OutboxMessage)).scalar_one()
    waited = value("queue_wait_seconds_count", kind="slice") or 0
    with database.write() as session:
        lease = claim_slice(session, "a", settings)
    assert lease is not None
    assert lease.log_fields == {
        "job": job_id, "slice": lease.row_id, "tenant": DEFAULT_TENANT, "lease": lease.token
    }  # fmt: skip
    gauges = Gauges(database, {"slices": 7, "control": 0, "ingest": 0, "infer": 0}.__getitem__)
    gauges.measure()
    assert value("queue_wait_seconds_count", kind="slice") == waited + 1
    assert value("queued", kind="slice") == number - 1 > 0
    assert 90 <= (value("queue_oldest_seconds", kind="slice") or 0) < 600
    assert value("queue_oldest_seconds", kind="inference") == 0
    assert value("leases_held", kind="slice") == 1
    assert value("queued", kind="outbox") == messages > 0
    assert value("queue_messages", queue="slices") == 7
    assert value("workers", device="cuda:0") == 1
    assert value("open_jobs", state="running") == 1
    assert value("open_jobs", state="paused") == 0
    with database.read() as session:
        for kind, size in stored_bytes(session, DEFAULT_TENANT).items():
            assert value("stored_bytes", tenant=DEFAULT_TENANT, kind=kind) == size
    assert (value("stored_bytes", tenant=DEFAULT_TENANT, kind="arrays") or 0) >= 1234
    with database.write() as session:
        session.execute(sa.delete(Worker))
    gauges.measure()
    assert value("workers", device="cuda:0") == 0  # and not the number of before


def test_reaped_leases_count_after_the_commit(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    def reaped() -> float:
        return value("leases_reaped_total", kind="slice", cause="worker_lost") or 0

    job_id, before = make_job(), reaped()
    with database.write() as session:
        advance(session, job_id, settings)
    with database.write() as session:
        assert claim_slice(session, "a", settings) is not None
    with suppress(ZeroDivisionError), database.write() as session:
        assert reap(session, settings, held_by="a") == 1
        raise ZeroDivisionError
    assert reaped() == before
    with database.write() as session:
        reap(session, settings, held_by="a")
        assert reaped() == before
    assert reaped() == before + 1


def test_gauges_read_indexes_by_state_and_the_database_alone(sqlite_database: Database) -> None:
    statements: list[tuple[str, Any]] = []
    sa.event.listen(
        sqlite_database.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, text, parameters, *_: statements.append((text, parameters)),
    )
    Gauges(sqlite_database, lambda _queue: 0).measure()
    with sqlite_database.read() as session:
        connection = session.connection().connection
        for text, parameters in statements:
            if not text.startswith("SELECT"):
                continue
            plan = connection.cursor().execute(f"EXPLAIN QUERY PLAN {text}", parameters).fetchall()
            scans = [row[-1] for row in plan if row[-1].startswith("SCAN")]
            small = ("SCAN tenants", "SCAN workers", "SCAN outbox", "SCAN anon_1", "SCAN (subquery")
            assert all(scan.startswith(small) for scan in scans), (text, scans)
