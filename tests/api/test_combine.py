"""Several data sets as one: what is accepted, what is refused and how a job on it is checked."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain import cost
from domain.architecture import ArchitectureSpecification
from domain.states import DatasetState
from store import outbox
from store.database import Database
from store.identifiers import new_id
from store.tables import DEFAULT_TENANT, Dataset, OutboxMessage, Trial
from tests.api.api_examples import OTHER_TENANT, PROBLEM, add_dataset, add_tenant, count


@pytest.fixture
def pair(sqlite_database: Database) -> list[str]:
    with sqlite_database.write() as session:
        return [add_dataset(session), add_dataset(session, neurons=9)]


def combine(client: TestClient, ids: list[str], key: str | None = None, **more: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/datasets:combine", json={"dataset_ids": ids, **more}, headers=headers)


def test_a_combination_is_ingested_by_a_worker(client: TestClient, database: Database) -> None:
    with database.write() as session:
        ids = [add_dataset(session), add_dataset(session, neurons=9)]
    answer = combine(client, ids, name="both days")
    assert answer.status_code == 202
    created = answer.json()
    assert (created["name"], created["state"]) == ("both days", "ingesting")
    assert created["source"] == {"kind": "sessions", "dataset_ids": ids}
    assert answer.headers["Location"] == f"/v1/datasets/{created['id']}"
    assert client.get(answer.headers["Location"]).json() == created
    with database.read() as session:
        [message] = session.query(OutboxMessage).all()
    assert (message.task, message.arguments) == (outbox.INGEST, [])  # whose turn it is, the database says


def test_a_repeated_request_is_answered_from_the_first_time(
    light_client: TestClient, sqlite_database: Database, pair: list[str]
) -> None:
    first, again = combine(light_client, pair, "k"), combine(light_client, pair, "k")
    assert first.json() == again.json()
    assert first.status_code == again.status_code == 202
    assert count(sqlite_database, OutboxMessage) == 1
    assert first.json()["name"] == "example + example"
    assert combine(light_client, pair[::-1], "k").status_code == 422


def test_the_same_sessions_in_the_same_order_are_the_same_data_set(
    light_client: TestClient, sqlite_database: Database, pair: list[str]
) -> None:
    first, again, other = (combine(light_client, ids) for ids in (pair, pair, pair[::-1]))
    assert (first.status_code, again.status_code, other.status_code) == (202, 200, 202)
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    assert count(sqlite_database, OutboxMessage) == 2


def refused(answer: Any, status: int = 422) -> list[dict[str, Any]]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    errors: list[dict[str, Any]] = answer.json().get("errors", [])
    return errors


def test_number_of_sessions(light_client: TestClient, pair: list[str]) -> None:
    for ids in ([], pair[:1], [f"dat_{number}" for number in range(51)]):
        [error] = refused(combine(light_client, ids))
        assert error["pointer"] == "/dataset_ids"


def test_others_data_sets_and_those_that_are_not_ready(
    light_client: TestClient, sqlite_database: Database, pair: list[str]
) -> None:
    with sqlite_database.write() as session:
        add_tenant(session)
        theirs = add_dataset(session, tenant=OTHER_TENANT)
        waiting = add_dataset(session, state=DatasetState.INGESTING)
        rejected = add_dataset(session, state=DatasetState.REJECTED)
    for unknown in (theirs, "dat_1", new_id("dat")):
        answer = combine(light_client, [pair[0], unknown])
        refused(answer, 404)
        assert unknown in answer.json()["detail"]
    for other, state in ((waiting, "ingesting"), (rejected, "rejected")):
        answer = combine(light_client, [pair[0], other])
        refused(answer, 409)
        assert state in answer.json()["detail"]


def test_everything_that_does_not_go_together_is_told_at_once(
    light_client: TestClient, sqlite_database: Database, pair: list[str]
) -> None:
    with sqlite_database.write() as session:
        wide, driven = add_dataset(session), add_dataset(session, external_inputs=2)
        session.get_one(Dataset, wide).bin_width_s = 0.02001
        combined = add_combined(session, pair)
        near = add_dataset(session)
        session.get_one(Dataset, near).bin_width_s = 0.02 * (1 + 1e-8)
    errors = refused(combine(light_client, [*pair, pair[0], wide, driven, combined, near]))
    assert [(error["pointer"], error["code"]) for error in errors] == [
        ("/dataset_ids/2", "named_twice"),
        ("/dataset_ids/3", "other_bin_width"),
        ("/dataset_ids/4", "other_external_inputs"),
        ("/dataset_ids/5", "combined_already"),
    ]
    assert "0.02001 s; expected 0.02 s" in errors[1]["message"]
    assert errors[3]["hint"] == f"name its sessions instead: {pair[0]}, {pair[1]}"


def add_combined(session: Any, ids: list[str], splits: dict[int, str] | None = None) -> str:
    """The rows that the ingest of a combination leaves."""
    sessions = [session.get_one(Dataset, dataset_id) for dataset_id in ids]
    row = Dataset(
        id=new_id("dat"), tenant_id=DEFAULT_TENANT, name="both", state=DatasetState.READY, array_path="nowhere",
        source={"kind": "sessions", "dataset_ids": ids}, trials=40, bins=5, neurons=13, bin_width_s=0.02,
    )  # fmt: skip
    named = ("trials", "bins", "neurons")
    row.report = {
        "warnings": [],
        "sessions": [
            {"dataset_id": one.id, "name": one.name} | {name: getattr(one, name) for name in named}
            for one in sessions
        ],
    }
    session.add(row)
    session.flush()
    session.add_all(
        Trial(dataset_id=row.id, trial=trial, length_bins=5, split=(splits or {}).get(trial), details={})
        for trial in range(40)
    )
    return row.id


def test_a_job_is_checked_for_every_session(
    light_client: TestClient, sqlite_database: Database, pair: list[str]
) -> None:
    with sqlite_database.write() as session:
        fine = add_combined(session, pair)
        # Of the second session everything is for training but one trial, which is for neither.
        lopsided = add_combined(session, pair, dict.fromkeys(range(20, 39), "test"))

    def preview(dataset_id: str, **architecture: Any) -> Any:
        body = {"dataset_id": dataset_id, "architecture": architecture}
        return light_client.post("/v1/jobs?validate_only=true", json=body)

    found = preview(fine, factors=4).json()
    assert (found["training_trials"], found["validation_trials"]) == (32, 8)
    described = ArchitectureSpecification(factors=4).of_model({}, {})
    described["read_in_dim"] = 4
    assert found["latents_bytes"] == cost.latents_bytes(described, round(6.5), 5, 40)
    assert found["step_memory_bytes"] == cost.step_bytes(described, round(6.5), 5, 8)  # trials of a batch
    [error] = refused(preview(lopsided))
    assert "session 1" in error["message"]
    assert "would have no train trial" in error["message"]
    [error] = refused(preview(fine, held_out_neurons=[1]))
    assert (error["pointer"], error["code"]) == ("/architecture/held_out_neurons", "several_sessions")
    [error] = refused(preview(fine, read_in_dim=[3, 6]))
    assert (error["pointer"], error["code"]) == ("/architecture/read_in_dim", "too_large")
    assert "at most 5" in error["message"]
    assert preview(fine, read_in_dim=[3, 5]).status_code == 200


def test_weights_of_other_sessions_do_not_fit(
    light_client: TestClient, sqlite_database: Database, pair: list[str]
) -> None:
    from tests.api.api_examples import add_job, add_model

    with sqlite_database.write() as session:
        forth, back = add_combined(session, pair), add_combined(session, pair[::-1])
        job_id = add_job(session, forth)
        described = ArchitectureSpecification().of_model({}, session.get_one(Dataset, forth).report)
        add_model(session, job_id, losses=(0.5,), architecture=described, checkpoint_key="key")

    def begin(dataset_id: str, **architecture: Any) -> Any:
        body = {
            "dataset_id": dataset_id,
            "architecture": architecture,
            "warm_start": {"job_id": job_id, "models": 1},
        }
        return light_client.post("/v1/jobs?validate_only=true", json=body)

    assert begin(forth).status_code == 200
    [error] = refused(begin(back))
    assert "read 4 + 9 neurons and this data set has 9 + 4" in error["message"]
    [error] = refused(begin(forth, read_in_dim=3))
    assert "read_in_dim (5 there, 3 here)" in error["message"]
