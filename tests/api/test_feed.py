"""One poller feeds all event streams and long polls of a process, and ends those that should end."""

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event, update
from zarr.abc.store import Store

from api import early_refusals
from api.app import _at_signals
from api.events import event_poller
from api.events.event_poller import Feed, Listener, StreamListener
from api.jobs.event_stream import encode
from domain.states import DatasetState, JobState
from store import events
from store.database import Database
from store.keys import secret_digest
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Dataset, Event, Job, Key, utc_now
from tests.api.api_examples import PROBLEM, add_dataset, add_job
from tests.api.conftest import serve
from tests.app_copies import app_of
from tests.waiting import wait_until


def record(database: Database, job_id: str, epoch: int) -> None:
    with database.write() as session:
        events.record(session, job_id, "progress", epoch=epoch)


def end_job(database: Database, job_id: str) -> None:
    with database.write() as session:
        session.get_one(Job, job_id).state = JobState.DONE
        events.record(session, job_id, "job.state", state="done")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def job_id(database: Database) -> str:
    with database.write() as session:
        return add_job(session, add_dataset(session), state=JobState.PAUSED)


@pytest.fixture
def light_job_id(sqlite_database: Database) -> str:
    with sqlite_database.write() as session:
        return add_job(session, add_dataset(session), state=JobState.PAUSED)


def count_statements(database: Database, work: Callable[[], None]) -> int:
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    return len(statements)


@pytest.mark.anyio
async def test_queries_do_not_grow_with_listeners(database: Database, job_id: str) -> None:
    with database.write() as session:
        dataset_id = add_dataset(session, state=DatasetState.INGESTING)
    counts = []
    for number in (1, 60):
        feed = Feed(database, encode)
        streams = [StreamListener(job_id, "t", f"key_{one}", 0) for one in range(number)]
        polls = [Listener(Dataset, dataset_id, DatasetState.INGESTING) for _ in range(number)]
        feed._listeners.update(streams, polls)  # without the thread
        idle = [count_statements(database, feed._tick) for _ in range(3)]
        for stream in streams:
            stream.position, stream.ended_because = feed.position or 0, ""
            assert feed.join(stream)
        record(database, job_id, number)
        counts.append((*idle, count_statements(database, feed._tick)))
        await asyncio.sleep(0)
        assert all(len(stream.waiting) == 1 for stream in streams)
        assert len({id(stream.waiting[0]) for stream in streams}) == 1  # encoded once
        assert not any(poll._woken.is_set() for poll in polls)
    assert counts[0] == counts[1]
    assert max(counts[0][1:]) <= 6


HTTP = httpx.Client(timeout=30, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))


def open_stream(url: str, job_id: str, last: int = 0, **headers: str) -> Any:
    headers |= {"Last-Event-ID": str(last)}
    return HTTP.stream("GET", f"{url}/v1/jobs/{job_id}/events/stream", headers=headers)


def test_more_streams_than_threads_and_each_gets_the_new_event(
    light_url: str, light_app: FastAPI, sqlite_database: Database, light_job_id: str
) -> None:
    with ExitStack() as stack:
        answers = [stack.enter_context(open_stream(light_url, light_job_id)) for _ in range(50)]
        wait_until(lambda: len(light_app.state.feed._listeners) == 50)
        assert httpx.get(f"{light_url}/v1/jobs/{light_job_id}").status_code == 200
        end_job(sqlite_database, light_job_id)
        for answer in answers:
            assert [line for line in answer.iter_lines() if line.startswith("data")][-1].count("done") == 1
    wait_until(lambda: light_app.state.feed._thread is None)


def test_a_stream_is_forgotten_when_its_client_leaves(
    light_url: str, light_app: FastAPI, light_job_id: str
) -> None:
    feed = light_app.state.feed
    with open_stream(light_url, light_job_id) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert feed.streams() == {(DEFAULT_TENANT, None): 1}
    wait_until(lambda: not feed.streams())
    wait_until(lambda: feed._thread is None)


