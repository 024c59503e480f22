"""What a search did and found: decisions, lineage and its picture, importance."""

import math
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from domain.states import JobState, ModelState
from store.database import Database
from store.tables import Job
from tests.api.api_examples import (
    PROBLEM,
    Example,
    add_dataset,
    add_decision,
    add_job,
    add_model,
    add_population,
)

SVG = "{http://www.w3.org/2000/svg}"
NO_JOB = "job_" + 24 * "0"


@pytest.fixture
def population_id(database: Database) -> str:
    with database.write() as session:
        return add_population(session, add_dataset(session))


@pytest.fixture
def light_population_id(sqlite_database: Database, light_dataset_id: str) -> str:
    with sqlite_database.write() as session:
        return add_population(session, light_dataset_id)


@pytest.mark.parametrize("name", ["decisions", "lineage", "lineage.svg", "importance"])
def test_another_tenant_s_search_is_not_found(reader: TestClient, example: Example, name: str) -> None:
    for job_id in (example.other_job_id, NO_JOB, "x"):
        answer = reader.get(f"/v1/jobs/{job_id}/{name}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    assert reader.get(f"/v1/jobs/{example.job_id}/{name}").status_code == 200


def test_decisions_are_paged_in_order(client: TestClient, database: Database, population_id: str) -> None:
    with database.write() as session:
        add_population(session, add_dataset(session))  # whose decisions are none of ours
    found: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {"page_size": 4}
    while True:
        page = client.get(f"/v1/jobs/{population_id}/decisions", params=parameters).json()
        found += page["items"]
        if page["next_page_token"] is None:
            break
        parameters["page_token"] = page["next_page_token"]
    assert [(one["model_number"], one["kind"], one["epoch"]) for one in found] == [
        (0, "begin", 0), (1, "begin", 0), (2, "begin", 0), (0, "copy", 10), (1, "continue", 10), (2, "copy", 10),
        (0, "continue", 20), (1, "copy", 20), (2, "continue", 20),
    ]  # fmt: skip
    assert found[3]["parent_number"] == 1
    assert found[3]["reason"] == "lost: 3 against 2"
    assert found[5]["hyperparameters"] == {"learning_rate": 0.0011, "dropout": 0.1}
    bad = client.get(f"/v1/jobs/{population_id}/decisions?page_token=x")
    assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (422, "page_token")


def parts_of(lineage: dict[str, Any]) -> list[tuple[int, int, int]]:
    return [(one["model_number"], one["from_epoch"], one["to_epoch"]) for one in lineage["segments"]]


def test_lineage_follows_copies_back(client: TestClient, population_id: str) -> None:
    """The best model is 2, which copied 0 at epoch 10: 0 as it was before it copied 1 at that epoch."""
    lineage = client.get(f"/v1/jobs/{population_id}/lineage").json()
    assert (lineage["model_number"], lineage["is_selected"], lineage["epochs"]) == (2, False, 30)
    assert lineage["smoothed_sv_loss"] == pytest.approx(0.7)
    assert parts_of(lineage) == [(0, 0, 10), (2, 10, 30)]
    first, second = lineage["segments"]
    assert (first["changes"], first["reason"]) == ({}, "drawn at random")
    assert first["hyperparameters"] == {"learning_rate": 0.001}
    assert second["changes"] == {"learning_rate": [0.001, 0.0011], "dropout": [None, 0.1]}
    assert second["reason"] == "lost: 4 against 3"


@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (0, [(1, 0, 10), (0, 10, 30)]),
        (1, [(0, 0, 10), (2, 10, 20), (1, 20, 30)]),
        (2, [(0, 0, 10), (2, 10, 30)]),
    ],
)
def test_lineage_of_any_model(
    light_client: TestClient, light_population_id: str, number: int, parts: list[tuple[int, int, int]]
) -> None:
    lineage = light_client.get(f"/v1/jobs/{light_population_id}/lineage", params={"model": number}).json()
    assert (lineage["model_number"], parts_of(lineage)) == (number, parts)


