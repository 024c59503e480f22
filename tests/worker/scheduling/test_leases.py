"""Leases: one holder at a time, and whoever lost one writes nothing."""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError

from domain.states import DatasetState, SliceState
from store import events
from store.database import LOCK, Database, database_now
from store.migrate import migrate
from store.settings import Settings
from store.tables import Dataset, Job, OutboxMessage, Slice
from tests.waiting import wait_until
from tests.worker.conftest import add_dataset, add_job
from tests.worker.fake_workers import FakeWorkers
from worker.scheduling.fair_queue import claim_ingest, claim_slice
from worker.scheduling.leases import Lease, LeaseLost, reap, try_again_later
from worker.scheduling.scheduler import advance


def queue_job(database: Database, settings: Settings, job_id: str) -> None:
    with database.write() as session:
        advance(session, job_id, settings)


def claim(database: Database, settings: Settings, worker: str = "w") -> Lease | None:
    with database.write() as session:
        return claim_slice(session, worker, settings)


def test_many_workers_claim_each_slice_once(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    for _ in range(6):
        queue_job(database, settings, make_job())
    claimed: list[Lease] = []

    def work(name: str) -> None:
        while (lease := claim(database, settings, name)) is not None:
            claimed.append(lease)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 6
    assert len({lease.row_id for lease in claimed}) == 6


def test_a_worker_writes_of_a_job_that_another_holds(postgres_database_url: str, settings: Settings) -> None:
    """Else it would wait, with its slice in hand, for one who may wait for the slice. SQLite has one writer anyway."""
    database = Database(postgres_database_url)
    migrate(database)
    job_id = add_job(database, add_dataset(database))
    queue_job(database, settings, job_id)
    lease = claim(database, settings)
    assert lease is not None

    def hold_too() -> None:
        with database.write() as session:
            session.execute(text("SET LOCAL lock_timeout = '100ms'"))
            session.get_one(Job, job_id, with_for_update=LOCK)

    with database.write() as holder:
        holder.get_one(Job, job_id, with_for_update=LOCK)
        with database.write() as session:
            session.execute(text("SET LOCAL lock_timeout = '2s'"))
            lease.keep(session, settings)
            events.record(session, job_id, "progress", models=[])
        with pytest.raises(OperationalError, match="lock timeout"):
            hold_too()
    database.close()


def test_a_claim_takes_another_job_while_one_is_held(postgres_database_url: str, settings: Settings) -> None:
    """And waits when there is no other."""
    database = Database(postgres_database_url)
    migrate(database)
    first, second = (add_job(database, add_dataset(database)) for _ in range(2))
    for job_id in (first, second):
        queue_job(database, settings, job_id)

    def claim_soon() -> str:
        with database.write() as session:
            session.execute(text("SET LOCAL lock_timeout = '200ms'"))
            lease = claim_slice(session, "w", settings)
            assert lease is not None
            return session.get_one(Slice, lease.row_id).job_id

    with database.write() as holder:
        holder.get_one(Job, first, with_for_update=LOCK)
        assert claim_soon() == second
        with pytest.raises(OperationalError, match="lock timeout"):
            claim_soon()
    assert claim_soon() == first
    database.close()


def _waits_for_a_lock(database: Database) -> bool:
    with database.read() as session:
        return session.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one() > 0


def test_a_job_whose_last_slice_another_takes_meanwhile_is_passed_over(
    postgres_database_url: str, settings: Settings
) -> None:
    database = Database(postgres_database_url)
    migrate(database)
    job_id = add_job(database, add_dataset(database))
    queue_job(database, settings, job_id)
    late: list[Lease | None] = []
    waiting = threading.Thread(target=lambda: late.append(claim(database, settings, "late")))
    with database.write() as session:
        assert claim_slice(session, "early", settings) is not None
        waiting.start()
        wait_until(lambda: _waits_for_a_lock(database))  # it has chosen the same job
        assert waiting.is_alive()
    waiting.join(120)
    assert late == [None]
    database.close()


def test_a_worker_that_wakes_late_is_refused(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    settings.lease_seconds = 0.01
    queue_job(database, settings, make_job())
    first = claim(database, settings, "slow")
    assert first is not None
    time.sleep(0.05)
    with database.write() as session:
        assert reap(session, settings) == 1
    settings.lease_seconds = 30
    second = claim(database, settings, "quick")
    assert second is not None
    assert second.row_id == first.row_id
    with pytest.raises(LeaseLost), database.write() as session:
        first.keep(session, settings)
    with database.write() as session:
        second.keep(session, settings)
        row = session.get_one(Slice, second.row_id)
        assert (row.attempts, row.losses) == (0, 1)


def test_a_renewed_lease_is_not_reaped(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    queue_job(database, settings, make_job())
    lease = claim(database, settings)
    assert lease is not None
    with database.write() as session:
        assert reap(session, settings) == 0
        lease.keep(session, settings)


def test_attempts_are_capped(database: Database, settings: Settings, make_job: Callable[..., str]) -> None:
    queue_job(database, settings, make_job())
    for attempt in range(settings.max_attempts):
        lease = claim(database, settings, f"doomed-{attempt}")
        assert lease is not None
        with database.write() as session:
            assert reap(session, settings, held_by=f"doomed-{attempt}", process_died=True) == 1
    assert claim(database, settings) is None
    with database.read() as session:
        piece = session.execute(select(Slice)).scalar_one()
        assert piece.state == SliceState.FAILED
        assert piece.error is not None
        assert piece.error["code"] == "process_died"


def test_tenants_take_turns(database: Database, settings: Settings) -> None:
    """One tenant queued five jobs first; another's single job is next as soon as the first has one under way."""
    for _ in range(5):
        queue_job(database, settings, add_job(database, add_dataset(database)))
    late = add_job(database, add_dataset(database, tenant_id="other"), tenant_id="other")
    queue_job(database, settings, late)
    order = []
    for _ in range(3):
        lease = claim(database, settings)
        assert lease is not None
        with database.read() as session:
            order.append(session.get_one(Slice, lease.row_id).tenant_id)
    assert order == ["default", "other", "default"]


def test_an_ingest_is_claimed_once_and_given_up_after_its_attempts(
    database: Database, settings: Settings
) -> None:
    dataset_id = add_dataset(database)
    with database.write() as session:
        session.execute(update(Dataset).values(state=DatasetState.INGESTING))
    for attempt in range(settings.max_attempts):
        with database.write() as session:
            assert claim_ingest(session, "w", settings, dataset_id) is not None
        with database.write() as session:
            assert claim_ingest(session, "other", settings) is None
            reap(session, settings, held_by="w", process_died=True)
        with database.read() as session:
            messages = session.execute(select(OutboxMessage.task)).scalars().all()
            assert messages.count("ingest") == min(attempt + 1, settings.max_attempts - 1)
    with database.read() as session:
        row = session.get_one(Dataset, dataset_id)
        assert row.state == DatasetState.FAILED
        assert row.problems is not None
        assert "died while it worked on this, 3 times" in row.problems[0]["message"]


def serve(database: Database, settings: Settings, epochs: int = 1) -> Slice:
    """One worker claims, reports, and the job is advanced; returns the slice."""
    workers = FakeWorkers(database, settings, epochs=epochs)
    lease = workers.claim()
    assert lease is not None
    with database.read() as session:
        piece = session.get_one(Slice, lease.row_id)
    workers.report(lease)
    workers.advance(piece.job_id)
    return piece


def test_one_worker_serves_tenants_in_turn_however_many_jobs_each_has(
    database: Database, settings: Settings
) -> None:
    for _ in range(4):
        queue_job(
            database, settings, add_job(database, add_dataset(database), budget={"models": 1, "epochs": 50})
        )
    other = add_job(
        database,
        add_dataset(database, tenant_id="other"),
        tenant_id="other",
        budget={"models": 1, "epochs": 50},
    )
    queue_job(database, settings, other)
    served = [serve(database, settings) for _ in range(16)]
    assert [piece.tenant_id for piece in served].count("other") == 8
    others = [piece.job_id for piece in served if piece.tenant_id == "default"]
    assert len(set(others[:4])) == len(set(others[4:])) == 4, "and a tenant's jobs in turn"


def test_of_a_tenant_s_jobs_the_one_of_higher_priority_goes_first(
    database: Database, settings: Settings
) -> None:
    dataset_id, budget = add_dataset(database), {"models": 1, "epochs": 3}
    usual = [add_job(database, dataset_id, budget=budget) for _ in range(2)]
    urgent = add_job(database, dataset_id, budget=budget)
    theirs = add_job(database, add_dataset(database, tenant_id="other"), tenant_id="other", budget=budget)
    with database.write() as session:
        session.get_one(Job, urgent).priority = 1
        session.get_one(Job, theirs).priority = -5
    for job_id in (*usual, urgent, theirs):
        queue_job(database, settings, job_id)
    served = [serve(database, settings).job_id for _ in range(8)]
    ours = [job_id for job_id in served if job_id != theirs]
    assert ours[:4] == [urgent] * 4, "three epochs, and the inference"
    assert served.count(theirs) == 4, "a priority is of no matter to another tenant"


def test_a_slice_that_waits_is_left_and_its_job_s_others_are_taken(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    settings.pack_models = 1
    job_id = make_job(budget={"models": 2, "epochs": 2})
    queue_job(database, settings, job_id)
    first = claim(database, settings)
    assert first is not None
    with database.write() as session:
        try_again_later(session, session.get_one(Slice, first.row_id), {"message": "the disk is full"}, 60)
    second = claim(database, settings)
    assert second is not None
    assert second.row_id != first.row_id
    assert claim(database, settings) is None
    with database.write() as session:
        row = session.get_one(Slice, first.row_id)
        assert (row.attempts, row.losses) == (0, 0)
        row.not_before = database_now(session)
    assert claim(database, settings) is not None


@pytest.mark.parametrize("seconds", [-60, 60])
def test_a_worker_s_clock_does_not_matter(
    postgres_database_url: str, settings: Settings, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases go by the database's clock. SQLite's users share one machine, and its clock."""
    database = Database(postgres_database_url)
    migrate(database)
    queue_job(database, settings, add_job(database, add_dataset(database)))
    real = time.time

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Shifted":
            return cls.fromtimestamp(real() + seconds, tz)

    monkeypatch.setattr("store.database.datetime", Shifted)
    monkeypatch.setattr("store.tables.base.datetime", Shifted)
    monkeypatch.setattr("time.time", lambda: real() + seconds)
    lease = claim(database, settings)
    assert lease is not None
    monkeypatch.undo()
    with database.write() as session:
        assert reap(session, settings) == 0
        expires = session.get_one(Slice, lease.row_id).lease_expires_at
        assert expires is not None
        assert abs((expires - database_now(session)).total_seconds() - settings.lease_seconds) < 2
    database.close()