def ids_of(answer: httpx.Response, most: int) -> Iterator[int]:
    for line in answer.iter_lines():
        if line.startswith("id: "):
            yield int(line[4:])
            if (most := most - 1) == 0:
                return


def test_resumption_over_two_processes_loses_and_repeats_nothing(
    database: Database, job_id: str, settings: Settings, arrays: Store
) -> None:
    """Four writers commit in another order than that of the ids, while readers come, leave, and continue elsewhere."""
    databases = [database, Database(database.url)]
    apps = [app_of(settings, one, arrays) for one in databases]
    with ExitStack() as stack:
        servers = [serve(app) for app in apps]
        urls = [next(server) for server in servers]

        def write(seed: int) -> None:
            chance = random.Random(seed)
            for epoch in range(40):
                with database.write() as session:
                    events.record(session, job_id, "progress", epoch=epoch)
                    session.flush()
                    if not database.is_sqlite:
                        time.sleep(chance.random() * 0.03)
                    if chance.random() < 0.1:
                        session.rollback()

        writers = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]

        def finish() -> None:
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
            end_job(database, job_id)

        threading.Thread(target=finish).start()
        stack.callback(lambda: [next(server, None) for server in servers])
        found: list[int] = []
        for turn in range(100):
            most = 20 + turn
            with open_stream(urls[turn % 2], job_id, found[-1] if found else 0) as answer:
                new = list(ids_of(answer, most))
            found += new
            if len(new) < most:
                break
        with database.read() as session:
            assert found == [
                one.id for one in session.query(Event).filter_by(job_id=job_id).order_by(Event.id)
            ]
    databases[1].close()


def add_key(database: Database, secret: str) -> str:
    with database.write() as session:
        key = Key(
            id=f"key_{secret}", tenant_id=DEFAULT_TENANT, name="a key", digest=secret_digest(secret),
            beginning=secret[:10], scopes=["read"],
        )  # fmt: skip
        session.add(key)
        return key.id


@pytest.mark.parametrize("change", ["revoked_at", "expires_at"])
def test_the_stream_of_a_key_that_ends_ends(
    light_url: str, sqlite_database: Database, light_job_id: str, change: str
) -> None:
    ended, _ = add_key(sqlite_database, "lat_ended"), add_key(sqlite_database, "lat_other")
    with (
        open_stream(light_url, light_job_id, Authorization="Bearer lat_other") as kept,
        open_stream(light_url, light_job_id, Authorization="Bearer lat_ended") as answer,
    ):
        with sqlite_database.write() as session:
            values = {change: utc_now() - timedelta(seconds=1)}
            session.execute(update(Key).where(Key.id == ended).values(values))
        lines = list(answer.iter_lines())
        assert lines[-3:] == ["retry: 1000", ": the stream ends: the key was revoked or has expired", ""]
        end_job(sqlite_database, light_job_id)
        assert "done" in list(kept.iter_lines())[-3]


