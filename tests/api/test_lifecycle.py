"""Pause, resume, stop, cancel, retry, extend, and what may change at any time."""

import re
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from domain.states import JobState, ModelState, SliceState
from store.database import Database, database_now
from store.tables import Event, Job, Model, OutboxMessage, Slice
from tests.api.api_examples import PROBLEM, Example, add_job, add_model, count

VERBS = ("pause", "resume", "stop", "cancel", "retry", "extend")
DRAWN = {
    (verb, JobState(before)): JobState(after)
    for before, verb, after in re.findall(r"(\w+)\s+──(\w+)──▶ (\w+)", JobState.__doc__ or "")
    if verb in VERBS
}
"""Edges that a verb causes, as the enum draws them."""
STAYS = {
    "pause": [JobState.PAUSED],
    "resume": [JobState.QUEUED, JobState.RUNNING],
    "stop": [JobState.STOPPING, JobState.INFERRING, JobState.DONE],
    "cancel": [JobState.CANCELLED],
    "retry": [],
    "extend": [JobState.QUEUED, JobState.RUNNING, JobState.PAUSED],
}
"""States that a verb leaves as they are, and is answered 200."""
MORE = {"models": 2, "epochs": 5}


def body_of(verb: str) -> dict[str, Any]:
    return {"json": MORE} if verb == "extend" else {}


def kinds_of_events(client: TestClient, job_id: str) -> list[str]:
    return [item["kind"] for item in client.get(f"/v1/jobs/{job_id}/events").json()["items"]]


def without_clock(job: dict[str, Any]) -> dict[str, Any]:
    return job | {"progress": job["progress"] | {"seconds_elapsed": None}}


def test_every_verb_is_drawn() -> None:
    assert {verb for verb, _ in DRAWN} == set(VERBS)


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("verb", VERBS)
def test_verb_in_every_state(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, verb: str, state: JobState
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=state)
    answer = light_client.post(f"/v1/jobs/{job_id}:{verb}", **body_of(verb))
    job = light_client.get(f"/v1/jobs/{job_id}").json()
    if (after := DRAWN.get((verb, state))) is not None:
        assert (answer.status_code, without_clock(answer.json())) == (200, without_clock(job))
        assert job["state"] == after
        assert light_client.get(f"/v1/jobs/{job_id}/events").json()["items"][-1]["data"] == {"state": after}
        assert (job["ended_at"] is not None) == after.is_final
    elif state in STAYS[verb]:
        assert (answer.status_code, without_clock(answer.json())) == (200, without_clock(job))
        assert job["state"] == state
        assert kinds_of_events(light_client, job_id) == ["job.state"] + ["job.extended"] * (verb == "extend")
    else:
        assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
        assert f"the job {job_id} is {state}: only one that is " in answer.json()["detail"]
        assert job["state"] == state
        assert count(sqlite_database, OutboxMessage) == 0


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "cancel"])
def test_a_verb_may_be_repeated(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, verb: str
) -> None:
    state = JobState.PAUSED if verb == "resume" else JobState.RUNNING
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=state)
    first = light_client.post(f"/v1/jobs/{job_id}:{verb}")
    events, messages = count(sqlite_database, Event), count(sqlite_database, OutboxMessage)
    again = light_client.post(f"/v1/jobs/{job_id}:{verb}")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json()["state"] == first.json()["state"]
    assert (count(sqlite_database, Event), count(sqlite_database, OutboxMessage)) == (events, messages)


@pytest.mark.parametrize("verb", ["resume", "stop", "retry", "extend"])
def test_what_trains_on_is_told_to_the_workers(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, verb: str
) -> None:
    state = next(before for (of, before) in DRAWN if of == verb)
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=state)
    light_client.post(f"/v1/jobs/{job_id}:{verb}", **body_of(verb))
    with sqlite_database.read() as session:
        messages = session.execute(select(OutboxMessage.task, OutboxMessage.arguments)).all()
    assert messages == [("advance", [job_id])]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("verb", [*VERBS, ""])
def test_another_tenant_s_job_is_not_found(
    reader: TestClient, example: Example, verb: str, method: str
) -> None:
    if (method == "PATCH") != (verb == ""):
        return
    path = f"/v1/jobs/{example.other_job_id}" + (f":{verb}" if verb else "")
    answer = reader.request(
        method, path, json=MORE if verb == "extend" else {"name": "mine"} if not verb else None
    )
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)


