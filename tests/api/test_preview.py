"""What a job would do and take, without doing it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.jobs import creation
from domain.estimate import expected_epochs
from domain.job_specification import JobSpecification
from domain.states import SliceState
from store.database import Database, database_now
from store.tables import Dataset, Event, IdempotentRequest, Job, OutboxMessage, Slice, Worker
from tests.api.api_examples import add_dataset, add_job, count
from worker.scheduling.strategies import Begin, Continue, End, Mark, ModelRecord, make_strategy

CONTROLLER = {"controller_units": 8, "inferred_inputs": 1}


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


def test_preview_makes_nothing(client: TestClient, database: Database, dataset_id: str) -> None:
    body = {
        "dataset_id": dataset_id, "budget": {"models": 3, "epochs": 80},
        "training": {"batch_size": 5, "ramp_epochs": 80, "decay_patience": 6}, "architecture": {"factors": 9},
    }  # fmt: skip
    answer = client.post("/v1/jobs?validate_only=true", json=body, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 200
    assert "Location" not in answer.headers
    preview = answer.json()
    assert (preview["valid"], preview["models"], preview["epochs"]) == (True, 3, 240)
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


UNTIL_05 = {"low": 0.0, "high": 0.5}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"space": {"cd_rate": 0}}, "space.cd_rate is 0, and there is a controller"),
        ({"space": {"cd_rate": [0, 0.005, 0.4]}}, "space.cd_rate is a list with 0 (2 of 3 values are below 0.01), and"),
        ({"space": {"cd_rate": UNTIL_05}}, "space.cd_rate is a range from 0 to 0.5, of which 2.0% is below 0.01, and there is"),
        (
            {"space": {"cd_rate": {"low": 0.001, "high": 0.1, "scale": "log"}}},
            "a range from 0.001 to 0.1, of which 50.0% is below 0.01",
        ),
        (
            {"space": {"cd_rate": UNTIL_05}, "strategy": {"kind": "pbt"}},
            "of which 2.0% is below 0.01; population-based training may lower it with every copy, down to 0, and there",
        ),
        (
            {"space": {"cd_rate": UNTIL_05}, "strategy": {"kind": "pbt", "explore": "resample"}},
            "of which 2.0% is below 0.01, and there",
        ),
        (
            {"space": {"cd_rate": UNTIL_05}, "strategy": {"kind": "pbt", "start": {"cd_rate": 0.3}}},
            "a range from 0 to 0.5; population-based training may lower it with every copy, down to 0, and there",
        ),
        (
            {"space": {"cd_rate": UNTIL_05}, "strategy": {"kind": "pbt", "start": {"cd_rate": 0}}},
            "strategy.start.cd_rate is 0, and there is a controller",
        ),
        (
            {"space": {"cd_rate": {"low": 0.2, "high": 0.5}}, "strategy": {"kind": "pbt", "unbounded": ["cd_rate"]}},
            "a range from 0.2 to 0.5; population-based training may lower it with every copy, and strategy.unbounded lets it",
        ),
        ({"space": {"cd_rate": 0.5, "cd_pass_rate": [0, 0.3]}}, "space.cd_pass_rate may be 0.3, and there is a controller"),
        ({"space": {"cd_rate": 0.01}}, None),
        ({"space": {"cd_rate": {"low": 0.01, "high": 0.7}}, "strategy": {"kind": "pbt"}}, None),
        ({}, None),
        ({"space": {"cd_rate": 0}, "architecture": {"controller_units": 0, "inferred_inputs": 0}}, None),
    ],
)  # fmt: skip
def test_settings_with_which_a_controller_leaks_are_told(
    light_client: TestClient, light_dataset_id: str, body: dict[str, Any], said: str | None
) -> None:
    body = {"dataset_id": light_dataset_id, "architecture": CONTROLLER, **body}
    answer = light_client.post("/v1/jobs?validate_only=true", json=body)
    assert answer.status_code == 200, answer.text
    found = [
        text for text in answer.json()["warnings"] if "controller:" in text or "there is a controller" in text
    ]
    if said is None:
        assert found == []
        return
    assert len(found) == 1
    assert said in found[0]
    assert (
        "cd_rate a value, or a range that begins, at 0.2 or more" in found[0]
    ) or "0 is the published value" in found[0]
    job = light_client.post("/v1/jobs", json=body)
    assert found[0] in job.json()["warnings"]


@pytest.mark.parametrize("preset", ["quick", "paper-2019", "autolfads"])
def test_no_preset_leaks(light_client: TestClient, light_dataset_id: str, preset: str) -> None:
    answer = light_client.post(
        "/v1/jobs?validate_only=true", json={"dataset_id": light_dataset_id, "preset": preset}
    )
    assert not [text for text in answer.json()["warnings"] if "controller" in text]


def test_a_preview_and_a_creation_check_once_and_agree(
    light_client: TestClient, light_dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both read, check once, and then preview or write what was checked."""
    checked: list[creation.CheckedJob] = []

    def check(*arguments: Any, **options: Any) -> creation.CheckedJob:
        checked.append(real(*arguments, **options))
        return checked[-1]

    real = creation.check
    monkeypatch.setattr(creation, "check", check)
    body = {"dataset_id": light_dataset_id, "preset": "quick", "training": {"ramp_epochs": 500}}
    preview = light_client.post("/v1/jobs?validate_only=true", json=body).json()
    job = light_client.post("/v1/jobs", json=body).json()
    assert len(checked) == 2
    assert checked[0].specification == checked[1].specification
    assert preview["specification"] == job["specification"]
    assert preview["warnings"] == job["warnings"] != []
    assert preview["scored_on"] == job["scored_on"]