def test_lineage_of_the_selected_model(
    light_client: TestClient, sqlite_database: Database, light_population_id: str
) -> None:
    models = light_client.get(f"/v1/jobs/{light_population_id}/models").json()["items"]
    with sqlite_database.write() as session:
        session.get_one(Job, light_population_id).selected_model_id = models[1]["id"]
    lineage = light_client.get(f"/v1/jobs/{light_population_id}/lineage").json()
    assert (lineage["model_id"], lineage["is_selected"]) == (models[1]["id"], True)


@pytest.mark.parametrize("path", ["lineage", "lineage.svg"])
def test_no_lineage_without_a_model(
    light_client: TestClient,
    sqlite_database: Database,
    light_dataset_id: str,
    light_population_id: str,
    path: str,
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id)
        add_model(session, job_id, state=ModelState.QUEUED)
    answer = light_client.get(f"/v1/jobs/{job_id}/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
    assert f"the job {job_id} is running and none of its models has trained" in answer.json()["detail"]
    answer = light_client.get(f"/v1/jobs/{light_population_id}/{path}?model=3")
    assert (answer.status_code, answer.json()["detail"]) == (
        404,
        f"the job {light_population_id} has no model 3",
    )
    for number in ("-1", "x", 2**31):
        answer = light_client.get(f"/v1/jobs/{light_population_id}/{path}", params={"model": number})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "model")


def test_lineage_of_a_job_without_decisions(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id)
        add_model(session, job_id, losses=(1.0, 0.5))
    lineage = light_client.get(f"/v1/jobs/{job_id}/lineage").json()
    assert parts_of(lineage) == [(0, 0, 2)]
    assert light_client.get(f"/v1/jobs/{job_id}/lineage.svg").status_code == 200


def add_copies(session: Session, dataset_id: str) -> str:
    """Models 0 and 2 hold weights that model 1 trained in epoch 8 of its first segment; since then model 1 has copied model 3."""
    job_id = add_job(
        session, dataset_id, state=JobState.DONE, strategy={"kind": "pbt"}, budget={"models": 4, "epochs": 30}
    )
    for number in range(4):
        add_decision(session, job_id, number, "begin", 0, learning_rate=(1 + number) / 1000)
    add_decision(session, job_id, 0, "copy", 10, parent=1, learning_rate=0.0021)
    add_decision(session, job_id, 1, "continue", 10, learning_rate=0.002)
    add_decision(session, job_id, 2, "copy", 10, parent=1, learning_rate=0.0022)
    add_decision(session, job_id, 1, "copy", 20, parent=0, learning_rate=0.0023)
    for number, rate in enumerate((0.0021, 0.0023, 0.0022, 0.004)):
        row = {"hyperparameters": {"learning_rate": rate}, "state": ModelState.TRAINED, "checkpoint_key": "k"}
        if number < 3:
            row |= {
                "trained_by": 1,
                "best_hyperparameters": {"learning_rate": 0.002},
                "smoothed_sv_loss": 0.5,
            }
            scores = {"smoothed_sv_loss": 0.5, "best_epoch": 8, "own_smoothed_sv_loss": 0.6 + number / 100}
        else:
            row |= {
                "trained_by": 3,
                "best_hyperparameters": {"learning_rate": 0.004},
                "smoothed_sv_loss": 0.7,
            }
            scores = {"smoothed_sv_loss": 0.7, "best_epoch": 30, "own_smoothed_sv_loss": 0.7}
        lower = 0.45 if number == 3 else 0.9  # that model 3 had once, and gave up by copying
        add_model(session, job_id, number, losses=(lower,) * 29 + (0.9,), scores=scores, **row)  # type: ignore[arg-type]
    return job_id