@pytest.mark.parametrize("verb", ["pause", "stop"])
def test_slices_are_left_to_the_scheduler_which_is_asked(
    client: TestClient, database: Database, dataset_id: str, verb: str
) -> None:
    with database.write() as session:
        job_id = add_job(session, dataset_id)
        training = add_model(session, job_id, losses=(1.0,))
        for state in (SliceState.QUEUED, SliceState.LEASED, SliceState.DONE):
            add_slice(session, job_id, training, state)
    assert client.post(f"/v1/jobs/{job_id}:{verb}").status_code == 200
    with database.read() as session:
        states = {name: session.get_one(Slice, f"sli_{name}").state for name in ("queued", "leased", "done")}
        assert states == {"queued": "queued", "leased": "leased", "done": "done"}
        assert session.get_one(Model, training).state == ModelState.TRAINING
        messages = session.execute(select(OutboxMessage.task, OutboxMessage.arguments)).all()
    assert messages == [("advance", [job_id])]


def add_slice(session: Any, job_id: str, model_id: str, state: SliceState) -> None:
    session.add(
        Slice(
            id=f"sli_{state}", tenant_id="default", job_id=job_id, kind="train", pack=0, model_ids=[model_id],
            first_epoch=0, last_epoch=5, state=state, lease_token="t", attempts=1,
        )
    )  # fmt: skip


def test_a_pause_does_not_count(client: TestClient, database: Database, dataset_id: str) -> None:
    with database.write() as session:
        job_id = add_job(session, dataset_id)
        job, now = session.get_one(Job, job_id), database_now(session)
        job.started_at = now - timedelta(seconds=100)
        job.paused_at, job.state = now - timedelta(seconds=60), JobState.PAUSED
    resting = client.get(f"/v1/jobs/{job_id}").json()["progress"]
    assert (resting["seconds_elapsed"], resting["seconds_left"]) == (pytest.approx(40), None)
    client.post(f"/v1/jobs/{job_id}:resume")
    assert client.get(f"/v1/jobs/{job_id}").json()["progress"]["seconds_elapsed"] == pytest.approx(40, abs=5)


@pytest.mark.parametrize(
    "state", [JobState.QUEUED, JobState.RUNNING, JobState.PAUSED, JobState.STOPPING, JobState.INFERRING]
)
def test_cancel_drops_all_that_is_under_way(
    client: TestClient, database: Database, dataset_id: str, state: JobState
) -> None:
    with database.write() as session:
        job_id = add_job(session, dataset_id, state=state)
        training = add_model(session, job_id, 0, losses=(1.0,))
        trained = add_model(session, job_id, 1, state=ModelState.TRAINED)
        for slice_state in (SliceState.QUEUED, SliceState.LEASED, SliceState.DONE):
            add_slice(session, job_id, training, slice_state)
    answer = client.post(f"/v1/jobs/{job_id}:cancel")
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["ended_at"] is not None) == ("cancelled", True)
    with database.read() as session:
        assert session.get_one(Model, training).state == ModelState.CANCELLED
        assert session.get_one(Model, trained).state == ModelState.TRAINED
        slices = [session.get_one(Slice, f"sli_{name}") for name in ("queued", "leased", "done")]
        assert [one.state for one in slices] == [SliceState.CANCELLED, SliceState.CANCELLED, SliceState.DONE]
        assert [one.lease_token for one in slices] == [None, None, "t"]
    assert client.get(f"/v1/jobs/{job_id}/events").json()["items"][-1]["data"] == {"state": "cancelled"}
    again = client.post(f"/v1/jobs/{job_id}:cancel")
    assert (again.status_code, again.json()) == (200, answer.json())
    assert len(client.get(f"/v1/models/{training}/learning_curve").json()["points"]) == 1


def test_retry_takes_up_what_failed(client: TestClient, database: Database, dataset_id: str) -> None:
    with database.write() as session:
        job_id = add_job(session, dataset_id, state=JobState.FAILED)
        session.get_one(Job, job_id).error = {"code": "no_model_to_select", "message": "all failed"}
        ids = [
            add_model(session, job_id, number, state=state, end_reason="x", checkpoint_key=key)
            for number, (state, key) in enumerate(
                [
                    (ModelState.FAILED, None),
                    (ModelState.CANCELLED, "key"),
                    (ModelState.TRAINED, "key"),
                    (ModelState.DIVERGED, "key"),
                    (ModelState.STOPPED, "key"),
                ]
            )
        ]
    job = client.post(f"/v1/jobs/{job_id}:retry").json()
    assert (job["state"], job["error"], job["ended_at"]) == ("queued", None, None)
    models = [client.get(f"/v1/models/{model_id}").json() for model_id in ids]
    assert [model["state"] for model in models] == ["queued", "training", "trained", "diverged", "stopped"]
    assert [model["end_reason"] for model in models] == [None, None, "x", "x", "x"]