def test_warnings_stay_with_the_job(client: TestClient, dataset_id: str) -> None:
    body = {
        "dataset_id": dataset_id, "budget": {"models": 1, "epochs": 80},
        "training": {"batch_size": 4, "ramp_epochs": 80}, "architecture": {"factors": 3},
    }  # fmt: skip
    job = client.post("/v1/jobs", json=body).json()
    [warning] = job["warnings"]
    assert "budget.epochs is 80 and training.ramp_epochs is 80" in warning
    assert client.get(job["links"]["self"]).json()["warnings"] == [warning]


def previewed(client: TestClient, dataset_id: str, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs?validate_only=true", json={"dataset_id": dataset_id, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    ("kind", "models", "epochs"),
    [
        ("random", 27, 27 * 90),
        ("pbt", 27, 27 * 90),
        ("asha", 27, 27 * 10 + 9 * 20 + 3 * 60),
        ("asha", 2, 2 * 10 + 1 * 20 + 1 * 60),
        # One turn: 9 models from the first rung, 5 from the second, 3 whole; then one of the next turn, alone to the end.
        ("hyperband", 17, 9 * 10 + 3 * 20 + 1 * 60 + 5 * 30 + 1 * 60 + 3 * 90),
        ("hyperband", 18, 9 * 10 + 3 * 20 + 1 * 60 + 5 * 30 + 1 * 60 + 3 * 90 + 90),
        ("hyperband", 10, 9 * 10 + 3 * 20 + 1 * 60 + 90),
    ],
)
def test_epochs_of_a_search(
    light_client: TestClient, light_dataset_id: str, kind: str, models: int, epochs: int
) -> None:
    strategy = {"kind": kind} | ({"first_rung_epochs": 10} if kind in ("asha", "hyperband") else {})
    budget = {"models": models, "epochs": 90}
    found = previewed(light_client, light_dataset_id, strategy=strategy, budget=budget)
    assert (found["models"], found["epochs"]) == (models, epochs)


@pytest.mark.parametrize("models", [1, 8, 17, 40])
def test_hyperband_trains_as_many_epochs_as_previewed(models: int) -> None:
    specification = JobSpecification(
        dataset_id="dat",
        strategy={"kind": "hyperband", "first_rung_epochs": 7},
        budget={"models": models, "epochs": 100},
    )
    strategy = make_strategy(specification)
    records: dict[int, ModelRecord] = {}
    while decisions := strategy.decide([records[number] for number in sorted(records)]):
        for one in decisions:
            known = records.get(one.number)
            if isinstance(one, End):
                assert known is not None
                records[one.number] = replace(known, is_final=True)
                continue
            assert isinstance(one, Begin | Continue)
            end = one.target_epochs
            marks = [*(known.marks if known else ()), Mark(end, 1.0 + one.number, 1.0)]
            records[one.number] = ModelRecord(
                one.number, {}, end, 1.0 + one.number, end >= 100, end, 1.0 + one.number, marks
            )
    assert sum(record.epochs_trained for record in records.values()) == expected_epochs(specification)


