"""Jobs: what is asked for, every way to ask wrongly, preview, cancel, progress."""

import json
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from store.database import Database
from store.specification import JobSpecification
from store.states import DatasetState, JobState, ModelState, SliceState
from store.tables import Dataset, Event, IdempotentRequest, Job, Model, OutboxMessage, Slice
from tests.api.api_examples import PROBLEM, START, Example, add_dataset, add_job, add_model

JSON = {"Content-Type": "application/json"}


def count(database: Database, table: type) -> int:
    with database.read() as session:
        return int(session.execute(select(func.count()).select_from(table)).scalar_one())


@pytest.fixture
def dataset_id(database: Database) -> str:
    with database.write() as session:
        return add_dataset(session)


@pytest.fixture
def light_dataset_id(sqlite_database: Database) -> str:
    with sqlite_database.write() as session:
        return add_dataset(session)


def test_job_needs_a_data_set_only(client: TestClient, database: Database, dataset_id: str) -> None:
    answer = client.post("/v1/jobs", json={"dataset_id": dataset_id})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["Retry-After"] == "5"
    assert (job["state"], job["dataset_id"], job["error"]) == ("queued", dataset_id, None)
    assert job["specification"] == JobSpecification(dataset_id=dataset_id).model_dump(mode="json")
    assert job["progress"] == {
        "fraction": 0.0, "models": 8, "models_ended": 0, "epochs_trained": 0, "epochs_budget": 1600,
        "best_smoothed_sv_loss": None, "best_model_id": None, "seconds_elapsed": None, "seconds_left": None,
    }  # fmt: skip
    assert job["created_at"].endswith("Z")
    assert client.get(answer.headers["Location"]).json() == job
    assert [item["id"] for item in client.get("/v1/jobs").json()["items"]] == [job["id"]]
    for name in ("models", "events", "dataset"):
        assert client.get(job["links"][name]).status_code == 200
    with database.read() as session:
        messages = session.execute(select(OutboxMessage.task, OutboxMessage.arguments)).all()
    assert messages == [("advance", [job["id"]])]