def test_extend_adds_to_the_budget_and_takes_models_up_again(
    client: TestClient, database: Database, dataset_id: str
) -> None:
    budget = {"models": 4, "epochs": 10, "wall_seconds": 60}
    with database.write() as session:
        job_id = add_job(session, dataset_id, state=JobState.DONE, budget=budget)
        ids = [
            add_model(
                session, job_id, number, state=state, checkpoint_key=key, epochs_trained=10, end_reason="x"
            )
            for number, (state, key) in enumerate(
                [
                    (ModelState.TRAINED, "key"),
                    (ModelState.TRAINED, None),  # whose weights are not kept any more
                    (ModelState.STOPPED, "key"),
                    (ModelState.CANCELLED, None),
                ]
            )
        ]
    answer = client.post(f"/v1/jobs/{job_id}:extend", json={"models": 3, "epochs": 5, "wall_seconds": 30.5})
    assert answer.status_code == 200
    found = answer.json()["specification"]["budget"]
    assert (found["models"], found["epochs"], found["wall_seconds"]) == (7, 15, 90.5)
    assert found["device_seconds"] is None
    states = [client.get(f"/v1/models/{model_id}").json()["state"] for model_id in ids]
    assert states == ["training", "trained", "stopped", "queued"]
    events = client.get(f"/v1/jobs/{job_id}/events").json()["items"]
    [extended] = [one["data"] for one in events if one["kind"] == "job.extended"]
    assert extended["budget"] == found


@pytest.mark.parametrize(
    ("more", "pointer", "says"),
    [
        ({}, "", "expected something to add; got nothing"),
        ({"models": 0, "wall_seconds": 0}, "", "expected something to add; got nothing"),
        ({"models": 993}, "/models", "expected a total of at most 1000; it would be 1001"),
        ({"epochs": 99_801}, "/epochs", "expected a total of at most 100000; it would be 100001"),
        (
            {"wall_seconds": 5},
            "/wall_seconds",
            "the job has no budget.wall_seconds that could be extended",
        ),
        ({"device_seconds": 5}, "/device_seconds", "the job has no budget.device_seconds"),
        ({"models": -1}, "/models", "greater than or equal to 0; got -1"),
        ({"models": 1, "patience_epochs": 5}, "/patience_epochs", "there is no such field"),
    ],
)
def test_extension_that_can_t_be(
    light_client: TestClient,
    sqlite_database: Database,
    light_dataset_id: str,
    more: dict[str, Any],
    pointer: str,
    says: str,
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=JobState.DONE)
    answer = light_client.post(f"/v1/jobs/{job_id}:extend", json=more)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    [field] = answer.json()["errors"]
    assert field["pointer"] == pointer
    assert says in field["message"]
    assert light_client.get(f"/v1/jobs/{job_id}").json()["state"] == "done"


def test_repeated_key_extends_once(client: TestClient, database: Database, dataset_id: str) -> None:
    with database.write() as session:
        job_id, other_id = (add_job(session, dataset_id) for _ in range(2))
    path, headers = f"/v1/jobs/{job_id}:extend", {"Idempotency-Key": "k"}
    first, again = (client.post(path, json={"models": 2}, headers=headers) for _ in range(2))
    assert (again.status_code, again.json()) == (200, first.json())
    assert client.get(f"/v1/jobs/{job_id}").json()["specification"]["budget"]["models"] == 10
    for other in (
        client.post(path, json={"models": 3}, headers=headers),
        client.post(f"/v1/jobs/{other_id}:extend", json={"models": 2}, headers=headers),
    ):
        assert (other.status_code, other.json()["type"]) == (
            422,
            "urn:latentry:problem:idempotency-key-reused",
        )
    assert client.post(path, json={"models": 2}).json()["specification"]["budget"]["models"] == 12


@pytest.mark.parametrize("state", JobState)
def test_name_and_priority_change_in_every_state(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, state: JobState
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=state, name="first", priority=1)
    for changes, name, priority in (
        ({}, "first", 1),
        ({"priority": -3}, "first", -3),
        ({"name": "second"}, "second", -3),
    ):
        job = light_client.patch(f"/v1/jobs/{job_id}", json=changes).json()
        assert (job["state"], job["name"]) == (state, name)
        assert (job["specification"]["name"], job["specification"]["priority"]) == (name, priority)
    with sqlite_database.read() as session:
        assert session.get_one(Job, job_id).priority == -3


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"priority": 11}, "/priority"),
        ({"name": "x" * 201}, "/name"),
        ({"name": "a\x00"}, "/name"),
        ({"seed": 1}, "/seed"),
    ],
)
def test_what_may_not_change(
    reader: TestClient, example: Example, changes: dict[str, Any], pointer: str
) -> None:
    answer = reader.patch(f"/v1/jobs/{example.job_id}", json=changes)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