def test_models_that_hold_the_same_weights(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        job_id = add_copies(session, light_dataset_id)
    models = light_client.get(f"/v1/jobs/{job_id}/models").json()["items"]
    assert [model["trained_by"] for model in models] == [1, 1, 1, 3]
    assert [model["hyperparameters"] for model in models] == [{"learning_rate": 0.002}] * 3 + [
        {"learning_rate": 0.004}
    ]
    assert [model["present_hyperparameters"]["learning_rate"] for model in models] == [
        0.0021,
        0.0023,
        0.0022,
        0.004,
    ]
    assert [model["scores"]["own_smoothed_sv_loss"] for model in models] == [0.6, 0.61, 0.62, 0.7]
    card = light_client.get(f"/v1/models/{models[2]['id']}/card").json()
    assert (card["hyperparameters"], card["trained_by"]) == ({"learning_rate": 0.002}, 1)
    progress = light_client.get(f"/v1/jobs/{job_id}").json()["progress"]
    assert (progress["best_smoothed_sv_loss"], progress["best_model_id"]) == (0.5, models[1]["id"])
    lineage = light_client.get(f"/v1/jobs/{job_id}/lineage").json()  # of the best so far
    assert (lineage["model_number"], lineage["best_epoch"]) == (1, 8)
    assert parts_of(lineage) == [(1, 0, 10), (0, 10, 20), (1, 20, 30)]
    assert [segment["has_best_epoch"] for segment in lineage["segments"]] == [True, False, False]
    assert lineage["segments"][0]["hyperparameters"] == models[1]["hyperparameters"]


def test_progress_knows_the_epochs_of_a_slice_under_way(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id)
        add_model(session, job_id, 0, losses=(1.0, 0.5))
        ahead = {"epochs_trained": 1, "smoothed_sv_loss": 0.9}
        best = add_model(session, job_id, 1, losses=(0.9, 0.4), **ahead)
    progress = light_client.get(f"/v1/jobs/{job_id}").json()["progress"]
    assert (progress["best_smoothed_sv_loss"], progress["best_model_id"]) == (0.4, best)


def picture(client: TestClient, job_id: str, **parameters: Any) -> ElementTree.Element:
    answer = client.get(f"/v1/jobs/{job_id}/lineage.svg", params=parameters)
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "image/svg+xml")
    return ElementTree.fromstring(answer.content)