OUT_OF_RANGE = "outside 0 … 0.95"
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"space": {"learning_rate": {"low": 2e-3, "high": 1e-3}}}, "/space/learning_rate", "low is 0.002 and high is 0.001"),
    ({"space": {"learning_rate": {"low": 0, "high": 1, "scale": "log"}}}, "/space/learning_rate", "must begin above 0"),
    ({"space": {"learning_rate": {"low": "a", "high": 1}}}, "/space/learning_rate/low", "got 'a'"),
    ({"space": {"learning_rate": {"low": {"x": 1}, "high": 1}}}, "/space/learning_rate/low", "got an object"),
    ({"space": {"learning_rate": {"low": 1e-3}}}, "/space/learning_rate/high", "expected a value; there is none"),
    ({"space": {"learning_rate": {"low": 1e-3, "high": 2e-3, "scale": "ln"}}}, "/space/learning_rate/scale", "got 'ln'"),
    ({"space": {"learning_rate": {"low": 1e-3, "high": 2e-3, "min": 1}}}, "/space/learning_rate/min", "no such field"),
    ({"space": {"learning_rate": "fast"}}, "/space/learning_rate", "a number, or a range {low, high, scale}; got 'fast'"),
    ({"space": {"learning_rate": None}}, "/space/learning_rate", "a number, or a range {low, high, scale}; got null"),
    ({"space": {"learning_rate": [1e-3, 2e-3]}}, "/space/learning_rate", "range {low, high, scale}; got a list"),
    ({"space": {"learning_rate": 2}}, "/space/learning_rate", "2 is outside 1e-07 … 1"),
    ({"space": {"cd_rate": 1.5}}, "/space/cd_rate", f"1.5 is {OUT_OF_RANGE}"),
    ({"space": {"dropout": {"low": 0, "high": 0.99}}}, "/space/dropout", f"0.99 is {OUT_OF_RANGE}"),
    ({"space": {"dropout": float("nan")}}, "/space/dropout", "finite number; got NaN"),
    ({"space": {"dropout": {"low": 0, "high": float("inf")}}}, "/space/dropout/high", "finite number; got Infinity"),
    ({"space": {"Range": 1}}, "/space/Range", "there is no such field"),
    ({"space": {"a/b~c": 1}}, "/space/a~1b~0c", "there is no such field"),
    ({"space": 5}, "/space", "expected an object; got 5"),
    ({"budgets": {"models": 5}}, "/budgets", "there is no such field"),
    ({"budget": {"models": -1}}, "/budget/models", "greater than or equal to 1; got -1"),
    ({"budget": {"models": 2.5}}, "/budget/models", "got 2.5"),
    ({"budget": {"models": 1001}}, "/budget/models", "less than or equal to 1000; got 1001"),
    ({"budget": {"epochs": 0}}, "/budget/epochs", "greater than or equal to 1; got 0"),
    ({"budget": {"wall_seconds": -5}}, "/budget/wall_seconds", "greater than 0; got -5"),
    ({"training": {"sv_rate": 0}}, "/training/sv_rate", "greater than 0; got 0"),
    ({"training": {"valid_fraction": 1}}, "/training/valid_fraction", "less than 1; got 1"),
    ({"architecture": {"factors": None}}, "/architecture/factors", "got null"),
    ({"architecture": {"controller_units": 4}}, "/architecture", "controller_units is 4 and inferred_inputs is 0: expected both"),
    ({"architecture": {"inferred_inputs": 4}}, "/architecture", "controller_units is 0 and inferred_inputs is 4: expected both"),
    ({"architecture": {"encoded_bins": 3, "initial_condition_bins": 4}}, "/architecture", "expected more encoded bins"),
    ({"architecture": {"held_out_neurons": [1, 1]}}, "/architecture", "held_out_neurons names 1 more than once"),
    ({"architecture": {"held_out_neurons": [0, -1]}}, "/architecture/held_out_neurons/1", "equal to 0; got -1"),
    ({"architecture": {"held_out_neurons": 1}}, "/architecture/held_out_neurons", "a valid list; got 1"),
    ({"architecture": {"observation": "gaussian"}}, "/architecture/observation", "got 'gaussian'"),
    ({"architecture": {"external_inputs": 1}}, "/architecture/external_inputs", "there is no such field"),
    ({"inference": {"arrays": ["spikes"]}}, "/inference/arrays/0", "got 'spikes'"),
    ({"training": {"score_smoothing": 1}}, "/training/score_smoothing", "less than 1; got 1"),
    ({"strategy": {"kind": "pbt"}}, "/strategy/kind", "should be 'random'; got 'pbt'"),
    ({"name": "a\x00"}, "/name", "should match pattern"),
    ({"name": "\ud800"}, "/name", "half of a surrogate pair"),
    ({"name": "x" * 201}, "/name", "at most 200 characters"),
    ({"dataset_id": 5}, "/dataset_id", "got 5"),
    ({"dataset_id": "\ud800"}, "/dataset_id", "half of a surrogate pair"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "pointer", "says"), WRONG, ids=lambda value: value if isinstance(value, str) else ""
)
def test_wrong_specification_is_told_where_and_why(
    reader: TestClient, example: Example, change: dict[str, Any], pointer: str, says: str
) -> None:
    content = json.dumps({"dataset_id": example.dataset_id, **change})
    answer = reader.post("/v1/jobs", content=content, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    problem = answer.json()
    [field] = problem["errors"]
    assert field["pointer"] == pointer
    assert says in field["message"]
    assert problem["detail"] == f"{pointer}: {field['message']}"


def test_every_mistake_is_told_at_once(reader: TestClient) -> None:
    body = {"space": {"cd_rate": 2, "dropout": "x"}, "budget": {"models": 0}, "nmae": "x"}
    answer = reader.post("/v1/jobs", json=body)
    pointers = [error["pointer"] for error in answer.json()["errors"]]
    assert sorted(pointers) == ["/budget/models", "/dataset_id", "/nmae", "/space/cd_rate", "/space/dropout"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "expected a value; there is none"),
        ("[]", "expected an object; got a list"),
        ("null", "expected an object; got null"),
        ('"x"', "expected an object; got 'x'"),
        ('{"dataset_id": x}', "expected JSON; Expecting value at character 15"),
    ],
)
def test_body_that_is_no_object(reader: TestClient, content: str, says: str) -> None:
    answer = reader.post("/v1/jobs", content=content, headers=JSON)
    assert answer.status_code == 422
    assert [(error["pointer"], error["message"]) for error in answer.json()["errors"]] == [("", says)]