def test_seconds_are_assumed_until_there_is_a_measurement(
    client: TestClient, database: Database, dataset_id: str
) -> None:
    body: dict[str, Any] = {"budget": {"models": 4, "epochs": 50}, "training": {"batch_size": 64}}
    assumed = previewed(client, dataset_id, **body)
    assert (assumed["seconds_basis"], assumed["workers"], assumed["packs"]) == ("assumed", 1, 1)
    latents = assumed["seconds"] - assumed["device_seconds"]  # what follows the training
    assert latents == pytest.approx(1, abs=0.2)
    assert assumed["device_seconds"] > 0
    assert assumed["slices"] >= 2
    # Two models trained 10 epochs in 5 s, which is slow for such small ones.
    with database.write() as session:
        job_id = add_job(session, dataset_id, **body)
        for number, (state, seconds) in enumerate(
            [
                (SliceState.DONE, 5.0),
                (SliceState.DONE, 5.0),
                (SliceState.CANCELLED, 1e9),
                (SliceState.DONE, 0.0),
            ]
        ):
            session.add(
                Slice(
                    id=f"sli_{number}", tenant_id="default", job_id=job_id, kind="train", pack=0, model_ids=["a", "b"],
                    first_epoch=10, last_epoch=50, epochs_trained=20, device_seconds=seconds, state=state,
                )
            )  # fmt: skip
    measured = previewed(client, dataset_id, **body)
    assert measured["seconds_basis"] == "measured"
    assert 20 < measured["device_seconds"] < 60
    latents = measured["seconds"] - measured["device_seconds"]
    with database.write() as session:
        for name in ("one", "two", "three"):
            session.add(Worker(name=name, device="cpu", seen_at=database_now(session)))
        session.add(Worker(name="gone", device="cpu", seen_at=database_now(session) - timedelta(seconds=60)))
    shared = previewed(client, dataset_id, **body)
    assert (shared["workers"], shared["packs"]) == (3, 3)
    # The worker that has two of the four models takes longest: on average two workers train.
    assert shared["device_seconds"] == pytest.approx(2 * (shared["seconds"] - latents), abs=0.3)
    limited = previewed(client, dataset_id, budget={**body["budget"], "wall_seconds": 2})
    assert (limited["seconds"] - latents, limited["device_seconds"]) == pytest.approx((2, 4), abs=0.2)
    ramp = {"training": {"ramp_epochs": 40}}
    limited = previewed(client, dataset_id, budget={**body["budget"], "device_seconds": 6}, **ramp)
    assert (limited["seconds"] - latents, limited["device_seconds"]) == pytest.approx((3, 6), abs=0.2)
    assert any("budget.device_seconds is 6: about" in warning for warning in limited["warnings"])


