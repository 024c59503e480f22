"""The client against a real server: what it offers of jobs."""

import threading
import time
from typing import Any

import pytest
from latentry import Client
from latentry.errors import LatentryError
from sqlalchemy.exc import OperationalError

from domain.states import JobState
from store.database import Database
from store.tables import Job
from tests.api.api_examples import add_dataset, add_job, add_population


def test_verbs_of_the_client(light_url: str, light_dataset_id: str) -> None:
    with Client(light_url) as client:
        specification = {"dataset_id": light_dataset_id, "budget": {"models": 2, "epochs": 5}}
        assert client.preview_job(specification)["epochs"] == 10
        assert client.get("/v1/jobs")["items"] == []
        job_id = client.create_job(specification)["id"]
        assert client.pause_job(job_id)["state"] == "paused"
        assert client.resume_job(job_id)["state"] == "queued"
        changed = client.change_job(job_id, name="mine", priority=0)
        assert (changed["name"], changed["specification"]["priority"]) == ("mine", 0)
        assert client.change_job(job_id)["name"] == "mine"
        budget = client.extend_job(job_id, models=1, epochs=2)["specification"]["budget"]
        assert (budget["models"], budget["epochs"]) == (3, 7)
        with pytest.raises(LatentryError, match=r"the job has no budget.wall_seconds"):
            client.extend_job(job_id, wall_seconds=5)
        assert client.cancel_job(job_id)["state"] == "cancelled"
        assert client.retry_job(job_id)["state"] == "queued"
        assert client.stop_job(job_id)["state"] == "stopping"
        with pytest.raises(LatentryError, match="is stopping: only one that is") as caught:
            client.pause_job(job_id)
        assert caught.value.status == 409


def test_client_reads_what_a_search_found(
    light_url: str, sqlite_database: Database, light_dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        job_id = add_population(session, light_dataset_id)
    with Client(light_url) as client:
        assert len(client.decisions(job_id)) == 9
        assert client.lineage(job_id)["model_number"] == 2
        assert client.lineage(job_id, 0)["model_number"] == 0
        assert "lineage of model 1" in client.lineage_picture(job_id, 1)
        assert client.importance(job_id)["observations"] == 0


def test_client_waits_for_a_database_that_is_away(
    light_url: str, sqlite_database: Database, light_dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=JobState.DONE)
    read, asked = sqlite_database.read, iter(range(100))

    def read_later() -> Any:
        if next(asked) in (0, 2):
            raise OperationalError("SELECT 1", {}, Exception("connection refused"))
        return read()

    monkeypatch.setattr(sqlite_database, "read", read_later)
    monkeypatch.setattr("api.errors.RETRY_AFTER_SECONDS", 0)
    with Client(light_url) as client:
        assert client.wait_for_job(job_id)["state"] == "done"
        assert [event["kind"] for event in client.events(job_id)] == ["job.state"]
    assert next(asked) > 4


def test_client_waits_for_a_paused_job(light_url: str, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session), state=JobState.PAUSED)

    def finish() -> None:
        time.sleep(0.5)
        with sqlite_database.write() as session:
            session.get_one(Job, job_id).state = JobState.DONE

    thread = threading.Thread(target=finish)
    thread.start()
    with Client(light_url) as client:
        assert client.wait_for_job(job_id)["state"] == "done"
    thread.join()