@pytest.mark.parametrize("content", [b"\xff", b'{"seed": ' + b"9" * 5000 + b"}", b"[" * 9000])
def test_body_that_can_t_be_read(reader: TestClient, content: bytes) -> None:
    answer = reader.post("/v1/jobs", content=content, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain"])
def test_json_must_be_marked_as_json(reader: TestClient, content_type: str) -> None:
    """`curl -d` alone says that it sends a form."""
    answer = reader.post("/v1/jobs", content="{}", headers={"Content-Type": content_type})
    assert (answer.status_code, answer.headers["content-type"]) == (415, PROBLEM)
    assert answer.json()["hint"] == "add the header Content-Type: application/json"


def test_absent_data_set_is_not_found(client: TestClient) -> None:
    for dataset_id in ("x", "\x00", "dat_000000000000000000000000"):
        assert client.post("/v1/jobs", json={"dataset_id": dataset_id}).status_code == 404


@pytest.mark.parametrize("query", ["", "?validate_only=true"])
@pytest.mark.parametrize("state", [DatasetState.INGESTING, DatasetState.REJECTED])
def test_data_set_must_be_ready(
    light_client: TestClient, sqlite_database: Database, state: DatasetState, query: str
) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, state=state)
    answer = light_client.post(f"/v1/jobs{query}", json={"dataset_id": dataset_id})
    assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
    assert answer.json()["type"] == "urn:latentry:problem:wrong-state"
    assert f"is {state}: expected one that is ready" in answer.json()["detail"]
    assert count(sqlite_database, Job) == 0


@pytest.mark.parametrize(
    ("splits", "training", "pointer", "counts"),
    [
        ([None] * 5, {}, "/training/valid_fraction", "4 would be for training and 1 for validation"),
        (
            [None] * 20,
            {"valid_fraction": 0.9},
            "/training/valid_fraction",
            "2 would be for training and 18 for",
        ),
        (["train"] * 9 + ["valid"], {}, "/dataset_id", "9 would be for training and 1 for validation"),
        (["test"] * 9 + ["valid"] * 5, {}, "/dataset_id", "0 would be for training and 5 for validation"),
    ],
)
def test_too_few_trials(
    light_client: TestClient,
    sqlite_database: Database,
    splits: list[str | None],
    training: dict[str, float],
    pointer: str,
    counts: str,
) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, splits=splits)
    answer = light_client.post("/v1/jobs", json={"dataset_id": dataset_id, "training": training})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    [field] = answer.json()["errors"]
    assert (field["pointer"], field["code"]) == (pointer, "too_few_trials")
    assert counts in field["message"]
    assert "expected at least 4 and 2" in field["message"]


CONTROLLER = {"controller_units": 8, "inferred_inputs": 1}


@pytest.mark.parametrize("query", ["", "?validate_only=true"])
@pytest.mark.parametrize(
    ("change", "pointer", "code", "says"),
    [
        ({"held_out_neurons": [0, 4]}, "/held_out_neurons/1", "no_such_neuron", "4 neurons, 0 … 3; got 4"),
        ({"held_out_neurons": [3, 1, 2, 0]}, "/held_out_neurons", "nothing_to_read", "all 4 neurons are held out"),
        ({"encoded_bins": 6}, "/encoded_bins", "too_many_bins", "at most the data set's 5 bins; got 6"),
        ({"initial_condition_bins": 5}, "/initial_condition_bins", "too_many_bins", "fewer than the 5 bins"),
        ({**CONTROLLER, "controller_lag_bins": 3, "encoded_bins": 4, "initial_condition_bins": 1},
         "/controller_lag_bins", "too_many_bins", "fewer than the 3 bins"),
        ({"initial_condition_bins": 3}, "/initial_condition_bins", "too_many_bins", "longest valid trial has, 3; got 3"),
    ],
)  # fmt: skip
def test_architecture_must_fit_the_data_set(
    light_client: TestClient,
    sqlite_database: Database,
    change: dict[str, Any],
    pointer: str,
    code: str,
    says: str,
    query: str,
) -> None:
    with sqlite_database.write() as session:
        splits = ["train"] * 16 + ["valid"] * 4
        dataset_id = add_dataset(session, splits=splits, lengths=[5] * 16 + [3] * 4)
    answer = light_client.post(f"/v1/jobs{query}", json={"dataset_id": dataset_id, "architecture": change})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    [field] = answer.json()["errors"]
    assert (field["pointer"], field["code"]) == (f"/architecture{pointer}", code)
    assert says in field["message"]
    assert answer.json()["detail"] == f"/architecture{pointer}: {field['message']}"
    assert count(sqlite_database, Job) == 0