def test_bytes_follow_from_the_largest_sizes(light_client: TestClient, light_dataset_id: str) -> None:
    def kept(**body: Any) -> tuple[int, int, int]:
        found = previewed(light_client, light_dataset_id, **body)
        return found["kept_bytes"], found["latents_bytes"], found["step_memory_bytes"]

    largest = kept(architecture={"generator_units": 200})
    assert kept(architecture={"generator_units": [50, 200, 100]}) == largest
    assert all(
        one < other for one, other in zip(kept(architecture={"generator_units": 100}), largest, strict=True)
    )
    # weights of top_k models alone are kept
    few, many = (kept(budget={"models": 8, "top_k": top_k})[0] for top_k in (1, 8))
    assert few < many
    assert kept(budget={"models": 8, "top_k": 500})[0] == many


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"strategy": {"kind": "pbt", "generation_epochs": 25}, "budget": {"epochs": 100}, "training": {"ramp_epochs": 80}},
         "no model copies another before epoch 105"),
        ({"strategy": {"kind": "pbt"}, "budget": {"models": 1}}, "a population of one has nothing to compare"),
        ({"strategy": {"kind": "grid"}, "budget": {"models": 4}}, "243 combinations; a random part of them is trained"),
        ({"strategy": {"kind": "grid", "points": 2}, "budget": {"models": 100}, "architecture": {"factors": [1, 2]}},
         "the grid has 64 combinations; all of them, and no other models, are trained"),
        ({"strategy": {"kind": "asha", "first_rung_epochs": 200}, "budget": {"epochs": 200}},
         "first_rung_epochs is not below budget.epochs"),
    ],
)  # fmt: skip
def test_searches_that_will_not_do_what_they_are_for(
    light_client: TestClient, light_dataset_id: str, body: dict[str, Any], says: str
) -> None:
    assert any(says in warning for warning in previewed(light_client, light_dataset_id, **body)["warnings"])


def test_a_preset_fills_in_what_is_not_given(light_client: TestClient, light_dataset_id: str) -> None:
    def specified(**body: Any) -> dict[str, Any]:
        found: dict[str, Any] = previewed(light_client, light_dataset_id, **body)["specification"]
        return found

    whole = specified(preset="autolfads")
    assert (whole["strategy"]["kind"], whole["budget"]["models"], whole["training"]["decay_factor"]) == (
        "pbt",
        20,
        1.0,
    )
    assert whole["strategy"]["start"] == {"learning_rate": 4e-3, "cd_rate": 0.5}
    own = specified(
        preset="autolfads", budget={"models": 5}, strategy={"generation_epochs": 10}, space={"dropout": 0.1}
    )
    assert (own["budget"]["models"], own["budget"]["epochs"]) == (5, 3000)  # of 2 steps each
    assert (own["strategy"]["kind"], own["strategy"]["generation_epochs"]) == ("pbt", 10)
    assert (own["space"]["dropout"], own["space"]["cd_rate"]) == (
        0.1,
        {"low": 0.01, "high": 0.7, "scale": "uniform"},
    )
    other = specified(preset="autolfads", strategy={"kind": "tpe"})
    assert other["strategy"] == {"kind": "tpe", "startup_models": 10, "models_at_once": 8}
    assert other["architecture"] == whole["architecture"]
    assert specified(preset="quick")["budget"]["models"] == 4
    assert specified(preset="paper-2019")["budget"]["patience_epochs"] == 500


@pytest.mark.parametrize("preset", ["quick", "paper-2019", "autolfads"])
def test_a_preset_alone_is_a_job(light_client: TestClient, light_dataset_id: str, preset: str) -> None:
    job = light_client.post("/v1/jobs", json={"dataset_id": light_dataset_id, "preset": preset})
    assert job.status_code == 202
    again = light_client.get(job.json()["links"]["self"]).json()
    assert again["specification"] == job.json()["specification"]


def test_a_preview_tells_test_trials(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        plain = add_dataset(session, splits=[None] * 50)
        brought = add_dataset(session, splits=[None] * 40 + ["test"] * 12)

    def preview(dataset_id: str, fraction: float) -> tuple[list[int], list[str]]:
        body = {"dataset_id": dataset_id, "training": {"test_fraction": fraction}}
        found = light_client.post("/v1/jobs?validate_only=true", json=body).json()
        numbers = [found[f"{part}_trials"] for part in ("training", "validation", "test")]
        return numbers, [text for text in found["warnings"] if "test" in text]

    assert preview(plain, 0) == ([40, 10, 0], [])
    assert preview(plain, 0.2) == ([30, 10, 10], [])
    numbers, [warning] = preview(plain, 0.1)
    assert numbers == [35, 10, 5]
    assert "there are 5 test trials: scores of fewer than 10 have large errors" in warning
    assert preview(brought, 0) == ([32, 8, 12], [])
    numbers, [warning] = preview(brought, 0.2)
    assert numbers == [32, 8, 12]
    assert "training.test_fraction is 0.2 and not used: the data set brings 12 test trials" in warning
