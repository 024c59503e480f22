"""Whose turn it is: inferences go before slices, and training does not starve."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

import pytest
from sqlalchemy import func, select, update

from domain.states import DatasetState, InferenceState, ModelState
from store import outbox
from store.database import Database, database_now
from store.identifiers import new_id
from store.queues import CONTROL, INGEST, SLICES
from store.quotas import add_device_seconds, device_time, note_device_times, use_device_time
from store.settings import Settings
from store.tables import (
    DEFAULT_TENANT,
    Dataset,
    DeviceUsage,
    Inference,
    Job,
    Model,
    OutboxMessage,
    Slice,
    Tenant,
    Worker,
)
from store.workers import available_workers
from tests.worker.conftest import add_dataset, add_job
from tests.worker.fake_workers import FakeWorkers
from worker.context.process import TrainingProcess
from worker.maintenance import loop
from worker.maintenance.loop import sweep
from worker.process.run_next import run_next
from worker.scheduling.fair_queue import claim_inference, claim_ingest, claim_next
from worker.scheduling.leases import Lease, LeaseLost, count_attempt, reap, try_again_later


def add_inference(database: Database, tenant_id: str = DEFAULT_TENANT) -> str:
    job_id = add_job(database, add_dataset(database, tenant_id=tenant_id), tenant_id)
    inference_id, model_id = new_id("inf"), new_id("mod")
    with database.write() as session:
        job = session.get_one(Job, job_id)
        session.add(
            Model(
                id=model_id, tenant_id=tenant_id, job_id=job_id, number=0, pack=0, state=ModelState.TRAINED, seed=0,
                architecture={}, hyperparameters={}, checkpoint_key="there", scores={},
            )
        )  # fmt: skip
        session.flush()
        session.add(
            Inference(
                id=inference_id, tenant_id=tenant_id, model_id=model_id, dataset_id=job.dataset_id,
                state=InferenceState.QUEUED, options={"sessions": [0]}, checkpoint_key="there",
            )
        )  # fmt: skip
    return inference_id


def claim(database: Database, settings: Settings) -> Lease | None:
    with database.write() as session:
        return claim_inference(session, "w", settings)


def read(database: Database, inference_id: str) -> Inference:
    with database.read() as session:
        return session.get_one(Inference, inference_id)


def test_inferences_and_slices_take_turns(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    workers = FakeWorkers(database, settings)
    for _ in range(2):
        workers.advance(make_job())
    first, second, third = (add_inference(database) for _ in range(3))
    claimed: list[str | type] = []
    while True:
        after_inference = bool(claimed) and claimed[-1] is not Slice
        with database.write() as session:
            lease = claim_next(session, "w", settings, after_inference=after_inference)
        if lease is None:
            break
        claimed.append(lease.row_id if lease.table is Inference else lease.table)
    assert claimed == [first, Slice, second, Slice, third]
    ended = read(database, first)
    assert (ended.state, ended.leased_by) == ("running", "w")
    assert ended.started_at is not None


def test_only_the_work_of_other_tenants_begins_while_one_is_paused(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    workers = FakeWorkers(database, settings)
    workers.advance(make_job())
    mine, theirs = add_inference(database), add_inference(database, "other")
    with database.write() as session:
        under_way = claim_inference(session, "w", settings)
        session.get_one(Tenant, DEFAULT_TENANT).paused_at = database_now(session)
    assert under_way is not None
    assert under_way.row_id == mine
    with database.write() as session:
        claimed = claim_next(session, "w", settings, after_inference=False)
        assert claimed is not None
        assert claimed.row_id == theirs
        assert claim_next(session, "w", settings, after_inference=False) is None  # the slice waits
        under_way.keep(session, settings)  # what runs ends
        session.execute(OutboxMessage.__table__.delete())
        sweep(session, [SLICES, INGEST])
        assert session.query(OutboxMessage).count() == 0  # nobody is woken for what waits
        session.get_one(Tenant, DEFAULT_TENANT).paused_at = None
        session.flush()
        assert claim_next(session, "w", settings, after_inference=False) is not None


def test_a_draining_process_claims_nothing(
    database: Database, settings: Settings, process: TrainingProcess
) -> None:
    add_inference(database)
    process.say_alive()
    assert not process.is_draining
    with database.write() as session:
        session.get_one(Worker, process.name).draining_since = database_now(session)
    assert not run_next(process)
    assert process.is_draining
    with database.read() as session:
        assert available_workers(session) == []
        assert session.execute(select(Inference.state)).scalars().all() == [InferenceState.QUEUED]


def test_the_tenant_with_fewer_under_way_goes_first(database: Database, settings: Settings) -> None:
    mine = [add_inference(database) for _ in range(3)]
    theirs = [add_inference(database, "other") for _ in range(2)]
    claimed = [lease.row_id for _ in range(5) if (lease := claim(database, settings))]
    assert claimed == [mine[0], theirs[0], mine[1], theirs[1], mine[2]]


def test_many_workers_claim_each_inference_once(database: Database, settings: Settings) -> None:
    wanted = {add_inference(database) for _ in range(6)}
    claimed: list[str] = []

    def work() -> None:
        while (lease := claim(database, settings)) is not None:
            claimed.append(lease.row_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(claimed), set(claimed)) == (6, wanted)


def test_a_worker_that_is_lost_can_write_no_more(database: Database, settings: Settings) -> None:
    inference_id = add_inference(database)
    lost = claim(database, settings)
    assert lost is not None
    with database.write() as session:
        assert reap(session, settings) == 0
        session.get_one(Inference, inference_id).lease_expires_at = database_now(session) - timedelta(
            seconds=1
        )
        session.flush()
        assert reap(session, settings) == 1
    assert claim(database, settings) is not None
    with database.write() as session, pytest.raises(LeaseLost):
        lost.keep(session, settings)


def test_losses_and_attempts_are_counted_apart_and_end_it(database: Database, settings: Settings) -> None:
    settings.max_attempts, settings.max_losses = 2, 2
    for attempts, losses in ((2, 0), (0, 2)):
        inference_id = add_inference(database)
        for _ in range(2):
            assert claim(database, settings) is not None
            with database.write() as session:
                row = session.get_one(Inference, inference_id)
                if attempts:
                    count_attempt(session, row, {"message": "broken"}, settings)
                else:
                    reap(session, settings, held_by="w")
        ended = read(database, inference_id)
        assert (ended.state, ended.attempts, ended.losses) == ("failed", attempts, losses)
        assert ended.ended_at is not None
    assert claim(database, settings) is None


def test_a_full_disk_is_waited_for(database: Database, settings: Settings) -> None:
    inference_id = add_inference(database)
    assert claim(database, settings) is not None
    with database.write() as session:
        try_again_later(session, session.get_one(Inference, inference_id), {"message": "full"}, 30)
        assert reap(session, settings) == 0
    row = read(database, inference_id)
    assert (row.state, row.attempts, row.error) == ("running", 0, {"message": "full"})
    with database.write() as session:
        session.get_one(Inference, inference_id).lease_expires_at = database_now(session)
        session.flush()
        assert reap(session, settings) == 1
    row = read(database, inference_id)
    assert (row.state, row.attempts, row.losses) == ("queued", 0, 0)


def test_a_forgotten_one_is_rung_for_again(database: Database) -> None:
    with database.write() as session:
        sweep(session, {SLICES})
        assert rung(session) == 0
    add_inference(database)
    with database.write() as session:
        session.execute(OutboxMessage.__table__.delete())
        sweep(session, set())
        assert rung(session) == 0
        sweep(session, {SLICES})
        assert rung(session) == 1


def add_waiting_dataset(database: Database, tenant_id: str = DEFAULT_TENANT) -> str:
    dataset_id = add_dataset(database, tenant_id=tenant_id)
    with database.write() as session:
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(state=DatasetState.INGESTING))
    return dataset_id


def ingest_next(database: Database, settings: Settings) -> str | None:
    with database.write() as session:
        lease = claim_ingest(session, "w", settings)
        return None if lease is None else lease.row_id


def end_ingest(database: Database, dataset_id: str | None) -> None:
    with database.write() as session:
        row = session.get_one(Dataset, dataset_id)
        row.state = DatasetState.READY
        row.drop_lease()


def test_a_small_ingest_of_another_tenant_begins_before_the_waiting_ones(
    database: Database, settings: Settings
) -> None:
    large = [add_waiting_dataset(database) for _ in range(6)]
    running = [ingest_next(database, settings) for _ in range(2)]
    assert running == large[:2]
    small = [add_waiting_dataset(database, "other") for _ in range(2)]
    end_ingest(database, running[0])
    assert ingest_next(database, settings) == small[0]
    # Of tenants with equally many running ingests, the one that has waited longest goes first.
    assert [ingest_next(database, settings) for _ in range(2)] == [large[2], small[1]]


def test_an_ingest_that_is_put_off_takes_no_turn(database: Database, settings: Settings) -> None:
    mine = [add_waiting_dataset(database) for _ in range(2)]
    assert ingest_next(database, settings) == mine[0]
    with database.write() as session:
        try_again_later(session, session.get_one(Dataset, mine[0]), {"message": "full"}, 60)
    theirs = add_waiting_dataset(database, "other")
    assert [ingest_next(database, settings) for _ in range(3)] == [theirs, mine[1], None]


def test_many_workers_claim_each_ingest_once(database: Database, settings: Settings) -> None:
    wanted = {add_waiting_dataset(database, tenant) for tenant in (DEFAULT_TENANT, "other") for _ in range(3)}
    claimed: list[str] = []

    def work() -> None:
        while (dataset_id := ingest_next(database, settings)) is not None:
            claimed.append(dataset_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(claimed), set(claimed)) == (6, wanted)


def test_lost_messages_of_ingests_are_sent_again_to_their_own_queue(
    database: Database, settings: Settings
) -> None:
    for _ in range(2):
        add_waiting_dataset(database)
    with database.write() as session:
        session.execute(update(Dataset).values(created_at=database_now(session) - timedelta(minutes=1)))
        sweep(session, {SLICES, CONTROL})
        assert rung(session, outbox.INGEST) == 0
        sweep(session, {INGEST})
        assert rung(session, outbox.INGEST) == 2


def test_jobs_of_tenants_are_advanced_in_turns(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant that starts many searches: another one's job is among the next that are advanced."""
    dataset_id = add_dataset(database)
    busy = [add_job(database, dataset_id) for _ in range(20)]
    quiet = [add_job(database, add_dataset(database, tenant_id="quiet"), "quiet") for _ in range(2)]
    sent, in_broker = [], 3

    def send_task(task: str, args: list[str], retry: bool) -> None:
        assert not retry
        sent.append((task, *args))

    monkeypatch.setattr(loop, "queue_length", lambda queue: in_broker)
    monkeypatch.setattr(loop.app, "send_task", send_task)
    with database.write() as session:
        outbox.post(session, outbox.RUN_SLICE)
    assert loop.send_outbox(database) == 6
    jobs = [busy[0], quiet[0], busy[1], quiet[1], busy[2]]
    assert sent == [(outbox.RUN_SLICE,), *((outbox.ADVANCE, job_id) for job_id in jobs)]
    in_broker = 8
    assert loop.send_outbox(database) == 0
    with database.write() as session:  # the messages of one queue do not hold up those of another
        outbox.post(session, outbox.RUN_SLICE)
    add_waiting_dataset(database)
    assert loop.send_outbox(database) == 1
    in_broker = 0
    while loop.send_outbox(database):
        pass
    assert {job_id for _, *arguments in sent for job_id in arguments} == {*busy, *quiet}
    assert len(sent) == 24