def of_kind(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Return the paths of a group that say what they mean."""
    (group,) = (one for one in root.iter(f"{SVG}g") if one.get("id") == name)
    return [one for one in group.iter(f"{SVG}path") if one.find(f"{SVG}title") is not None]


def corners(path: ElementTree.Element) -> list[tuple[float, float]]:
    numbers = [float(word) for word in (path.get("d") or "").split() if word not in "ML"]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def told(element: ElementTree.Element) -> str:
    return element.findtext(f"{SVG}title") or ""


def test_picture_shows_models_copies_and_the_lineage(client: TestClient, population_id: str) -> None:
    root = picture(client, population_id, model=1)
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert {"0", "1", "2", "epoch", "model", "10", "20", "30", "trains", "lineage of model 1"} <= set(texts)
    assert told(root) == f"Lineage of the model 1 of {population_id}"
    assert [told(one).split("\n") for one in of_kind(root, "copies")] == [
        ["epoch 10: model 0 copies model 1", "lost: 3 against 2", "learning_rate: 0.002 → 0.0021"],
        ["epoch 10: model 2 copies model 0", "lost: 4 against 3", "learning_rate: 0.001 → 0.0011", "dropout: none → 0.1"],
        ["epoch 20: model 1 copies model 2", "lost: 2 < 3 & <more>", "learning_rate: 0.0011 → 0.0012", "dropout: 0.1 → none"],
    ]  # fmt: skip
    lineage = of_kind(root, "lineage")
    assert [len(corners(one)) for one in lineage] == [2, 5, 2, 5, 2]  # lines, and arrows with their heads
    across = [corners(one) for one in lineage[::2]]
    # each begins where the one before ended, a row for each model
    assert [one[0][0] for one in across[1:]] == [one[1][0] for one in across[:-1]]
    assert all(start[1] == end[1] for start, end in across)
    assert len({start[1] for start, _ in across}) == 3


def test_picture_tells_how_models_ended(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=JobState.DONE, name="<b>&\x01")
        for number, state in enumerate(ModelState):
            losses = () if state == ModelState.QUEUED else (1.0, 0.5 + number)
            add_model(session, job_id, number, state=state, losses=losses, end_reason="a < b\x02")
    root = picture(light_client, job_id)
    lines = [told(one) for one in of_kind(root, "models")]
    assert lines[1:3] == [
        "model 2: trained, 2 epochs, lowest smoothed SV loss 1\na < b",
        "model 3: stopped early, 2 epochs, lowest smoothed SV loss 1\na < b",
    ]
    assert len(lines) == len(ModelState) - 1  # what waits has no line
    texts = {one.text for one in root.iter(f"{SVG}text")}
    assert any((text or "").endswith(" of <b>&") for text in texts)
    assert {"trained", "stopped early", "diverged", "failed", "cancelled", "waits", "trains"} <= texts


@pytest.mark.parametrize(("models", "epochs"), [(1, 1), (3, 7), (200, 1000)])
def test_picture_of_any_size(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, models: int, epochs: int
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id)
        for number in range(models):
            add_model(session, job_id, number, losses=(1.0,), epochs_trained=epochs)
    root = picture(light_client, job_id)
    width, height = (float(size) for size in (root.get("viewBox") or "").split()[2:])
    lines = of_kind(root, "models")
    assert len(lines) == models
    for x, y in (corner for line in lines for corner in corners(line)):
        assert 0 <= x <= width
        assert 0 <= y <= height
    labels = [one.text for one in root.iter(f"{SVG}text")]
    ticks = labels[: labels.index("epoch")]
    assert 2 <= len(ticks) <= 11
    assert {"0", str(epochs)} <= set(ticks)


def add_models(
    session: Session, job_id: str, number: int, loss_of: Callable[[dict[str, float]], float]
) -> None:
    """Models drawn from ranges of learning rate (log) and dropout, with one of two sizes."""
    random = np.random.default_rng(0)
    for index in range(number):
        values = {
            "learning_rate": float(10 ** random.uniform(-3, math.log10(5e-3))),
            "dropout": float(random.uniform(0, 0.6)),
        }
        factors = int(random.choice([4, 8]))
        loss = loss_of(values | {"factors": factors})
        add_model(
            session, job_id, index, losses=(loss,), hyperparameters=values, architecture={"factors": factors}
        )


SEARCHED = {
    "space": {"cd_rate": 0.5, "kl_weight_initial_condition": 1e-4, "l2_weight_generator": [0.1]},
    "architecture": {"factors": [4, 8]},
}


def importance_of(
    client: TestClient,
    database: Database,
    dataset_id: str,
    models: int,
    loss_of: Callable[..., float],
    **body: Any,
) -> dict[str, Any]:
    with database.write() as session:
        job_id = add_job(session, dataset_id, **(SEARCHED | body))
        add_models(session, job_id, models, loss_of)
        add_model(session, job_id, models, state=ModelState.DIVERGED)  # without a loss
        add_model(session, job_id, models + 1, losses=(0.01,), refit_of=0)
    answer = client.get(f"/v1/jobs/{job_id}/importance")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    assert found["observations"] == models
    return found


@pytest.mark.parametrize("matters", ["learning_rate", "dropout", "factors"])
def test_what_matters_is_found(client: TestClient, database: Database, dataset_id: str, matters: str) -> None:
    middle = {"learning_rate": 1e-3, "dropout": 0.6, "factors": 4.0}
    found = importance_of(client, database, dataset_id, 40, lambda of: 1 + abs(of[matters] - middle[matters]))
    assert found["measure"] == "lowest_smoothed_sv_loss"
    assert {one["name"]: one["p_value"] for one in found["dimensions"]}[matters] == 0.002
    shares = {one["name"]: one["importance"] for one in found["dimensions"]}
    assert set(shares) == set(middle)  # what is fixed has no part
    assert list(shares) == sorted(shares, key=lambda name: -shares[name])
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[matters] > 0.7
    assert found["note"] is None


def test_marginals(client: TestClient, database: Database, dataset_id: str) -> None:
    found = importance_of(client, database, dataset_id, 30, lambda of: of["dropout"])
    by_name = {one["name"]: one for one in found["dimensions"]}
    assert {name: one["scale"] for name, one in by_name.items()} == {
        "learning_rate": "log", "dropout": "uniform", "factors": "choices",
    }  # fmt: skip
    for one in by_name.values():
        assert sum(part["observations"] for part in one["marginals"]) == 30
    parts = by_name["dropout"]["marginals"]
    assert [part["low"] for part in parts] == pytest.approx(np.linspace(0, 0.5, 6))
    assert [part["high"] for part in parts] == pytest.approx(np.linspace(0.1, 0.6, 6))
    for part in parts:
        assert part["low"] <= part["lowest"] <= part["median"] < part["high"]
    parts = by_name["learning_rate"]["marginals"]
    assert (parts[0]["low"], parts[-1]["high"]) == (1e-3, 5e-3)
    assert parts[0]["high"] / parts[0]["low"] == pytest.approx(5 ** (1 / 6))
    assert [(part["low"], part["high"]) for part in by_name["factors"]["marginals"]] == [(4, 4), (8, 8)]


@pytest.mark.parametrize("models", [0, 1, 9])
def test_few_models_have_no_importances(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, models: int
) -> None:
    found = importance_of(light_client, sqlite_database, light_dataset_id, models, lambda of: of["dropout"])
    assert [one["importance"] for one in found["dimensions"]] == [None] * 3
    assert found["note"] == f"Importances need 10 models of the space with a loss; there are {models} so far."
    empty = [part for part in found["dimensions"][1]["marginals"] if part["observations"] == 0]
    assert all(part["median"] is None for part in empty)


@pytest.mark.parametrize(
    ("models", "loss_of", "body", "says"),
    [
        (10, lambda of: of["dropout"], {}, "only 10 models"),
        (30, lambda of: 1.0, {}, "All models have the same loss"),
        (30, lambda of: of["dropout"], {"strategy": {"kind": "asha"}}, "Models that were stopped early"),
        (
            30,
            lambda of: of["dropout"],
            {"strategy": {"kind": "hyperband"}},
            "Models that were stopped early",
        ),
    ],
)
def test_what_to_know_of_importances(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, models: int,
    loss_of: Callable[..., float], body: dict[str, Any], says: str,
) -> None:  # fmt: skip
    found = importance_of(light_client, sqlite_database, light_dataset_id, models, loss_of, **body)
    assert says in found["note"]
    shares = [one["importance"] for one in found["dimensions"]]
    assert sum(shares) == pytest.approx(0 if "same loss" in says else 1)


def test_segments_of_a_population_are_compared_by_their_places(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    """Model 2 copies model 0 at epoch 2. Places by hand: the line of the second generation has a slope of 0.275."""
    body: dict[str, Any] = {"strategy": {"kind": "pbt"}, "budget": {"models": 4, "epochs": 4}}
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, **(SEARCHED | body))
        for number, rate in enumerate((1.1e-3, 1.2e-3, 2e-3, 4e-3)):
            of_model = {"learning_rate": rate, "dropout": 0.1, "factors": 4.0}
            add_decision(session, job_id, number, "begin", 0, **of_model)
        for number, (kind, latest, rate) in enumerate(
            [
                ("continue", 1.0, 1.1e-3),
                ("continue", 2.0, 1.2e-3),
                ("copy", 3.0, 4e-3),
                ("continue", 2.0, 4e-3),
            ]
        ):
            of_model = {"learning_rate": rate, "dropout": 0.1, "factors": 4.0}
            parent = 0 if kind == "copy" else None
            add_decision(session, job_id, number, kind, 2, parent=parent, latest=latest, **of_model)
        for number, latest in enumerate((0.95, 1.1, 0.8, 1.2)):
            add_model(session, job_id, number, losses=(9.0, 9.0, 9.0, latest))
        add_model(session, job_id, 1000, losses=(0.1,) * 4, refit_of=0)
        add_decision(session, job_id, 1000, "begin", 0, learning_rate=1e-3)
    found = light_client.get(f"/v1/jobs/{job_id}/importance").json()
    assert (found["measure"], found["observations"]) == ("place_in_generation", 5)
    [parts] = [one["marginals"] for one in found["dimensions"] if one["name"] == "learning_rate"]
    # model 0: 0 and 1; model 1: 1/2 and 1/3; model 2: 1, then as a copy 0; model 3: 1/2 and 2/3
    assert [part["observations"] for part in parts] == [2, 1, 2]
    assert [part["median"] for part in parts] == pytest.approx([11 / 24, 1, 7 / 24])
    assert [part["lowest"] for part in parts] == pytest.approx([5 / 12, 1, 0])
    assert "Importances need 10 segments" in found["note"]
    assert "With pbt, segments are compared" in found["note"]


@pytest.mark.parametrize(("matters", "most"), [("dropout", 0.005), (None, 1.0)])
def test_p_values_tell_a_difference_from_chance(
    light_client: TestClient,
    sqlite_database: Database,
    light_dataset_id: str,
    matters: str | None,
    most: float,
) -> None:
    """Against the test of Kruskal and Wallis by its limiting distribution."""
    from scipy.stats import kruskal

    random = np.random.default_rng(3)
    loss_of = lambda of: float(random.normal()) if matters is None else of[matters]  # noqa: E731
    found = importance_of(light_client, sqlite_database, light_dataset_id, 60, loss_of)
    by_name = {one["name"]: one["p_value"] for one in found["dimensions"]}
    assert by_name["dropout"] <= most
    models = light_client.get(f"/v1/jobs/{found['job_id']}/models").json()["items"][:60]
    groups: dict[float, list[float]] = {}
    for model in models:
        groups.setdefault(model["architecture"]["factors"], []).append(model["scores"]["sv_loss"])
    assert by_name["factors"] == pytest.approx(kruskal(*groups.values()).pvalue, abs=0.06)


def test_models_outside_the_space(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    """Perturbed out of their range, they count in its outermost parts, and not in the importances."""
    space = {"learning_rate": {"low": 1e-3, "high": 5e-3, "scale": "log"}}
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, **(SEARCHED | {"space": SEARCHED["space"] | space}))
        add_models(session, job_id, 20, lambda of: of["dropout"])
        for number, rate in ((20, 0.0), (21, 0.5)):
            values = {"learning_rate": rate, "dropout": 0.3}
            add_model(
                session, job_id, number, losses=(5.0,), hyperparameters=values, architecture={"factors": 4}
            )
    found = light_client.get(f"/v1/jobs/{job_id}/importance").json()
    assert "2 of 22 models lie outside the space" in found["note"]
    [parts] = [one["marginals"] for one in found["dimensions"] if one["name"] == "learning_rate"]
    assert sum(part["observations"] for part in parts) == 22


def test_nothing_is_searched(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    space = {
        "learning_rate": 0.003, "dropout": 0.1, "cd_rate": 0.5, "kl_weight_initial_condition": 1e-4,
        "l2_weight_generator": 0.1,
    }  # fmt: skip
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, space=space)
        for number in range(5):
            add_model(session, job_id, number, losses=(1.0,), hyperparameters=space)
    found = light_client.get(f"/v1/jobs/{job_id}/importance").json()
    assert (found["dimensions"], found["observations"]) == ([], 5)
    assert found["note"].startswith("Nothing is searched")


def test_refit_is_not_the_best(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id)
        best = add_model(session, job_id, 0, losses=(1.0,))
        add_model(session, job_id, 1, losses=(0.1,), refit_of=0)
        add_decision(session, job_id, 0, "begin", 0)
    assert light_client.get(f"/v1/jobs/{job_id}/lineage").json()["model_id"] == best
    assert light_client.get(f"/v1/jobs/{job_id}").json()["progress"]["best_model_id"] == best
