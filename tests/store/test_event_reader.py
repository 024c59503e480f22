"""New events are read in order and completely, also when transactions are committed in another order."""

import pytest
from sqlalchemy.orm import Session

from store import event_reader, events
from store.database import Database
from store.event_reader import EventReader
from store.tables import Job
from tests.worker.conftest import add_dataset, add_job


@pytest.fixture
def job_ids(database: Database) -> list[str]:
    return [add_job(database, add_dataset(database)) for _ in range(2)]


def record(session: Session, job_id: str, epoch: int) -> None:
    events.record(session, job_id, "progress", epoch=epoch)
    session.flush()


def read(database: Database, reader: EventReader, *job_ids: str) -> list[int]:
    with database.read() as session:
        return [event.data["epoch"] for event in reader.read(session, job_ids) if event.kind == "progress"]


def test_only_events_of_the_jobs_come_and_the_position_passes_the_others(
    database: Database, job_ids: list[str]
) -> None:
    mine, other = job_ids
    reader = EventReader()
    read(database, reader, mine)
    for number in range(4):
        with database.write() as session:
            record(session, (mine, other)[number % 2], number)
    assert read(database, reader, mine) == [0, 2]
    assert reader.has_all
    assert read(database, reader, mine, other) == []


def test_more_events_than_one_read_takes(
    database: Database, job_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = EventReader()
    read(database, reader, job_ids[0])
    monkeypatch.setattr(event_reader, "_MOST_EVENTS", 3)
    with database.write() as session:
        for epoch in range(5):
            record(session, job_ids[0], epoch)
    found = [
        read(database, reader, *job_ids),
        reader.has_all,
        read(database, reader, *job_ids),
        reader.has_all,
    ]
    assert found == [[0, 1, 2], False, [3, 4], True]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("is_committed", [True, False])
@pytest.mark.parametrize("is_new", [True, False])
def test_an_event_that_is_committed_late_is_waited_for(
    database: Database, is_committed: bool, is_new: bool
) -> None:
    job_id = add_job(database, add_dataset(database))
    reader = EventReader()
    if not is_new:
        read(database, reader, job_id)
    with Session(database.engine) as slow:
        slow.get_one(Job, job_id, with_for_update={"key_share": True})
        record(slow, job_id, 0)
        with database.write() as session:
            record(session, job_id, 1)
        for _ in range(3):
            assert read(database, reader, job_id) == []
            assert not reader.has_all
        slow.commit() if is_committed else slow.rollback()
    found = [read(database, reader, job_id) for _ in range(2)]
    assert [*found[0], *found[1]] == ([0, 1] if is_committed else [1])
    assert reader.has_all


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_transaction_that_never_ends_is_not_waited_for_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = add_job(database, add_dataset(database))
    reader = EventReader()
    read(database, reader, job_id)
    with Session(database.engine) as stuck:
        record(stuck, job_id, 0)
        with database.write() as session:
            record(session, job_id, 1)
        assert read(database, reader, job_id) == []
        monkeypatch.setattr(event_reader, "_GAP_SECONDS", 0.0)
        assert read(database, reader, job_id) == [1]