def test_work_of_a_tenant_without_device_time_waits_until_the_day_turns(
    database: Database, make_job: Callable[..., str], settings: Settings
) -> None:
    limited = settings.model_copy(update={"quota_device_seconds_per_day": 100.0})
    workers = FakeWorkers(database, limited)
    for _ in range(2):
        workers.advance(make_job())
    inference_id = add_inference(database)
    lease = workers.claim()
    assert lease is not None
    with database.write() as session:
        piece = session.get_one(Slice, lease.row_id)
        piece.started_at = database_now(session) - timedelta(seconds=120)
        use_device_time(session, limited, piece)
    assert workers.claim() is None
    assert claim(database, limited) is None
    workers.report(lease)  # the slice under way ends as it would
    with database.write() as session:
        session.execute(OutboxMessage.__table__.delete())
        sweep(session, {SLICES})
        assert rung(session) == 0
    others = add_inference(database, "other")
    found = claim(database, limited)
    assert found is not None
    assert found.row_id == others
    with database.write() as session:
        session.execute(OutboxMessage.__table__.delete())
        session.get_one(Tenant, DEFAULT_TENANT).device_time_frees_at = database_now(session)  # midnight
        sweep(session, {SLICES})
        assert rung(session) > 0
    assert workers.claim() is not None
    assert read(database, inference_id).state == "queued"
    with database.write() as session:  # without a limit, the collection lets work begin, and with one wait
        note_device_times(session, limited)
        assert session.get_one(Tenant, DEFAULT_TENANT).has_no_device_time(database_now(session))
        note_device_times(session, settings)
        assert not session.get_one(Tenant, DEFAULT_TENANT).has_no_device_time(database_now(session))


def test_the_month_counts_the_days_before(database: Database, settings: Settings) -> None:
    with database.write() as session:
        today = database_now(session).date()
        add_device_seconds(session, DEFAULT_TENANT, 5.0)
        add_device_seconds(session, DEFAULT_TENANT, 6.0)
        last_month = today.replace(day=1) - timedelta(days=1)
        session.add(DeviceUsage(tenant_id=DEFAULT_TENANT, day=last_month, device_seconds=1000.0))
        if today.day > 1:
            session.add(DeviceUsage(tenant_id=DEFAULT_TENANT, day=today.replace(day=1), device_seconds=100.0))
        session.flush()
        day, month = device_time(session, settings, DEFAULT_TENANT)
    assert (day.used, month.used) == (11.0, 111.0 if today.day > 1 else 11.0)
    assert day.frees_at == datetime.combine(today + timedelta(days=1), time(), UTC)
    assert month.frees_at is not None
    assert (month.frees_at.day, month.frees_at > day.frees_at - timedelta(seconds=1)) == (1, True)


def rung(session: "object", task: str = outbox.RUN_SLICE) -> int:
    of_task = select(func.count()).where(OutboxMessage.task == task)
    return int(session.execute(of_task).scalar_one())  # type: ignore[attr-defined]
