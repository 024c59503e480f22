"""Jobs that begin with the best models of another job: what is taken, and what is refused."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from store.architecture import ArchitectureSpecification
from store.database import Database
from store.states import JobState, ModelState
from store.tables import Job, OutboxMessage
from tests.api.api_examples import PROBLEM, Example, add_dataset, add_job, add_model, count

ARCHITECTURE = ArchitectureSpecification().of_model({}, {})
VALUES = {"learning_rate": 0.002, "dropout": 0.1, "kl_weight_inputs": 1e-5}


def add_trained(database: Database, dataset_id: str, **architecture: Any) -> str:
    """A job of three models with losses 3, 1, 2, of which the second's weights are not kept any more."""
    with database.write() as session:
        job_id = add_job(session, dataset_id, state=JobState.DONE)
        for number, (loss, key) in enumerate(((3.0, "a"), (1.0, None), (2.0, "c"))):
            add_model(
                session, job_id, number, state=ModelState.TRAINED, losses=(loss,), checkpoint_key=key,
                hyperparameters=VALUES | {"dropout": number / 10}, architecture=ARCHITECTURE | architecture,
            )  # fmt: skip
    return job_id


def begin(client: TestClient, dataset_id: str, job_id: str, **body: Any) -> Any:
    warm = {"job_id": job_id, **body.pop("warm", {})}
    return client.post("/v1/jobs", json={"dataset_id": dataset_id, "warm_start": warm, **body})


def warm_models(database: Database, answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 202, answer.text
    with database.read() as session:
        return session.get_one(Job, answer.json()["id"]).warm_models or []


def test_weights_of_the_best_that_are_kept(client: TestClient, database: Database, dataset_id: str) -> None:
    other_id = add_trained(database, dataset_id)
    found = warm_models(database, begin(client, dataset_id, other_id))
    assert [(one["number"], one["start_key"]) for one in found] == [(2, "c"), (0, "a")]
    # what this job does not read is left out
    assert found[0]["hyperparameters"] == {"learning_rate": 0.002, "dropout": 0.2}
    assert [
        one["number"]
        for one in warm_models(database, begin(client, dataset_id, other_id, warm={"models": 1}))
    ] == [2]
    assert len(warm_models(database, begin(client, dataset_id, other_id, budget={"models": 1}))) == 1


def test_hyperparameters_alone(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        theirs, ours = add_dataset(session, neurons=9), add_dataset(session)
    other_id = add_trained(sqlite_database, theirs, factors=7)
    body = {"warm": {"weights": False}, "architecture": {"factors": [5, 7]}}
    found = warm_models(sqlite_database, begin(light_client, ours, other_id, **body))
    assert [one["number"] for one in found] == [1, 2, 0]
    assert [one["hyperparameters"]["factors"] for one in found] == [7, 7, 7]
    assert not any("start_key" in one for one in found)


def refused(client: TestClient, answer: Any) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    [field] = answer.json()["errors"]
    assert answer.json()["detail"] == f"{field['pointer']}: {field['message']}"
    found: dict[str, Any] = field
    return found


def test_weights_that_do_not_fit(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        theirs, ours = add_dataset(session, neurons=9), add_dataset(session)
    field = refused(light_client, begin(light_client, ours, add_trained(sqlite_database, theirs)))
    assert (field["pointer"], field["code"]) == ("/warm_start/weights", "other_neurons")
    assert "read 9 neurons and this data set has 4" in field["message"]
    other_id = add_trained(sqlite_database, ours, factors=7, generator_units=50)
    field = refused(light_client, begin(light_client, ours, other_id))
    assert (field["pointer"], field["code"]) == ("/warm_start/weights", "other_architecture")
    assert "factors (7 there, 20 here), generator_units (50 there, 100 here)" in field["message"]
    assert "weights: false" in field["hint"]
    preview = light_client.post(
        "/v1/jobs?validate_only=true", json={"dataset_id": ours, "warm_start": {"job_id": other_id}}
    )
    assert preview.status_code == 422
    assert count(sqlite_database, OutboxMessage) == 0


@pytest.mark.parametrize("weights", [True, False])
def test_a_job_without_trained_models(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, weights: bool
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id)
        add_model(session, job_id, state=ModelState.DIVERGED)
    field = refused(light_client, begin(light_client, light_dataset_id, job_id, warm={"weights": weights}))
    assert (field["pointer"], field["code"]) == ("/warm_start/job_id", "no_models")
    assert f"{job_id} has none" in field["message"]


def test_absent_job_is_not_found(reader: TestClient, example: Example) -> None:
    for job_id in (example.other_job_id, "x", "job_" + 24 * "0"):
        answer = begin(reader, example.dataset_id, job_id)
        assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
        assert answer.json()["detail"] == f"/warm_start/job_id: there is no job {job_id}"