def test_everything_that_does_not_fit_is_told_at_once(
    light_client: TestClient, light_dataset_id: str
) -> None:
    change = {"held_out_neurons": [9], "encoded_bins": 9, "encoder_units": 1024}
    answer = light_client.post("/v1/jobs", json={"dataset_id": light_dataset_id, "architecture": change})
    assert [error["pointer"] for error in answer.json()["errors"]] == [
        "/architecture/held_out_neurons/0",
        "/architecture/encoded_bins",
    ]
    assert answer.json()["detail"].endswith("(and 1 more)")


def test_a_step_that_no_machine_could_hold_is_refused(
    light_client: TestClient, sqlite_database: Database
) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, neurons=2_000_000)
        session.get_one(Dataset, dataset_id).bins = 1000
    body = {"dataset_id": dataset_id, "training": {"batch_size": 1}}
    answer = light_client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    [field] = answer.json()["errors"]
    assert (field["pointer"], field["code"]) == ("/training/batch_size", "too_large")
    assert "about 88 GB; expected at most 80 GB" in field["message"]
    with sqlite_database.write() as session:
        session.get_one(Dataset, dataset_id).neurons = 1_000_000
    preview = light_client.post("/v1/jobs?validate_only=true", json=body).json()
    assert preview["step_memory_bytes"] == pytest.approx(44e9, rel=0.01)
    assert any("takes about 44 GB of memory" in warning for warning in preview["warnings"])


def test_preview_tells_external_inputs_and_what_is_not_used(
    light_client: TestClient, sqlite_database: Database
) -> None:
    with sqlite_database.write() as session:
        driven = add_dataset(session, external_inputs=2, lengths=[5] * 19 + [1])
        plain = add_dataset(session)

    def preview(dataset_id: str, **body: Any) -> dict[str, Any]:
        ramp = {"training": {"ramp_epochs": 1, "batch_size": 4}}
        answer = light_client.post(
            "/v1/jobs?validate_only=true", json={"dataset_id": dataset_id, **ramp, **body}
        )
        found: dict[str, Any] = answer.json()
        found["warnings"] = [text for text in found["warnings"] if "factors" not in text]
        return found

    found = preview(driven)
    assert (found["external_inputs"], found["warnings"]) == (2, [])
    assert preview(driven, architecture={"use_external_inputs": False})["external_inputs"] == 0
    found = preview(plain, architecture={"use_external_inputs": True}, space={"kl_weight_inputs": 1e-5})
    assert found["external_inputs"] == 0
    assert ["space.kl_weight_inputs is given" in text for text in found["warnings"]] == [True, False]
    assert "the data set has no external_inputs" in found["warnings"][1]
    assert preview(plain, architecture=CONTROLLER, space={"kl_weight_inputs": 1e-5})["warnings"] == []
    [warning] = preview(driven, architecture={"initial_condition_bins": 1})["warnings"]
    assert "1 trials end within the first 1 bins" in warning


def test_diagnostics_of_a_job_are_told_when_it_is_done(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    found = {
        "rank_correlation": -0.5, "leaking": [1], "best_by_sv": 0, "best_by_ordinary": 1, "selected": 0,
        "constant_sv_loss": 0.54, "constant_ordinary_loss": 0.55, "warning": "Model 1 leaks.", "note": None,
        "models": [{"number": 1, "sv_loss": 0.9, "ordinary_loss": 0.1, "gap": 0.8, "lost_share": 1.9}],
    }  # fmt: skip
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=JobState.DONE)
        running = add_job(session, light_dataset_id)
        session.get_one(Job, job_id).diagnostics = found
    assert light_client.get(f"/v1/jobs/{job_id}").json()["diagnostics"] == found
    assert light_client.get(f"/v1/jobs/{running}").json()["diagnostics"] is None


