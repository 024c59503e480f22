"""Learning curves of all models of a job, and the small ones in the list of jobs."""

from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from domain.states import JobState, ModelState, SliceState
from store.database import Database
from store.identifiers import new_id
from store.tables import DEFAULT_TENANT, CurvePoint, Job, Model, RetentionProgress, Slice, Worker, utc_now
from tests.api.api_examples import add_dataset, add_job, add_model


def add_points(database: Database, model_id: str, epochs: Sequence[int]) -> None:
    with database.write() as session:
        session.add_all(
            CurvePoint(
                model_id=model_id,
                epoch=epoch,
                slice_id="sli",
                sv_loss=1 / epoch,
                validation_loss=float("nan"),
            )
            for epoch in epochs
        )


@pytest.fixture
def job_id(database: Database) -> str:
    """A job of three models: of 100 epochs with the best one at 33, of 7, and of none."""
    with database.write() as session:
        job_id = add_job(session, add_dataset(session))
        for number, epochs in enumerate((100, 7, 0)):
            model_id = add_model(
                session, job_id, number, losses=[1 / epoch for epoch in range(1, epochs + 1)]
            )
            if epochs == 100:
                session.get_one(Model, model_id).scores = {"best_epoch": 33}
    return job_id


def curves(client: TestClient, job_id: str, **query: Any) -> Any:
    answer = client.get(f"/v1/jobs/{job_id}/curves", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_curves_have_the_epochs_of_one_grid_and_their_ends(client: TestClient, job_id: str) -> None:
    whole = curves(client, job_id)
    assert whole["step"] == 1
    assert [one["epoch"] for one in whole["models"]] == [list(range(1, 101)), list(range(1, 8)), []]
    assert [one["number"] for one in whole["models"]] == [0, 1, 2]
    found = curves(client, job_id, points=10)
    assert found["step"] == 16
    first, second, third = found["models"]
    assert first["epoch"] == [1, 16, 32, 33, 48, 64, 80, 96, 100]
    assert second["epoch"] == [1, 7]
    assert first["sv_loss"] == [float(f"{1 / epoch:.6g}") for epoch in first["epoch"]]
    assert first["validation_loss"] == [None] * 9
    assert third == {"model_id": third["model_id"], "number": 2, "epoch": [], "sv_loss": [], "smoothed_sv_loss": [],
                     "validation_loss": [], "train_loss": []}  # fmt: skip


def test_later_points_alone(client: TestClient, database: Database, job_id: str) -> None:
    found = curves(client, job_id)
    assert found["next_after"] == "1x100-1x7-1x0"
    ids = [one["model_id"] for one in found["models"]]
    again = curves(client, job_id, after=found["next_after"])
    assert [one["epoch"] for one in again["models"]] == [[], [], []]
    add_points(database, ids[1], [8, 9])
    add_points(database, ids[2], [1])
    later = curves(client, job_id, after=found["next_after"])
    assert [one["epoch"] for one in later["models"]] == [[], [8, 9], [1]]
    assert curves(client, job_id, after="1x90")["models"][0]["epoch"] == list(range(91, 101))
    for wrong in ("x", "1x", "-1x5", "1x5-", "-".join(f"1x{epoch}" for epoch in range(40))):
        assert client.get(f"/v1/jobs/{job_id}/curves", params={"after": wrong}).status_code == 422


def test_an_entity_tag(client: TestClient, database: Database, job_id: str) -> None:
    path = f"/v1/jobs/{job_id}/curves"
    first = client.get(path)
    assert client.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    add_points(database, first.json()["models"][1]["model_id"], [8])
    assert client.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 200
    assert client.get(f"{path}?points=5").headers["ETag"] != client.get(path).headers["ETag"]


def test_tokens_stay_short_with_many_models(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session))
        for number in range(100):
            model_id = add_model(session, job_id, number)
            session.add_all(
                CurvePoint(model_id=model_id, epoch=epoch, slice_id="sli") for epoch in (1, 100 + number)
            )
    token = curves(light_client, job_id)["next_after"]
    assert len({part.split("x")[1] for part in token.split("-")}) <= 30
    later = curves(light_client, job_id, after=token)["models"]
    assert all(one["epoch"] in ([], [100 + one["number"]]) for one in later)


def test_thinned_curves_are_complete(client: TestClient, database: Database, job_id: str) -> None:
    with database.write() as session:
        job = session.get_one(Job, job_id)
        job.state, job.ended_at = JobState.DONE, utc_now()
        session.add(RetentionProgress(tenant_id=DEFAULT_TENANT, kind="curves", swept_until=utc_now()))
    found = curves(client, job_id, points=2)
    assert (found["step"], found["is_thinned"], len(found["models"][0]["epoch"])) == (1, True, 100)


def test_a_list_of_jobs_has_small_curves_and_devices_by_two_queries(
    client: TestClient, database: Database, job_id: str
) -> None:
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))

    def listed(query: str = "") -> tuple[list[Any], int]:
        statements.clear()
        return client.get(f"/v1/jobs{query}").json()["items"], len(statements)

    [job], without = listed()
    assert (job["curve"], job["running_on"]) == (None, [])
    [job], number = listed("?include=curve")
    assert number == without + 1
    assert job["curve"]["model_id"] == job["progress"]["best_model_id"]
    assert job["curve"]["epoch"] == [1, *range(4, 101, 4)]
    with database.write() as session:
        other = add_job(session, add_dataset(session))
        add_model(session, other, state=ModelState.TRAINED, losses=[1.0, None])
        session.add(Worker(name="gpu-box:1", device="cuda:0"))
        session.add(
            Slice(
                id=new_id("sli"), tenant_id=DEFAULT_TENANT, job_id=job_id, kind="train", pack=0, model_ids=["a", "b"],
                first_epoch=0, last_epoch=5, state=SliceState.LEASED, leased_by="gpu-box:1", started_at=utc_now(),
            )
        )  # fmt: skip
    both, number = listed("?include=curve")
    assert (
        number <= without + 4
    )  # two running jobs need further queries for their times, not for their curves
    assert [len(one["curve"]["epoch"]) for one in both] == [2, 26]
    [running] = both[1]["running_on"]
    assert (running["device"], running["models"], running["kind"]) == ("cuda:0", 2, "train")
    assert "gpu-box" not in str(both)
