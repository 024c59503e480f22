"""Jobs: made from a data set alone, listed, followed."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from domain.job_specification import JobSpecification
from domain.states import JobState, ModelState
from store.database import Database
from store.tables import Job, OutboxMessage
from tests.api.api_examples import PROBLEM, START, Example, add_job, add_model, count


def test_job_needs_a_data_set_only(client: TestClient, database: Database, dataset_id: str) -> None:
    answer = client.post("/v1/jobs", json={"dataset_id": dataset_id})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["Retry-After"] == "5"
    assert (job["state"], job["dataset_id"], job["error"]) == ("queued", dataset_id, None)
    chosen = JobSpecification(dataset_id=dataset_id).for_trials(16)  # of 20, 4 are for validation
    assert job["specification"] == chosen.model_dump(mode="json")
    preview = client.post("/v1/jobs?validate_only=true", json={"dataset_id": dataset_id}).json()
    assert preview["seconds"] > 0
    assert job["progress"] == {
        "fraction": 0.0, "models": 8, "models_ended": 0, "epochs_trained": 0, "epochs_budget": 8 * 1000,  # of 2 steps each
        "best_smoothed_sv_loss": None, "best_sv_bits_per_spike_valid": None, "best_model_id": None, "seconds_elapsed": None,
        "device_seconds": 0.0, "seconds_left": preview["seconds"], "waits_for": None,  # one estimate
    }  # fmt: skip
    assert job["created_at"].endswith("Z")
    assert client.get(answer.headers["Location"]).json() == job
    assert [item["id"] for item in client.get("/v1/jobs").json()["items"]] == [job["id"]]
    for name in ("models", "events", "dataset", "decisions", "importance"):
        assert client.get(job["links"][name]).status_code == 200
    with database.read() as session:
        messages = session.execute(select(OutboxMessage.task, OutboxMessage.arguments)).all()
    assert messages == [("advance", [job["id"]])]


def test_jobs_and_models_say_what_they_are_scored_on(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        jobs = [
            add_job(session, light_dataset_id, seed=seed, training={"evaluation_seed": evaluation_seed})
            for seed, evaluation_seed in ((0, 0), (1, 0), (0, 1))
        ]
        models = [add_model(session, job_id, losses=(0.5,)) for job_id in jobs]
        final = add_model(session, jobs[0], 1000, losses=(0.4,), refit_of=0)
    found = [light_client.get(f"/v1/jobs/{job_id}").json()["scored_on"] for job_id in jobs]
    assert found[0] == found[1] != found[2]
    listed = light_client.get("/v1/jobs").json()["items"]
    assert {one["id"]: one["scored_on"] for one in listed} == dict(zip(jobs, found, strict=True))
    for model_id, of_job in zip(models, found, strict=True):
        assert light_client.get(f"/v1/models/{model_id}").json()["scored_on"] == of_job
        assert light_client.get(f"/v1/models/{model_id}/card").json()["scored_on"] == of_job
    of_job = light_client.get(f"/v1/jobs/{jobs[0]}/models").json()["items"]
    assert {one["id"]: one["scored_on"] for one in of_job} == {
        models[0]: found[0],
        final: f"{found[0]}-refit",
    }


def test_absent_data_set_is_not_found(client: TestClient) -> None:
    for dataset_id in ("x", "\x00", "dat_000000000000000000000000"):
        assert client.post("/v1/jobs", json={"dataset_id": dataset_id}).status_code == 404


def test_repeated_key_makes_one_job(client: TestClient, database: Database, dataset_id: str) -> None:
    headers = {"Idempotency-Key": "k"}
    first, again = (
        client.post("/v1/jobs", json={"dataset_id": dataset_id}, headers=headers) for _ in range(2)
    )
    assert (again.status_code, again.json()) == (202, first.json())
    other = client.post("/v1/jobs", json={"dataset_id": dataset_id, "seed": 1}, headers=headers)
    assert (other.status_code, other.headers["content-type"]) == (422, PROBLEM)
    assert count(database, Job) == 1


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_bad_key_is_refused(reader: TestClient, key: str) -> None:
    answer = reader.post("/v1/jobs", json={"dataset_id": "x"}, headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].lower() == "idempotency-key"


def test_diagnostics_of_a_job_are_told_when_it_is_done(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    found = {
        "rank_correlation": -0.5, "leaking": [1], "leaking_later": [], "best_by_sv": 0,
        "best_by_validation_loss": 1, "selected": 0,
        "is_best_epoch_in_ramp": False, "constant_sv_loss": 0.54,
        "constant_validation_loss": 0.55, "warning": "Model 1 leaks.", "note": None,
        "baselines": [{
            "score": "sv_bits_per_spike_valid", "baseline": "psth", "difference": -0.1, "standard_error": 0.02,
            "verdict": "below",
        }],
        "models": [{"number": 1, "sv_loss": 0.9, "validation_loss": 0.1, "gap": 0.8, "lost_share": 1.9,
                    "best_epoch": 9, "last_epoch": 10, "last_sv_loss": 0.95, "last_validation_loss": 0.1,
                    "last_lost_share": 2.0}],
    }  # fmt: skip
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=JobState.DONE)
        running = add_job(session, light_dataset_id)
        session.get_one(Job, job_id).diagnostics = found
    assert light_client.get(f"/v1/jobs/{job_id}").json()["diagnostics"] == found
    assert light_client.get(f"/v1/jobs/{running}").json()["diagnostics"] is None


def test_list_by_state(light_client: TestClient, sqlite_database: Database, light_dataset_id: str) -> None:
    with sqlite_database.write() as session:
        made = {state: add_job(session, light_dataset_id, state=state) for state in JobState}
    for state, job_id in made.items():
        items = light_client.get("/v1/jobs", params={"state": state}).json()["items"]
        assert [item["id"] for item in items] == [job_id]
    listed = {item["id"] for item in light_client.get("/v1/jobs").json()["items"]}
    assert listed == set(made.values()) - {made[JobState.DELETING]}
    answer = light_client.get("/v1/jobs?state=resting")
    assert answer.status_code == 422
    assert "got 'resting'" in answer.json()["errors"][0]["message"]


def test_progress_counts_epochs_over_models(client: TestClient, database: Database, dataset_id: str) -> None:
    with database.write() as session:
        job_id = add_job(session, dataset_id, budget={"models": 4, "epochs": 10})
        other_id = add_job(session, dataset_id, budget={"models": 1, "epochs": 10})
        add_model(session, job_id, 0, state=ModelState.TRAINED, losses=(3.0, 0.5, 2.0))
        best = add_model(session, job_id, 1, losses=(None, 0.4, 0.6, None, None))
        add_model(session, job_id, 2, state=ModelState.DIVERGED, losses=(None, None))
        add_model(session, job_id, 3, state=ModelState.QUEUED)
        add_model(session, other_id, 0, losses=(0.1,) * 10)
    progress = client.get(f"/v1/jobs/{job_id}").json()["progress"]
    assert (progress["models"], progress["models_ended"]) == (4, 2)
    # two models have ended early, so there is nothing left of them
    assert (progress["epochs_trained"], progress["epochs_budget"], progress["fraction"]) == (10, 40, 0.4)
    assert (progress["best_smoothed_sv_loss"], progress["best_model_id"]) == (0.4, best)
    assert progress["best_sv_bits_per_spike_valid"] == 0.6  # of that epoch, see `add_model`
    # two fifths took so long; three fifths are left
    assert progress["seconds_left"] == pytest.approx(1.5 * progress["seconds_elapsed"], rel=0.1)


def test_time_left_of_halving_is_of_the_epochs_that_are_expected(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    strategy = {"kind": "asha", "first_rung_epochs": 10, "reduction_factor": 3}
    body = {"strategy": strategy, "budget": {"models": 9, "epochs": 90}, "training": {"ramp_epochs": 2}}
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, **body)
        add_model(session, job_id, losses=(1.0,) * 10)
    progress = light_client.get(f"/v1/jobs/{job_id}").json()["progress"]
    # 9 models for 10 epochs, 3 for 20 more, 1 for 60 more: 210, of which 10 are trained
    # after a twentieth of the job the pace of the preview still counts
    assert progress["seconds_left"] == pytest.approx(20 * progress["seconds_elapsed"], rel=0.35)


def test_time_left_ends_with_the_wall_clock(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, budget={"models": 1, "epochs": 10, "wall_seconds": 30})
        add_model(session, job_id, losses=(1.0,))
    left = light_client.get(f"/v1/jobs/{job_id}").json()["progress"]["seconds_left"]
    assert left == pytest.approx(1, abs=0.5)  # the latents


def test_progress_of_an_ended_job(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        done = add_job(session, light_dataset_id, state=JobState.DONE)
        cancelled = add_job(
            session, light_dataset_id, state=JobState.CANCELLED, budget={"models": 1, "epochs": 4}
        )
        add_model(session, cancelled, state=ModelState.CANCELLED, losses=(1.0,))
    progress = light_client.get(f"/v1/jobs/{done}").json()["progress"]
    assert (progress["fraction"], progress["seconds_elapsed"], progress["seconds_left"]) == (1.0, 60.0, None)
    assert light_client.get(f"/v1/jobs/{cancelled}").json()["progress"]["fraction"] == 0.25


def test_finished_job_names_its_model(reader: TestClient, example: Example) -> None:
    job = reader.get(f"/v1/jobs/{example.job_id}", headers={"Prefer": "wait=30"}).json()
    assert job["selected_model_id"] == example.model_id
    assert reader.get(job["links"]["selected_model"]).json()["is_selected"] is True
    assert job["ended_at"] == (START + timedelta(seconds=60)).isoformat().replace("+00:00", "Z")


def test_models_are_paged_by_number(client: TestClient, database: Database, dataset_id: str) -> None:
    with database.write() as session:
        job_id = add_job(session, dataset_id)
        for number in (3, 0, 2, 1):
            add_model(session, job_id, number)
    first = client.get(f"/v1/jobs/{job_id}/models?page_size=3").json()
    second = client.get(f"/v1/jobs/{job_id}/models?page_size=3&page_token={first['next_page_token']}").json()
    assert [model["number"] for model in first["items"] + second["items"]] == [0, 1, 2, 3]
    assert second["next_page_token"] is None
    assert first["items"][0] == client.get(f"/v1/models/{first['items'][0]['id']}").json()


def test_learning_curve_is_in_order(reader: TestClient, example: Example) -> None:
    curve = reader.get(f"/v1/models/{example.model_id}/learning_curve").json()
    assert curve["model_id"] == example.model_id
    assert [(point["epoch"], point["sv_loss"]) for point in curve["points"]] == [(1, 2.0), (2, 1.0)]
