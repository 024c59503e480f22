"""Every way to ask wrongly for a job is told where and why."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.caches import forget_deleted
from domain.job_checks import JobData
from domain.states import DatasetState
from store.database import Database
from store.tables import Dataset, Job
from tests.api.api_examples import PROBLEM, Example, add_dataset, count

JSON = {"Content-Type": "application/json"}


def bounded(**bounds: tuple[float, float]) -> dict[str, Any]:
    """A population whose perturbation is bounded."""
    ends = {name: {"low": low, "high": high} for name, (low, high) in bounds.items()}
    return {"strategy": {"kind": "pbt", "bounds": ends}}


STARTED = {"kind": "pbt", "start": {"cd_rate": 0.5}}
OUT_OF_RANGE = "outside 0 … 0.95"


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"space": {"learning_rate": {"low": 2e-3, "high": 1e-3}}}, "/space/learning_rate", "low is 0.002 and high is 0.001"),
    ({"space": {"learning_rate": {"low": 0, "high": 1, "scale": "log"}}}, "/space/learning_rate", "must begin above 0"),
    ({"space": {"learning_rate": {"low": "a", "high": 1}}}, "/space/learning_rate/low", "got 'a'"),
    ({"space": {"learning_rate": {"low": {"x": 1}, "high": 1}}}, "/space/learning_rate/low", "got an object"),
    ({"space": {"learning_rate": {"low": 1e-3}}}, "/space/learning_rate/high", "expected a value; got none"),
    ({"space": {"learning_rate": {"low": 1e-3, "high": 2e-3, "scale": "ln"}}}, "/space/learning_rate/scale", "got 'ln'"),
    ({"space": {"learning_rate": {"low": 1e-3, "high": 2e-3, "min": 1}}}, "/space/learning_rate/min", "no such field"),
    ({"space": {"learning_rate": "fast"}}, "/space/learning_rate", "list of numbers, or a range {low, high, scale}; got 'fast'"),
    ({"space": {"learning_rate": None}}, "/space/learning_rate", "list of numbers, or a range {low, high, scale}; got null"),
    ({"space": {"learning_rate": []}}, "/space/learning_rate", "expected at least 1 item; got 0"),
    ({"space": {"learning_rate": [1e-3, 2e-3, 1e-3]}}, "/space/learning_rate", "the list contains 0.001 more than once"),
    ({"space": {"learning_rate": [1e-3, "x"]}}, "/space/learning_rate/1", "should be a valid number"),
    ({"space": {"learning_rate": [1e-3, [2e-3]]}}, "/space/learning_rate/1", "should be a valid number; got a list"),
    ({"space": {"learning_rate": [1e-3, 2]}}, "/space/learning_rate", "2 is outside 1e-07 … 1"),
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
    ({"architecture": {"factors": None}}, "/architecture/factors", "whole number, or a list of whole numbers; got null"),
    ({"architecture": {"factors": "big"}}, "/architecture/factors", "whole number, or a list of whole numbers; got 'big'"),
    ({"architecture": {"factors": 8.5}}, "/architecture/factors", "whole number, or a list of whole numbers; got 8.5"),
    ({"architecture": {"factors": {"low": 8, "high": 9}}}, "/architecture/factors", "or a list of whole numbers; got an object"),
    ({"architecture": {"factors": []}}, "/architecture/factors", "expected at least 1 item; got 0"),
    ({"architecture": {"factors": list(range(1, 22))}}, "/architecture/factors", "expected at most 20 items; got 21"),
    ({"architecture": {"factors": [8, 8]}}, "/architecture/factors", "the list contains 8 more than once"),
    ({"architecture": {"factors": [8, 0]}}, "/architecture/factors/1", "greater than or equal to 1; got 0"),
    ({"architecture": {"factors": [8, 2.5]}}, "/architecture/factors/1", "got 2.5"),
    ({"architecture": {"generator_units": [3000]}}, "/architecture/generator_units/0", "less than or equal to 2048; got 3000"),
    ({"architecture": {"controller_units": [0, 8], "inferred_inputs": 1}}, "/architecture/controller_units/0", "to 1; got 0"),
    ({"architecture": {"controller_units": [4, 8]}}, "/architecture", "controller_units is [4, 8] and inferred_inputs is 0"),
    ({"architecture": {"controller_lag_bins": [1, 2]}}, "/architecture/controller_lag_bins", "got a list"),
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
    ({"strategy": "pbt"}, "/strategy", "expected an object; got 'pbt'"),
    ({"strategy": {}}, "/strategy/kind", "expected a value; got none"),
    ({"strategy": {"kind": "bayes"}}, "/strategy/kind", "'asha', 'hyperband', 'pbt'; got 'bayes'"),
    ({"strategy": {"kind": "random", "points": 3}}, "/strategy/points", "there is no such field"),
    ({"strategy": {"kind": "grid", "points": 1}}, "/strategy/points", "greater than or equal to 2; got 1"),
    ({"strategy": {"kind": "asha", "sampler": {"kind": "pbt"}}}, "/strategy/sampler/kind", "'gp', 'cmaes'; got 'pbt'"),
    ({"strategy": {"kind": "asha", "sampler": {"kind": "gp", "startup_models": 0}}}, "/strategy/sampler/startup_models", "got 0"),
    ({"strategy": {"kind": "pbt", "perturbation": {"dropout": 1}}}, "/strategy/perturbation/dropout", "less than 1; got 1"),
    ({"strategy": {"kind": "pbt", "start": {"speed": 1}}}, "/strategy/start/speed", "should be 'learning_rate', 'dropout'"),
    ({"strategy": {"kind": "pbt", "start": {"cd_rate": 0.9}}}, "/strategy/start/cd_rate", "0.01 … 0.7; got 0.9"),
    (bounded(kl_weight_initial_condition=(1e-6, 1e-4)), "/strategy/bounds/kl_weight_initial_condition", "1e-06 … 0.001; got"),
    (bounded(kl_weight_initial_condition=(1e-5, 1e-2)), "/strategy/bounds/kl_weight_initial_condition", "contain the range"),
    (bounded(l2_weight_generator=(0, 1e4)), "/strategy/bounds/l2_weight_generator", "within 0 … 1000"),
    (bounded(kl_weight_inputs=(0, 1)), "/strategy/bounds/kl_weight_inputs", "that this job draws from a range"),
    (bounded(dropout=(0, 0.9)), "/strategy/bounds/dropout", "of strategy.unbounded: others never leave"),
    (bounded(cd_pass_rate=(0, 0.9)), "/strategy/bounds/cd_pass_rate", "that this job draws from a range"),
    (bounded(speed=(0, 1)), "/strategy/bounds/speed", "should be 'learning_rate', 'dropout'"),
    (bounded(l2_weight_generator=(2, 1)), "/strategy/bounds/l2_weight_generator", "low must not be above high"),
    ({"strategy": STARTED, "space": {"cd_rate": 0.4}}, "/strategy/start/cd_rate", "0.4, to which"),
    ({"strategy": STARTED, "space": {"cd_rate": [0.4]}}, "/strategy/start/cd_rate", "one of the list"),
    ({"preset": "fast"}, "/preset", "should be 'quick', 'paper-2019' or 'autolfads'; got 'fast'"),
    ({"preset": "quick", "budget": {"models": 0}}, "/budget/models", "greater than or equal to 1; got 0"),
    ({"preset": "quick", "strategy": 5}, "/strategy", "expected an object; got 5"),
    ({"priority": 11}, "/priority", "less than or equal to 10; got 11"),
    ({"warm_start": {}}, "/warm_start/job_id", "expected a value; got none"),
    ({"inference": {"arrays": ["rates", "rates"]}}, "/inference", "arrays contains a name more than once"),
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


@pytest.mark.parametrize(
    ("path", "change", "meant"),
    [
        ("/v1/jobs", {"budgets": {}}, "budget"),
        ("/v1/jobs", {"budget": {"model": 3}}, "models"),
        ("/v1/jobs", {"space": {"learning_rate": {"low": 1e-3, "high": 2e-3, "scales": "log"}}}, "scale"),
        ("/v1/jobs", {"strategy": {"kind": "pbt", "generation_epoch": 3}}, "generation_epochs"),
        ("/v1/datasets:synthesize", {"system": "lorenz", "condition": 3}, "conditions"),
        ("/v1/datasets", {"upload_id": "x", "options": {"bin_width": 0.02}}, "bin_width_s"),
        ("/v1/datasets", {"upload_id": "x", "options": {"trials": {"window": [0, 1]}}}, "window_s"),
    ],
)
def test_the_field_that_was_meant_is_named(
    reader: TestClient, example: Example, path: str, change: dict[str, Any], meant: str
) -> None:
    named = {"dataset_id": example.dataset_id} if path == "/v1/jobs" else {}
    problem = reader.post(path, json=named | change).json()
    [hint] = [error["hint"] for error in problem["errors"] if error["code"] == "extra_forbidden"]
    assert hint.startswith(f"did you mean {meant}? ")


def test_every_mistake_is_told_at_once(reader: TestClient) -> None:
    body = {"space": {"cd_rate": 2, "dropout": "x"}, "budget": {"models": 0}, "nmae": "x"}
    answer = reader.post("/v1/jobs", json=body)
    pointers = [error["pointer"] for error in answer.json()["errors"]]
    assert sorted(pointers) == ["/budget/models", "/dataset_id", "/nmae", "/space/cd_rate", "/space/dropout"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "expected a value; got none"),
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
    assert f"is {state}; expected one that is ready" in answer.json()["detail"]
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


def test_trials_are_split_once(
    client: TestClient, dataset_id: str, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    """A page previews a job at every change; thousands of trials must not be read and split each time."""
    splits: list[Any] = []
    split = JobData.of

    def counted(*given: Any) -> JobData:
        splits.append(given)
        return split(*given)

    monkeypatch.setattr(JobData, "of", counted)
    body: dict[str, Any] = {"dataset_id": dataset_id}
    for budget in ({"models": 3}, {"models": 1000}, {"epochs": 70}):
        answer = client.post("/v1/jobs?validate_only=true", json={**body, "budget": budget})
        assert (answer.status_code, answer.json()["training_trials"]) == (200, 16)
    assert client.post("/v1/jobs", json=body).status_code == 202
    assert len(splits) == 1
    other = {**body, "training": {"valid_fraction": 0.5}}
    assert client.post("/v1/jobs?validate_only=true", json=other).json()["training_trials"] == 10
    assert len(splits) == 2
    with database.write() as session:
        session.get_one(Dataset, dataset_id).state = DatasetState.DELETING
    assert forget_deleted(database) >= 2
    assert client.post("/v1/jobs?validate_only=true", json=body).status_code == 404