def test_a_key_has_a_number_of_streams_and_others_have_theirs(
    light_url: str,
    light_app: FastAPI,
    sqlite_database: Database,
    light_job_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(early_refusals, "_HELD_SECONDS", 0.01)
    light_app.state.settings.streams_per_key = 2
    key_id = add_key(sqlite_database, "lat_mine")
    with ExitStack() as stack:
        mine = [
            stack.enter_context(open_stream(light_url, light_job_id, Authorization="Bearer lat_mine"))
            for _ in range(3)
        ]
        assert [answer.status_code for answer in mine] == [200, 200, 429]
        problem = json.loads(mine[2].read())
        assert (mine[2].headers["content-type"], mine[2].headers["retry-after"]) == (PROBLEM, "10")
        assert problem["detail"] == "your key has 2 event streams open; at most 2 are allowed"
        assert (problem["quota"]["name"], problem["quota"]["used"]) == ("streams", 2)
        assert stack.enter_context(open_stream(light_url, light_job_id)).status_code == 200
        assert light_app.state.feed.streams()[DEFAULT_TENANT, key_id] == 2
    wait_until(lambda: not light_app.state.feed.streams())
    with open_stream(light_url, light_job_id, Authorization="Bearer lat_mine") as answer:
        assert answer.status_code == 200


@pytest.mark.anyio
async def test_a_slow_reader_is_ended(
    sqlite_database: Database, light_job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_poller, "_MOST_WAITING", 3)
    feed = Feed(sqlite_database, encode)
    slow, quick = (StreamListener(light_job_id, "t", None, 0) for _ in range(2))
    feed._listeners.update([slow, quick])
    feed._tick()
    for stream in (slow, quick):
        stream.position = feed.position or 0
        assert feed.join(stream)
    for epoch in range(5):
        record(sqlite_database, light_job_id, epoch)
        feed._tick()
        assert len(quick.take()) == 1
    assert (slow.ended_because, len(slow.waiting)) == ("the client reads too slowly", 3)
    assert not quick.ended_because


def test_the_end_of_the_process_ends_streams_and_long_polls_at_once(
    light_url: str, light_app: FastAPI, light_job_id: str
) -> None:
    feed = light_app.state.feed
    polled: list[httpx.Response] = []
    poll = threading.Thread(
        target=lambda: polled.append(
            httpx.get(f"{light_url}/v1/jobs/{light_job_id}", headers={"Prefer": "wait=50"}, timeout=60)
        )
    )
    poll.start()
    with open_stream(light_url, light_job_id) as answer:
        wait_until(lambda: len(feed._listeners) == 2)
        feed.close()
        assert list(answer.iter_lines())[-2] == ": the stream ends: the service stops"
    poll.join()
    assert polled[0].json()["state"] == "paused"


@pytest.mark.anyio
async def test_signals_end_streams_before_the_server_waits_for_them() -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("server"))
    try:
        with _at_signals(lambda: seen.append("streams")):
            os.kill(os.getpid(), signal.SIGTERM)
            while len(seen) < 2:
                await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sorted(seen) == ["server", "server", "streams"]


def test_long_polls_wait_without_reading_and_see_the_change(
    light_url: str, light_app: FastAPI, sqlite_database: Database
) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, state=DatasetState.INGESTING)
    feed, answers = light_app.state.feed, list[httpx.Response]()

    def poll() -> None:
        url = f"{light_url}/v1/datasets/{dataset_id}"
        answers.append(httpx.get(url, headers={"Prefer": "wait=50"}, timeout=60))

    threads = [threading.Thread(target=poll) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(feed._listeners) == 3)
    assert answers == []
    with sqlite_database.write() as session:
        session.get_one(Dataset, dataset_id).state = DatasetState.READY
    for thread in threads:
        thread.join()
    assert [answer.json()["state"] for answer in answers] == ["ready"] * 3
    assert not feed._listeners


def test_a_database_that_is_away_ends_no_stream_and_loses_no_event(
    light_url: str,
    light_app: FastAPI,
    sqlite_database: Database,
    light_job_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_poller, "_FAILED_SECONDS", 0.1)
    failures: list[Event] = []

    def fail(row: Event) -> bytes:  # when the feed has passed the event
        failures.append(row)
        raise OSError("away")

    with open_stream(light_url, light_job_id) as answer:
        lines = answer.iter_lines()
        next(lines)
        feed = light_app.state.feed
        wait_until(lambda: any(one.is_joined for one in feed._listeners))
        monkeypatch.setattr(feed, "_encode", fail)
        record(sqlite_database, light_job_id, 7)
        wait_until(lambda: failures)
        monkeypatch.setattr(feed, "_encode", encode)
        end_job(sqlite_database, light_job_id)
        assert len([line for line in lines if '"epoch":7' in line or '"done"' in line]) == 2
