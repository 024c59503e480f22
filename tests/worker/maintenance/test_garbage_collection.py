"""What nobody reads is deleted, and nothing else."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select
from zarr.abc.store import Store

from store import array_store, outbox
from store.array_store import write_object
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database, database_now
from store.settings import Settings
from store.tables import Job, Model, OutboxMessage, Slice
from tests.worker.fake_workers import FakeWorkers, read_job, read_models
from worker import tasks
from worker.context.checkpoints import checkpoint_key
from worker.maintenance.collection import Collection
from worker.maintenance.garbage_collection import collect, collect_all


def keys(arrays: Store) -> set[str]:
    async def read() -> set[str]:
        return {key async for key in arrays.list_prefix("models/")}

    return asyncio.run(read())


@pytest.fixture
def workers(database: Database, settings: Settings) -> FakeWorkers:
    return FakeWorkers(database, settings)


def write_checkpoint(
    database: Database, arrays: Store, model: Model, epoch: int, token: str, *, is_read: bool
) -> str:
    key = checkpoint_key(model.id, epoch, token)
    write_object(arrays, key, b"weights")
    if is_read:
        with database.write() as session:
            session.get_one(Model, model.id).checkpoint_key = key
    return key


def test_orphans_are_deleted_and_what_is_read_or_being_written_stays(
    database: Database, arrays: Store, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 2, "epochs": 9})
    workers.advance(job_id)
    lease = workers.claim()
    assert lease is not None
    one, other = read_models(database, job_id)
    kept = {
        write_checkpoint(database, arrays, one, 2, "reported", is_read=True),
        write_checkpoint(database, arrays, other, 4, lease.token, is_read=False),  # of a worker that is alive
    }
    partial = checkpoint_key(other.id, 4, lease.token) + ".0f3a.partial"  # as a file store writes
    write_object(arrays, partial, b"wei")
    kept.add(partial)
    write_checkpoint(database, arrays, one, 4, "lost", is_read=False)
    write_checkpoint(database, arrays, other, 2, "lost", is_read=False)
    for token in ("shown", "lost"):
        writer = ArrayGroupWriter(arrays, f"models/{one.id}/latents/{token}")
        writer.write(NamedArray("rates", np.zeros((2, 3)), ("trial", "time_s")))
        writer.close()
    with database.write() as session:
        session.get_one(Model, one.id).latents_path = f"models/{one.id}/latents/shown"
    assert sum(collect(database, arrays, job_id)) == 3
    left = keys(arrays)
    assert {key for key in left if "/checkpoints/" in key} == kept
    assert {key.split("/")[3] for key in left if "/rates/" in key} == {"shown"}
    assert sum(collect(database, arrays, job_id)) == 0


def test_a_checkpoint_that_others_copied_or_begin_with_stays(
    database: Database, arrays: Store, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id, other_id, waiting_id = (make_job(budget={"models": 3, "epochs": 9}) for _ in range(3))
    for one in (job_id, other_id):
        workers.advance(one)
    parent, child, _ = read_models(database, job_id)
    (follower, *_) = read_models(database, other_id)
    shared, started, promised = (
        write_checkpoint(database, arrays, parent, epoch, "gone", is_read=False) for epoch in (2, 4, 6)
    )
    orphan = write_checkpoint(database, arrays, parent, 8, "gone", is_read=False)
    with database.write() as session:
        session.get_one(Model, child.id).checkpoint_key = shared
        session.get_one(Model, follower.id).start_key = started
        session.get_one(Job, waiting_id).warm_models = [
            {"number": 0, "hyperparameters": {}, "start_key": promised}
        ]
    assert sum(collect(database, arrays, job_id)) == 1
    assert keys(arrays) == {shared, started, promised}
    assert orphan not in keys(arrays)


def test_of_a_job_that_is_done_the_best_models_keep_their_weights(
    database: Database, arrays: Store, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 5, "epochs": 2, "top_k": 2})
    workers.advance(job_id)
    lease = workers.claim()
    assert lease is not None
    workers.report(lease, losses={0: 0.5, 1: 0.1, 2: 0.4, 3: 0.2, 4: 0.3})
    for model in read_models(database, job_id):
        write_checkpoint(database, arrays, model, 2, "reported", is_read=True)
    assert sum(collect_all(database, arrays)) == 0, "the job is not done"
    workers.run(job_id)
    assert sum(collect_all(database, arrays)) == 3
    kept = [model.number for model in read_models(database, job_id) if model.checkpoint_key]
    assert kept == [1, 3]
    assert len(keys(arrays)) == 2


def test_jobs_that_ended_long_ago_are_not_looked_through(
    database: Database, arrays: Store, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job()
    workers.run(job_id)
    write_checkpoint(database, arrays, read_models(database, job_id)[0], 9, "lost", is_read=False)
    with database.write() as session:
        session.get_one(Job, job_id).ended_at = database_now(session) - timedelta(days=2)
    assert sum(collect_all(database, arrays)) == 0
    assert read_job(database, job_id).ended_at is not None
    with database.write() as session:
        session.get_one(Job, job_id).ended_at = database_now(session)
        assert session.execute(select(Slice.lease_token)).scalars().all() == [None] * 3
    assert sum(collect_all(database, arrays)) == 1


def write_orphans(database: Database, arrays: Store, job_id: str) -> int:
    """Write two checkpoints and a group of latents that nobody reads, for each model; return the number of models."""
    models = read_models(database, job_id)
    for model in models:
        for epoch in (2, 4):
            write_checkpoint(database, arrays, model, epoch, "lost", is_read=False)
        for number in range(6):
            write_object(arrays, f"models/{model.id}/latents/lost/rates/c/{number}", b"rates")
    return len(models)


def test_a_collection_does_little_in_each_step(
    database: Database,
    arrays: Store,
    workers: FakeWorkers,
    make_job: Callable[..., str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(array_store, "_DELETED_AT_ONCE", 2)
    job_id = make_job(budget={"models": 4, "epochs": 9})
    workers.advance(job_id)
    models = write_orphans(database, arrays, job_id)
    collection, left, has_more = Collection(database, arrays, settings), keys(arrays), True
    steps = 0
    while has_more:
        has_more = collection.run(0)
        steps += 1
        assert len(left) - len(keys(arrays)) <= 2
        left = keys(arrays)
    assert not left
    assert steps > models * (1 + 2 + 3)  # for each model: listing, checkpoints, latents


def test_a_collection_continues_by_messages_behind_those_of_jobs(
    database: Database,
    arrays: Store,
    workers: FakeWorkers,
    make_job: Callable[..., str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("get_database", database), ("get_array_store", arrays), ("get_settings", settings)):
        monkeypatch.setattr(tasks, name, lambda value=value: value)
    monkeypatch.setattr(tasks, "_SECONDS_OF_TURN", 0.0)
    monkeypatch.setattr(tasks, "_collection", None)
    job_id = make_job(budget={"models": 2, "epochs": 9})
    workers.advance(job_id)

    def next_turns() -> list[list[str]]:
        with database.write() as session:
            found = (
                session.execute(select(OutboxMessage).where(OutboxMessage.task == outbox.COLLECT))
                .scalars()
                .all()
            )
            for message in found:
                session.delete(message)
            return [message.arguments for message in found]

    write_orphans(database, arrays, job_id)
    tasks.collect()
    assert next_turns() == [["continues"]]
    tasks.collect()  # the maintenance loop wants another one
    assert next_turns() == []
    turns, messages = 1, [["continues"]]
    while messages:
        tasks.collect(*messages.pop())
        messages = next_turns()
        turns += 1
    assert turns > 10
    assert not keys(arrays)
    tasks.collect()
    assert next_turns() == [["continues"]]