def test_preview_makes_nothing(client: TestClient, database: Database, dataset_id: str) -> None:
    body = {
        "dataset_id": dataset_id, "budget": {"models": 3, "epochs": 50}, "training": {"batch_size": 5},
        "architecture": {"factors": 9},
    }  # fmt: skip
    answer = client.post("/v1/jobs?validate_only=true", json=body, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 200
    assert "Location" not in answer.headers
    preview = answer.json()
    assert (preview["valid"], preview["models"], preview["epochs"]) == (True, 3, 150)
    assert (preview["training_trials"], preview["validation_trials"], preview["steps_per_epoch"]) == (
        16,
        4,
        4,
    )
    assert preview["specification"] == JobSpecification.model_validate(body).model_dump(mode="json")
    assert len(preview["warnings"]) == 2  # the ramp is longer than the budget, more factors than neurons
    assert "ramp_epochs is 80" in preview["warnings"][0]
    for table in (Job, Event, OutboxMessage, IdempotentRequest):
        assert count(database, table) == 0


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


def test_list_by_state(light_client: TestClient, sqlite_database: Database, light_dataset_id: str) -> None:
    with sqlite_database.write() as session:
        made = {state: add_job(session, light_dataset_id, state=state) for state in JobState}
    for state, job_id in made.items():
        items = light_client.get("/v1/jobs", params={"state": state}).json()["items"]
        assert [item["id"] for item in items] == [job_id]
    assert len(light_client.get("/v1/jobs").json()["items"]) == len(JobState)
    answer = light_client.get("/v1/jobs?state=paused")
    assert answer.status_code == 422
    assert "got 'paused'" in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.INFERRING])
def test_cancel_drops_all_that_is_under_way(
    client: TestClient, database: Database, dataset_id: str, state: JobState
) -> None:
    with database.write() as session:
        job_id = add_job(session, dataset_id, state=state)
        training = add_model(session, job_id, 0, losses=(1.0,))
        trained = add_model(session, job_id, 1, state=ModelState.TRAINED)
        for number, slice_state in enumerate((SliceState.QUEUED, SliceState.LEASED, SliceState.DONE)):
            session.add(
                Slice(
                    id=f"sli_{number}", tenant_id="default", job_id=job_id, kind="train", pack=0, model_ids=[training],
                    first_epoch=0, last_epoch=5, state=slice_state, lease_token="t", attempts=1,
                )
            )  # fmt: skip
    answer = client.post(f"/v1/jobs/{job_id}:cancel")
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["ended_at"] is not None) == ("cancelled", True)
    with database.read() as session:
        assert session.get_one(Model, training).state == ModelState.CANCELLED
        assert session.get_one(Model, trained).state == ModelState.TRAINED
        slices = [session.get_one(Slice, f"sli_{number}") for number in range(3)]
        assert [one.state for one in slices] == [SliceState.CANCELLED, SliceState.CANCELLED, SliceState.DONE]
        assert [one.lease_token for one in slices] == [None, None, "t"]
    assert client.get(f"/v1/jobs/{job_id}/events").json()["items"][-1]["data"] == {"state": "cancelled"}
    again = client.post(f"/v1/jobs/{job_id}:cancel")
    assert (again.status_code, again.json()) == (200, answer.json())
    assert len(client.get(f"/v1/models/{training}/learning_curve").json()["points"]) == 1


@pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED])
def test_what_has_ended_can_t_be_cancelled(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, state: JobState
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=state)
    answer = light_client.post(f"/v1/jobs/{job_id}:cancel")
    assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
    assert f"the job {job_id} is {state}" in answer.json()["detail"]
    assert light_client.get(f"/v1/jobs/{job_id}").json()["state"] == state


def test_cancel_of_another_tenant_s_job_is_not_found(reader: TestClient, example: Example) -> None:
    assert reader.post(f"/v1/jobs/{example.other_job_id}:cancel").status_code == 404


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
    assert (progress["epochs_trained"], progress["epochs_budget"], progress["fraction"]) == (10, 40, 0.25)
    assert (progress["best_smoothed_sv_loss"], progress["best_model_id"]) == (0.4, best)
    # a quarter took so long; three quarters are left
    assert progress["seconds_left"] == pytest.approx(3 * progress["seconds_elapsed"])


def test_time_left_ends_with_the_wall_clock(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, budget={"models": 1, "epochs": 10, "wall_seconds": 30})
        add_model(session, job_id, losses=(1.0,))
    assert light_client.get(f"/v1/jobs/{job_id}").json()["progress"]["seconds_left"] == 0


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
