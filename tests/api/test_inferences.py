"""Inferences over HTTP: what is checked before one is queued, and what is told of it."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.sessions import sessions_of
from domain.states import DatasetState, InferenceState, JobState, ModelState
from store.database import Database
from store.tables import Dataset, Inference, OutboxMessage
from tests.api.api_examples import (
    OTHER_TENANT,
    PROBLEM,
    add_dataset,
    add_job,
    add_model,
    add_tenant,
    write_arrays,
)


def add_trained(session: Session, dataset_id: str, *, tenant: str = "default", **columns: Any) -> str:
    job_id = add_job(
        session, dataset_id, state=JobState.DONE, tenant=tenant, budget={"models": 3, "top_k": 2}
    )
    given = {"state": ModelState.TRAINED, "losses": (1.0,), "checkpoint_key": "models/weights", **columns}
    return add_model(session, job_id, tenant=tenant, **given)


@pytest.fixture
def model_id(database: Database, dataset_id: str) -> str:
    with database.write() as session:
        return add_trained(session, dataset_id)


@pytest.fixture
def light_model_id(sqlite_database: Database, light_dataset_id: str) -> str:
    with sqlite_database.write() as session:
        return add_trained(session, light_dataset_id)


def apply(client: TestClient, model_id: str, key: str | None = None, **wanted: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(f"/v1/models/{model_id}:apply", json=wanted, headers=headers)


def refused(client: TestClient, model_id: str, status: int = 422, **wanted: Any) -> dict[str, Any]:
    answer = apply(client, model_id, **wanted)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert client.get("/v1/inferences").json()["items"] == []
    found: dict[str, Any] = answer.json()
    return found


def test_one_is_queued_read_and_cancelled(
    client: TestClient, database: Database, dataset_id: str, model_id: str
) -> None:
    answer = apply(client, model_id, key="once", arrays=["rates"])
    made = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/inferences/{made['id']}")
    assert (made["state"], made["dataset_id"], made["arrays"]) == ("queued", dataset_id, ["rates"])
    assert made["progress"] == {"trials_done": 0, "trials": 20, "fraction": 0.0}
    assert made["posterior_samples"] == 50, "as for the job"
    assert set(made["links"]) == {"self", "model", "dataset"}
    assert apply(client, model_id, key="once", arrays=["rates"]).json() == made
    assert apply(client, model_id, key="once").status_code == 422
    with database.read() as session:
        assert session.execute(select(OutboxMessage.task)).scalars().all() == ["run_slice"]
        assert session.get_one(Inference, made["id"]).checkpoint_key == "models/weights"
    assert client.get(made["links"]["self"], headers={"Prefer": "wait=0"}).json() == made
    waits = client.get(f"{made['links']['self']}/arrays")
    assert (waits.status_code, "Prefer: wait=30" in waits.json()["hint"]) == (409, True)
    cancelled = client.post(f"{made['links']['self']}:cancel").json()
    assert cancelled["state"] == client.post(f"{made['links']['self']}:cancel").json()["state"] == "cancelled"
    assert cancelled["ended_at"] is not None


def test_one_that_is_done_has_arrays(
    client: TestClient, database: Database, arrays: Any, model_id: str
) -> None:
    write_arrays(arrays, "inferences/a/b")
    made = apply(client, model_id).json()
    with database.write() as session:
        row = session.get_one(Inference, made["id"])
        row.state, row.latents_path, row.trials_done = InferenceState.DONE, "inferences/a/b", 20
        row.scores = {"reconstruction_bits_per_spike_test": 0.25}
    done = client.get(made["links"]["self"], headers={"Prefer": "wait=30"}).json()
    assert (done["progress"]["fraction"], done["scores"]) == (
        1.0,
        {"reconstruction_bits_per_spike_test": 0.25},
    )
    assert client.get(done["links"]["arrays"]).json()["items"][0]["name"]
    assert client.get(f"{done['links']['zarr']}/zarr.json").status_code == 200
    conflict = client.post(f"{done['links']['self']}:cancel")
    assert (conflict.status_code, "is done" in conflict.json()["detail"]) == (409, True)


def test_they_are_listed_by_model_and_data_set(
    client: TestClient, database: Database, dataset_id: str, model_id: str
) -> None:
    with database.write() as session:
        other_dataset = add_dataset(session)
        other_model = add_trained(session, dataset_id)
    ids = [
        apply(client, model_id).json()["id"],
        apply(client, model_id, dataset_id=other_dataset).json()["id"],
        apply(client, other_model).json()["id"],
    ]

    def listed(**query: Any) -> list[str]:
        found = client.get("/v1/inferences", params=query).json()
        rest = listed(**query | {"page_token": found["next_page_token"]}) if found["next_page_token"] else []
        return [one["id"] for one in found["items"]] + rest

    assert listed() == listed(page_size=1) == ids[::-1]
    assert listed(model_id=model_id) == ids[1::-1]
    assert listed(dataset_id=other_dataset) == [ids[1]]
    assert listed(model_id=other_model, dataset_id=other_dataset) == []


def test_data_that_do_not_fit_are_refused(
    light_client: TestClient, sqlite_database: Database, light_model_id: str
) -> None:
    with sqlite_database.write() as session:
        other_neurons = add_dataset(session, neurons=5)
        other_width = add_dataset(session)
        session.get_one(Dataset, other_width).bin_width_s = 0.01
        ingesting = add_dataset(session, state=DatasetState.INGESTING)
        rejected = add_dataset(session, state=DatasetState.REJECTED)
    found = refused(light_client, light_model_id, dataset_id=other_neurons)
    assert [one["code"] for one in found["errors"]] == ["other_neurons"]
    assert "expected the 4 neurons of the model, in the same order; the data set has 5" in found["detail"]
    found = refused(light_client, light_model_id, dataset_id=other_width)
    assert "expected bins of 0.02 s" in found["detail"]
    assert "bins of 0.01 s" in found["detail"]
    assert f"POST /v1/datasets/{other_width}:derive" in found["hint"]
    assert "is ingesting" in refused(light_client, light_model_id, 409, dataset_id=ingesting)["detail"]
    assert "is rejected" in refused(light_client, light_model_id, 409, dataset_id=rejected)["detail"]
    assert (
        refused(light_client, light_model_id, 404, dataset_id="dat_" + "0" * 24)["errors"][0]["pointer"]
        == "/dataset_id"
    )


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ({"encoded_bins": 6}, "expected at least 6 bins, which the model needs; got 5"),
        ({"initial_condition_bins": 5}, "expected at least 6 bins, which the model needs; got 5"),
        (
            {"external_inputs": 2},
            "expected 2 external inputs, like the training data of the model; the data set has 0",
        ),
    ],
)
def test_what_the_model_reads_must_be_there(
    light_client: TestClient,
    sqlite_database: Database,
    light_dataset_id: str,
    architecture: dict[str, Any],
    told: str,
) -> None:
    with sqlite_database.write() as session:
        model_id = add_trained(session, light_dataset_id, architecture=architecture)
    assert told in refused(light_client, model_id)["detail"]


def test_arrays_that_are_not_there_are_refused(light_client: TestClient, light_model_id: str) -> None:
    assert "it has no controller" in refused(light_client, light_model_id, arrays=["inputs"])["detail"]
    assert "each array once" in refused(light_client, light_model_id, arrays=["rates", "rates"])["detail"]
    assert refused(light_client, light_model_id, arrays=["spikes"])["errors"][0]["pointer"] == "/arrays/0"


@pytest.mark.parametrize(
    ("columns", "told", "hint"),
    [
        ({"state": ModelState.TRAINING}, "is training; expected a model whose training has ended", ":stop"),
        (
            {"checkpoint_key": None},
            "has no weights any more: its job kept those of its 2 best",
            "budget.top_k",
        ),
        (
            {"state": ModelState.CANCELLED, "checkpoint_key": None, "epochs_trained": 0},
            "was never trained",
            "",
        ),
    ],
)
def test_the_model_must_have_weights(
    light_client: TestClient,
    sqlite_database: Database,
    light_dataset_id: str,
    columns: dict[str, Any],
    told: str,
    hint: str,
) -> None:
    with sqlite_database.write() as session:
        model_id = add_trained(session, light_dataset_id, **columns)
    found = refused(light_client, model_id, 409)
    assert told in found["detail"]
    assert hint in found.get("hint", "")


def test_which_session_is_meant_must_be_clear(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        alone = [add_dataset(session, neurons=neurons) for neurons in (4, 7, 4)]
        both = add_dataset(session, neurons=11, splits=(None,) * 40)
        told = [
            {"dataset_id": one, "trials": 20, "bins": 5, "neurons": n}
            for one, n in zip(alone, (4, 7), strict=False)
        ]
        session.get_one(Dataset, both).report = {"sessions": told, "external_inputs": 0}
        assert len(sessions_of(session.get_one(Dataset, both))) == 2
        model_id = add_trained(session, both, architecture={"read_in_dim": 3})
        of_one = add_trained(session, alone[0])
    found = refused(light_client, model_id, dataset_id=alone[2])
    assert found["errors"][0]["pointer"] == "/session"
    assert "0: 4 neurons, 1: 7 neurons" in found["hint"]
    assert "expected 0 … 1" in refused(light_client, model_id, dataset_id=alone[2], session=2)["detail"]
    assert (
        "7 neurons of session 1" in refused(light_client, model_id, dataset_id=alone[2], session=1)["detail"]
    )
    assert "expected a data set of one session" in refused(light_client, of_one, dataset_id=both)["detail"]
    assert (
        "expected no session number" in refused(light_client, model_id, dataset_id=both, session=0)["detail"]
    )
    assert apply(light_client, model_id, dataset_id=alone[2], session=0).json()["sessions"] == [0]
    assert apply(light_client, model_id, dataset_id=alone[1]).json()["sessions"] == [1], "the very data set"
    assert apply(light_client, model_id).json()["sessions"] == [0, 1]


def test_another_tenant_s_are_not_there(
    light_client: TestClient, sqlite_database: Database, light_model_id: str
) -> None:
    with sqlite_database.write() as session:
        add_tenant(session)
        theirs = add_dataset(session, tenant=OTHER_TENANT)
        their_model = add_trained(session, theirs, tenant=OTHER_TENANT)
        inference = Inference(
            id="inf_" + "0" * 24, tenant_id=OTHER_TENANT, model_id=their_model, dataset_id=theirs,
            state=InferenceState.QUEUED, options={}, checkpoint_key="k",
        )  # fmt: skip
        session.add(inference)
    refused(light_client, their_model, 404)
    refused(light_client, light_model_id, 404, dataset_id=theirs)
    for path in ("", "/arrays", "/zarr/zarr.json"):
        assert light_client.get(f"/v1/inferences/{inference.id}{path}").status_code == 404
    assert light_client.post(f"/v1/inferences/{inference.id}:cancel").status_code == 404


def test_a_model_without_latents_says_how_to_get_them(light_client: TestClient, light_model_id: str) -> None:
    answer = light_client.get(f"/v1/models/{light_model_id}/arrays")
    assert (answer.status_code, f"POST /v1/models/{light_model_id}:apply" in answer.json()["hint"]) == (
        409,
        True,
    )
