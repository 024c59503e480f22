"""What happened to a job: as pages, and as a stream that can be taken up again."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from latentry import Client
from latentry.errors import LatentryError

from domain.states import JobState
from store import events
from store.database import Database
from store.tables import Job
from tests.api.api_examples import PROBLEM, add_dataset, add_job


def add_history(database: Database, *, state: JobState, progress: int) -> str:
    with database.write() as session:
        dataset_id = add_dataset(session)
        add_job(session, dataset_id)  # whose events are none of ours
        job_id = add_job(session, dataset_id, state=state)
        for epoch in range(progress):
            events.record(session, job_id, "progress", epoch=epoch)
            session.flush()
    return job_id


def parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line == "":
            yield event
            event = {}
        else:
            name, value = line.split(": ", 1)
            event[name] = value


def test_events_are_paged_in_order(client: TestClient, database: Database) -> None:
    job_id = add_history(database, state=JobState.RUNNING, progress=5)
    found: list[dict[str, Any]] = []
    token = None
    sizes = []
    while True:
        parameters = {"page_size": 2} | ({"page_token": token} if token else {})
        page = client.get(f"/v1/jobs/{job_id}/events", params=parameters).json()
        found += page["items"]
        sizes.append(len(page["items"]))
        token = page["next_page_token"]
        if token is None:
            break
    assert sizes == [2, 2, 2]
    assert [event["id"] for event in found] == sorted(event["id"] for event in found)
    assert [event["kind"] for event in found] == ["job.state"] + ["progress"] * 5
    assert [event["data"] for event in found[1:]] == [{"epoch": epoch} for epoch in range(5)]


@pytest.mark.parametrize("number", [0, 3, 250])
def test_stream_of_an_ended_job_ends(
    light_client: TestClient, sqlite_database: Database, number: int
) -> None:
    job_id = add_history(sqlite_database, state=JobState.DONE, progress=number)
    answer = light_client.get(f"/v1/jobs/{job_id}/events/stream")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    streamed = list(parsed(iter(answer.text.split("\n")[:-1])))
    listed = light_client.get(f"/v1/jobs/{job_id}/events?page_size=500").json()["items"]
    assert [json.loads(event["data"]) for event in streamed] == listed
    assert [(event["event"], event["id"]) for event in streamed] == [
        (one["kind"], str(one["id"])) for one in listed
    ]


def test_stream_is_taken_up_after_the_last_event(client: TestClient, database: Database) -> None:
    job_id = add_history(database, state=JobState.DONE, progress=4)
    ids = [event["id"] for event in client.get(f"/v1/jobs/{job_id}/events").json()["items"]]
    for position, last in enumerate(ids, 1):
        answer = client.get(f"/v1/jobs/{job_id}/events/stream", headers={"Last-Event-ID": str(last)})
        assert [int(event["id"]) for event in parsed(iter(answer.text.split("\n")[:-1]))] == ids[position:]


def test_events_are_listed_from_the_last_one_back(client: TestClient, database: Database) -> None:
    job_id = add_history(database, state=JobState.DONE, progress=4)
    path = f"/v1/jobs/{job_id}/events"
    ids = [event["id"] for event in client.get(path).json()["items"]]
    found, query = [], {"newest_first": "true", "page_size": "2"}
    while query.get("page_token") != "":
        page = client.get(path, params=query).json()
        found += [event["id"] for event in page["items"]]
        query["page_token"] = page["next_page_token"] or ""
    assert found == ids[::-1]


def test_stream_without_replay_sends_only_new_events(client: TestClient, database: Database) -> None:
    job_id = add_history(database, state=JobState.DONE, progress=4)
    ids = [event["id"] for event in client.get(f"/v1/jobs/{job_id}/events").json()["items"]]
    path = f"/v1/jobs/{job_id}/events/stream?replay=false"
    assert not list(parsed(iter(client.get(path).text.split("\n")[:-1])))
    continued = client.get(path, headers={"Last-Event-ID": str(ids[1])})
    assert [int(event["id"]) for event in parsed(iter(continued.text.split("\n")[:-1]))] == ids[2:]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "", "9" * 19])
def test_bad_last_event_is_refused(light_client: TestClient, sqlite_database: Database, last: str) -> None:
    job_id = add_history(sqlite_database, state=JobState.DONE, progress=0)
    answer = light_client.get(f"/v1/jobs/{job_id}/events/stream", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert answer.json()["errors"][0]["pointer"] == "Last-Event-ID"


def test_stream_of_no_job_is_not_found(light_client: TestClient) -> None:
    answer = light_client.get("/v1/jobs/job_000000000000000000000000/events/stream")
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)


def test_stream_follows_a_running_job_to_its_end(light_url: str, sqlite_database: Database) -> None:
    job_id = add_history(sqlite_database, state=JobState.RUNNING, progress=1)
    seen: list[str] = []
    with httpx.stream("GET", f"{light_url}/v1/jobs/{job_id}/events/stream", timeout=20) as answer:
        for event in parsed(answer.iter_lines()):
            seen.append(event["data"])
            if len(seen) == 2:
                with sqlite_database.write() as session:
                    events.record(session, job_id, "progress", epoch=1)
            if len(seen) == 3:
                with sqlite_database.write() as session:
                    session.get_one(Job, job_id).state = JobState.DONE
                    events.record(session, job_id, "job.state", state="done")
    assert [json.loads(data)["data"] for data in seen] == [
        {"state": "running"}, {"epoch": 0}, {"epoch": 1}, {"state": "done"},
    ]  # fmt: skip


def test_client_takes_a_broken_stream_up_again(light_url: str, sqlite_database: Database) -> None:
    job_id = add_history(sqlite_database, state=JobState.RUNNING, progress=3)

    def finish() -> None:
        time.sleep(0.5)
        with sqlite_database.write() as session:
            session.get_one(Job, job_id).state = JobState.CANCELLED
            events.record(session, job_id, "job.state", state="cancelled")

    thread = threading.Thread(target=finish)
    thread.start()
    with Client(light_url) as client:
        followed = list(client.events(job_id))
        thread.join()
        assert followed == client.get(f"/v1/jobs/{job_id}/events")["items"]
        with pytest.raises(LatentryError, match="is cancelled"):
            client.wait_for_job(job_id)
        with pytest.raises(LatentryError, match="there is no job") as caught:
            list(client.events("job_000000000000000000000000"))
    assert caught.value.status == 404
