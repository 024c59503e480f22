"""Jobs that begin with the best models of another job: what is taken, and what is refused."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.architecture import ArchitectureSpecification
from domain.states import JobState, ModelState
from store.database import Database
from store.tables import Dataset, Job, OutboxMessage
from tests.api.api_examples import PROBLEM, Example, add_dataset, add_job, add_model, count

ARCHITECTURE = ArchitectureSpecification().of_model({}, {})
VALUES = {"learning_rate": 0.002, "dropout": 0.1, "kl_weight_inputs": 1e-5}


def add_trained(
    database: Database, dataset_id: str, specification: dict[str, Any] | None = None, **architecture: Any
) -> str:
    """A job of three models with losses 3, 1, 2, of which the second's weights are not kept any more."""
    with database.write() as session:
        job_id = add_job(session, dataset_id, state=JobState.DONE, **(specification or {}))
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


def test_a_refit_is_not_taken(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    """It was trained on the validation trials, and its loss is the lowest of all for that."""
    other_id = add_trained(sqlite_database, light_dataset_id)
    with sqlite_database.write() as session:
        add_model(
            session, other_id, 1000, state=ModelState.TRAINED, losses=(0.1,), checkpoint_key="f",
            hyperparameters=VALUES, architecture=ARCHITECTURE, refit_of=1,
        )  # fmt: skip
    found = warm_models(sqlite_database, begin(light_client, light_dataset_id, other_id))
    assert [one["number"] for one in found] == [2, 0]


def warnings_of(client: TestClient, dataset_id: str, job_id: str, **body: Any) -> list[str]:
    """Warnings of a warm start, which the preview and the job have alike."""
    whole = {"dataset_id": dataset_id, "warm_start": {"job_id": job_id, **body.pop("warm", {})}, **body}
    preview = client.post("/v1/jobs?validate_only=true", json=whole)
    assert preview.status_code == 200, preview.text
    job = client.post("/v1/jobs", json=whole).json()
    assert job["warnings"] == preview.json()["warnings"]
    assert job["scored_on"] == preview.json()["scored_on"]
    return [one for one in job["warnings"] if one.startswith("warm_start")]


def test_weights_that_have_seen_the_held_out_samples_are_told(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    there = {"evaluation_seed": 3, "sv_rate": 0.3}
    other_id = add_trained(sqlite_database, light_dataset_id, {"training": there})
    [said] = warnings_of(light_client, light_dataset_id, other_id)
    assert said == (
        f"warm_start: its weights were trained in {other_id} with training.evaluation_seed 3 (here 0), training.sv_rate 0.3 "
        "(here 0.2), so they have seen samples that this job holds out, and SV losses of this job will be too low. Give "
        "training.evaluation_seed: 3, training.sv_rate: 0.3 here too, or warm_start.weights: false"
    )
    assert warnings_of(light_client, light_dataset_id, other_id, training=there, seed=9) == []
    assert warnings_of(light_client, light_dataset_id, other_id, warm={"weights": False}) == []


def test_weights_have_seen_what_those_that_they_began_with_have_seen(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    first = add_trained(sqlite_database, light_dataset_id, {"training": {"evaluation_seed": 1}})
    second = add_trained(sqlite_database, light_dataset_id, {"warm_start": {"job_id": first}})
    [said] = warnings_of(light_client, light_dataset_id, second)
    assert f"trained in {first} with training.evaluation_seed 1 (here 0)" in said
    alone = {"warm_start": {"job_id": first, "weights": False}}
    third = add_trained(sqlite_database, light_dataset_id, alone)
    assert warnings_of(light_client, light_dataset_id, third) == []


def test_weights_of_another_reading_of_the_same_file_are_told(
    light_client: TestClient, sqlite_database: Database
) -> None:
    with sqlite_database.write() as session:
        ours, theirs, unrelated = (add_dataset(session) for _ in range(3))
        for dataset_id, original in ((ours, "a" * 64), (theirs, "a" * 64), (unrelated, "b" * 64)):
            session.get_one(Dataset, dataset_id).original = original
    [said] = warnings_of(light_client, ours, add_trained(sqlite_database, theirs))
    assert f"on {theirs}, which has the same recording as {ours}" in said
    assert warnings_of(light_client, ours, add_trained(sqlite_database, unrelated)) == []


def test_hyperparameters_alone(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        theirs, ours = add_dataset(session, neurons=9), add_dataset(session)
    other_id = add_trained(sqlite_database, theirs, factors=7)
    body = {"warm": {"weights": False}, "architecture": {"factors": [5, 7]}}
    found = warm_models(sqlite_database, begin(light_client, ours, other_id, **body))
    assert [one["number"] for one in found] == [1, 2, 0]
    assert [one["hyperparameters"]["factors"] for one in found] == [7, 7, 7]
    assert not any("start_key" in one for one in found)


@pytest.mark.parametrize("weights", [True, False])
def test_the_same_weights_are_taken_once_and_no_refit(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, weights: bool
) -> None:
    """Models 0, 1 and 3 hold what model 1 trained in epoch 8; model 2 has others of the same loss."""
    held = {"trained_by": 1, "best_hyperparameters": VALUES | {"dropout": 0.3}, "scores": {"best_epoch": 8}}
    own = {"trained_by": 2, "best_hyperparameters": VALUES | {"dropout": 0.4}, "scores": {"best_epoch": 8}}
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=JobState.DONE)
        for number, row in enumerate((held, held, own, held)):
            add_model(
                session, job_id, number, state=ModelState.TRAINED, losses=(1.0,), checkpoint_key=f"of {number}",
                hyperparameters=VALUES | {"dropout": 0.5}, architecture=ARCHITECTURE, **row,
            )  # fmt: skip
        add_model(
            session, job_id, 1000, state=ModelState.TRAINED, losses=(0.1,), checkpoint_key="final",
            architecture=ARCHITECTURE, hyperparameters=VALUES, refit_of=1,
        )  # fmt: skip
    found = warm_models(
        sqlite_database, begin(light_client, light_dataset_id, job_id, warm={"weights": weights})
    )
    assert [one["number"] for one in found] == [1, 2]
    assert [one["hyperparameters"]["dropout"] for one in found] == [0.3, 0.4]
    assert [one.get("start_key") for one in found] == (["of 1", "of 2"] if weights else [None, None])


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
