"""Quotas of tenants and keys: what is refused, what is told, and that two requests at once do not pass beyond."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from api.limits.quotas import check_amounts
from domain.quotas import QUOTAS
from domain.states import DatasetState, InferenceState, JobState, ModelState, SliceState
from store import quotas
from store.array_store import open_array_store
from store.database import Database, database_now
from store.originals import open_originals
from store.quotas import add_device_seconds, note_device_time
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Base, Dataset, Inference, Slice, Tenant, Worker, utc_now
from tests.api.api_examples import add_dataset, add_job, add_model, count
from tests.api.test_keys import ADMIN, OPERATOR, bearer, make
from tests.app_copies import app_of
from worker.maintenance.deletion import Storage, work_off

TUS = {"Tus-Resumable": "1.0.0"}
GB = 10**9


def client_with(database: Database, folder: Path, **changes: Any) -> TestClient:
    settings = Settings(data_dir=folder, **changes)
    return TestClient(
        app_of(settings, database, open_array_store("sql:", database)), raise_server_exceptions=False
    )


def quota(usage: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in usage["quotas"] if one["name"] == name)


def assert_refused(answer: httpx.Response, name: str, status: int = 409) -> None:
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert problem["quota"]["name"] == name
    assert str(int(problem["quota"]["allowed"])) in problem["detail"]
    assert problem["hint"]


def test_usage_tells_every_quota(client: TestClient, dataset_id: str) -> None:
    before = client.get("/v1/usage").json()
    assert {one["name"] for one in before["quotas"]} <= set(QUOTAS)
    assert quota(before, "open_jobs") == {
        "name": "open_jobs", "title": "Unfinished jobs", "used": 0, "allowed": 200, "rest": 200, "unit": "jobs", "frees_at": None,
    }  # fmt: skip
    assert quota(before, "device_seconds_per_day")["frees_at"]
    assert [quota(before, name)["used"] for name in ("streams", "analyses")] == [0, 0]
    client.post("/v1/jobs", json={"dataset_id": dataset_id})
    begun = client.post("/v1/uploads", headers={**TUS, "Upload-Length": "1000000"})
    assert begun.status_code == 201
    after = client.get("/v1/usage").json()
    assert quota(after, "open_jobs")["used"] == 1
    assert quota(after, "upload_bytes")["used"] == 2**20  # each upload counts as 1 MiB at least


def test_what_is_stored(client: TestClient, database: Database, dataset_id: str) -> None:
    client.put("/v1/uploads", content=b"x" * 7)
    client.put("/v1/uploads?filename=other", content=b"x" * 7)  # the same file
    with database.write() as session:
        row = session.get_one(Dataset, dataset_id)
        row.original, row.original_bytes, row.array_bytes = "aa", 100, 1000
        derived = session.get_one(Dataset, add_dataset(session))
        derived.original, derived.original_bytes, derived.array_bytes = (
            "aa",
            100,
            None,
        )  # the same file, not measured
        job_id = add_job(session, dataset_id)
        add_model(session, job_id, checkpoint_key="one", checkpoint_bytes=10_000, latents_bytes=100_000)
        add_model(session, job_id, 1, checkpoint_key="one", checkpoint_bytes=10_000)
    assert quota(client.get("/v1/usage").json(), "stored_bytes")["used"] == 7 + 100 + 1000 + 120_000
    assert client.get(f"/v1/datasets/{dataset_id}").json()["stored_bytes"] == 1100
    assert client.get(f"/v1/jobs/{job_id}").json()["stored_bytes"] == 110_000


def test_bytes_refuse_everything_that_stores(database: Database, dataset_id: str, tmp_path: Path) -> None:
    client = client_with(database, tmp_path, quota_stored_bytes=GB)
    with database.write() as session:
        session.get_one(Dataset, dataset_id).array_bytes = GB
        job_id = add_job(session, dataset_id, state=JobState.DONE)
        model_id = add_model(session, job_id, state=ModelState.TRAINED, losses=(1.0,), checkpoint_key="k")
    for answer in (
        client.post("/v1/datasets?filename=a.npz", content=b"1"),
        client.post("/v1/datasets", files={"file": ("a.npz", b"1")}),
        client.put("/v1/uploads", content=b"1"),
        client.post("/v1/uploads", headers={**TUS, "Upload-Length": "5"}),
        client.post("/v1/datasets:synthesize", json={"system": "lorenz"}),
        client.post("/v1/jobs", json={"dataset_id": dataset_id}),
        client.post(f"/v1/models/{model_id}:apply", json={"dataset_id": dataset_id}),
    ):
        assert_refused(answer, "stored_bytes")
    preview = client.post("/v1/jobs?validate_only=true", json={"dataset_id": dataset_id}).json()
    assert "1000000000 are allowed" in preview["refused_by"][0]
    assert count(database, Dataset) == 1
    assert client.get("/v1/usage").json()["quotas"][0]["rest"] == 0


def test_only_quotas_of_amounts_are_checked(database: Database) -> None:
    with database.write() as session, pytest.raises(ValueError, match="got \\['jobs'\\]"):
        check_amounts(session, Settings(), DEFAULT_TENANT, jobs=1)


def test_uploads_count_as_announced(database: Database, tmp_path: Path) -> None:
    client = client_with(database, tmp_path, quota_upload_bytes=3 * 2**20)
    begin = {**TUS, "Upload-Length": str(2 * 2**20)}
    path = client.post("/v1/uploads", headers=begin).headers["Location"]
    assert_refused(client.post("/v1/uploads", headers=begin), "upload_bytes")
    assert client.put("/v1/uploads", content=b"1" * 2**20).status_code == 201
    assert_refused(client.put("/v1/uploads", content=b"2" * 2 * 2**20), "upload_bytes")
    assert client.delete(path, headers=TUS).status_code == 204
    assert client.post("/v1/uploads", headers=begin).status_code == 201
    assert (
        client.put("/v1/uploads", content=iter([b"3"])).status_code == 201
    )  # of a size that is not announced


def test_open_jobs_and_their_size(
    database: Database, dataset_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_with(database, tmp_path, quota_open_jobs=1, quota_job_model_epochs=1000)
    body = {"dataset_id": dataset_id, "budget": {"models": 2, "epochs": 50}}
    job = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "a"})
    assert job.status_code == 202
    with monkeypatch.context() as patch:
        patch.setattr(
            database, "write", None
        )  # a refused request never waits for writers, and no writer for it
        assert_refused(client.post("/v1/jobs", json=body), "open_jobs")
    again = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "a"})
    assert again.json()["id"] == job.json()["id"]  # a repetition is answered as before
    path = job.json()["links"]["self"]
    assert_refused(client.post(f"{path}:extend", json={"models": 30}), "job_model_epochs")
    assert client.get(path).json()["specification"]["budget"]["models"] == 2
    client.post(f"{path}:cancel")
    assert client.post("/v1/jobs", json=body).status_code == 202
    assert_refused(client.post(f"{path}:retry"), "open_jobs")
    assert client.get(path).json()["state"] == "cancelled"
    larger = {**body, "budget": {"models": 50, "epochs": 50}}
    told = client.post("/v1/jobs?validate_only=true", json=larger).json()["refused_by"]
    assert ["jobs" in told[0], "2500" in told[1]] == [True, True]


def test_rows_of_jobs_that_are_cancelled_at_once(database: Database, dataset_id: str, tmp_path: Path) -> None:
    client = client_with(database, tmp_path, quota_database_bytes=445_000)
    body = {"dataset_id": dataset_id, "budget": {"models": 100, "epochs": 50}}
    made = list(iter(lambda: _cancelled_job(client, body), None))
    assert len(made) == 2  # of 2.1 kB for each model
    assert_refused(client.post("/v1/jobs", json=body), "database_bytes")
    (told,) = client.post("/v1/jobs?validate_only=true", json=body).json()["refused_by"]
    assert told.startswith("the rows of your tenant")
    for path in (made[0], f"/v1/datasets/{dataset_id}"):  # rows become longer, too
        assert_refused(client.patch(path, json={"notes": "é" * 10_000}), "database_bytes")
        assert client.get(path).json()["notes"] == ""
        assert client.patch(path, json={"name": "a"}).status_code == 200
    assert client.delete(made[0]).status_code == 202
    settings = Settings(data_dir=tmp_path)
    storage = Storage(database, open_array_store("sql:", database), open_originals(settings), settings)
    work_off(storage, 10)
    assert _cancelled_job(client, body) is not None


def _cancelled_job(client: TestClient, body: dict[str, Any]) -> str | None:
    """Return the path of a new job that was cancelled; None if it is refused."""
    answer = client.post("/v1/jobs", json=body)
    if answer.status_code != 202:
        return None
    path: str = answer.json()["links"]["self"]
    assert client.post(f"{path}:cancel").status_code == 200
    return path


def test_every_new_row_counts_for_the_day(database: Database, dataset_id: str, tmp_path: Path) -> None:
    client = client_with(
        database, tmp_path, require_key=True, admin_key=ADMIN, quota_written_bytes_per_day=20_000
    )
    admin = make(client, tenant=DEFAULT_TENANT, scopes=["read", "write", "admin"])
    key = bearer(admin["secret"])
    job = client.post("/v1/jobs", json={"dataset_id": dataset_id, "preset": "quick"}, headers=key).json()
    path = job["links"]["self"]

    def changes() -> Iterator[httpx.Response]:
        for number in range(100):
            yield client.post(f"{path}:pause", headers=key)
            yield client.post(f"{path}:resume", headers=key)
            yield client.post("/v1/keys", json={"name": "a"}, headers=key)
            yield client.patch(path, json={"tags": [f"{number}"]}, headers=key)
            yield client.put("/v1/uploads", content=b"%d" % number, headers=key)

    refused = next(answer for answer in changes() if answer.status_code >= 400)
    assert_refused(refused, "written_bytes_per_day", 429)
    assert int(refused.headers["Retry-After"]) > 60
    used = quota(client.get("/v1/usage", headers=key).json(), "written_bytes_per_day")
    assert 15_000 < used["used"] <= 20_000
    rows = [count(database, table) for table in Base.metadata.sorted_tables]
    assert client.post("/v1/webhooks", json={"url": "https://192.0.2.1"}, headers=key).status_code >= 400
    assert client.post("/v1/keys", json={"name": "a"}, headers=key).status_code == 429
    assert [count(database, table) for table in Base.metadata.sorted_tables] == rows
    assert client.post(f"{path}:cancel", headers=key).status_code == 200  # what frees something always works
    assert client.delete(path, headers=key).status_code == 202
    assert client.delete(f"/v1/keys/{admin['id']}", headers=key).status_code in (200, 204)


@pytest.mark.parametrize("what", ["jobs", "uploads"])
def test_requests_at_once_do_not_pass_beyond(
    database: Database, dataset_id: str, tmp_path: Path, what: str
) -> None:
    app = client_with(database, tmp_path, quota_open_jobs=2, quota_upload_bytes=2 * 2**20).app

    async def send(number: int) -> int:
        transport = httpx.ASGITransport(app, client=(f"192.0.2.{number}", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            if what == "jobs":
                return (await client.post("/v1/jobs", json={"dataset_id": dataset_id})).status_code
            return (await client.post("/v1/uploads", headers={**TUS, "Upload-Length": "5"})).status_code

    async def send_all() -> list[int]:
        return await asyncio.gather(*map(send, range(6)))

    codes = sorted(asyncio.run(send_all()))
    assert codes == [202 if what == "jobs" else 201] * 2 + [409] * 4


def test_a_job_waits_for_device_time(database: Database, dataset_id: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, quota_device_seconds_per_day=100)
    client = client_with(database, tmp_path, quota_device_seconds_per_day=100)
    job = client.post("/v1/jobs", json={"dataset_id": dataset_id}).json()
    assert job["progress"]["waits_for"] is None
    with database.write() as session:
        add_device_seconds(session, DEFAULT_TENANT, 120)
        note_device_time(session, settings, session.get_one(Tenant, DEFAULT_TENANT))
    waiting = client.get(job["links"]["self"]).json()
    assert waiting["state"] == "queued"
    assert "device time" in waiting["progress"]["waits_for"]
    usage = client.get("/v1/usage").json()
    assert "120 s are used, and 100 are allowed; it frees at" in usage["waits_for"]
    preview = client.post("/v1/jobs?validate_only=true", json={"dataset_id": dataset_id}).json()
    assert preview["waits_for"] == usage["waits_for"]
    assert preview["refused_by"] == []
    more = client.patch("/v1/usage/tenants/default", json={"device_seconds_per_day": 1000}).json()
    assert (more["waits_for"], more["own_amounts"]) == (None, {"device_seconds_per_day": 1000})
    assert client.get(job["links"]["self"]).json()["progress"]["waits_for"] is None


@pytest.mark.parametrize("ends", ["cancel", "delete"])
def test_work_that_is_cancelled_or_deleted_has_used_device_time(
    client: TestClient, database: Database, dataset_id: str, ends: str
) -> None:
    with database.write() as session:
        job_id = add_job(session, dataset_id)
        began = database_now(session) - timedelta(seconds=50)
        session.add(
            Inference(
                id="inf_0123456789abcdef01234567", tenant_id=DEFAULT_TENANT, model_id=add_model(session, job_id),
                dataset_id=dataset_id, state=InferenceState.RUNNING, checkpoint_key="", started_at=began,
                options={"arrays": ["rates"], "posterior_samples": 1, "sessions": [0]},
                lease_token="y",
            )
        )  # fmt: skip
        session.add(
            Slice(
                id="sli_1", tenant_id=DEFAULT_TENANT, job_id=job_id, kind="train", pack=0, model_ids=[], first_epoch=0,
                last_epoch=1, state=SliceState.LEASED, started_at=began, lease_token="x",
            )
        )  # fmt: skip
    if ends == "cancel":
        for path in (f"jobs/{job_id}", "inferences/inf_0123456789abcdef01234567"):
            assert client.post(f"/v1/{path}:cancel").status_code == 200
    for _ in range(2):
        assert client.delete(f"/v1/datasets/{dataset_id}?cascade=true").status_code == 202
    assert 100 <= quota(client.get("/v1/usage").json(), "device_seconds_per_day")["used"] < 200
    deleted = [one["action"] for one in client.get("/v1/audit").json()["items"] if "deleted" in one["action"]]
    assert sorted(deleted) == ["dataset.deleted", "inference.deleted", "job.deleted"]


@pytest.mark.usefixtures("still_minute")
def test_requests_in_a_minute(database: Database, tmp_path: Path) -> None:
    client = client_with(
        database,
        tmp_path,
        require_key=True,
        admin_key=ADMIN,
        quota_key_requests_per_minute=5,
        quota_requests_per_minute=8,
    )
    first, second = (bearer(make(client, tenant="lab", scopes=["read"])["secret"]) for _ in range(2))
    answers = [client.get("/v1/jobs", headers=first) for _ in range(6)]
    assert [one.status_code for one in answers] == [200] * 5 + [429]
    assert_refused(answers[-1], "key_requests_per_minute", 429)
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    usage = client.get("/v1/usage", headers=second).json()
    assert [quota(usage, name)["used"] for name in ("requests_per_minute", "key_requests_per_minute")] == [
        6,
        1,
    ]
    answers = [client.get("/v1/jobs", headers=second) for _ in range(3)]
    assert_refused(answers[-1], "requests_per_minute", 429)
    assert (
        client.patch("/v1/usage/tenants/lab", json={"requests_per_minute": 0}, headers=OPERATOR).status_code
        == 200
    )
    assert client.get("/v1/jobs", headers=second).status_code == 200
    assert all(client.get("/v1/jobs", headers=OPERATOR).status_code == 200 for _ in range(12))


def test_the_operator_sees_all_and_sets_amounts(database: Database, tmp_path: Path) -> None:
    client = client_with(database, tmp_path, require_key=True, admin_key=ADMIN)
    key = bearer(make(client, tenant="smith", scopes=["read", "write", "admin"])["secret"])
    change = {"stored_bytes": 5, "open_jobs": 0}
    path = "/v1/usage/tenants/smith"
    for refused in (
        client.patch(path, json=change, headers=key),
        client.get("/v1/usage/tenants", headers=key),
        client.get("/v1/usage?tenant=default", headers=key),
    ):
        assert refused.status_code == 403
    changed = client.patch(path, json=change, headers=OPERATOR).json()
    assert [quota(changed, name)["allowed"] for name in change] == [5, None]
    assert client.get("/v1/usage", headers=key).json()["own_amounts"] == change
    assert client.get("/v1/usage?tenant=smith", headers=OPERATOR).json()["tenant"] == "smith"
    assert client.patch(path, json={"stored_bytes": None}, headers=OPERATOR).json()["own_amounts"] == {
        "open_jobs": 0
    }
    assert client.patch(path, json={"space": 5}, headers=OPERATOR).status_code == 422
    assert client.patch("/v1/usage/tenants/nobody", json={}, headers=OPERATOR).status_code == 404
    page = client.get("/v1/usage/tenants?page_size=1", headers=OPERATOR).json()
    rest = client.get(f"/v1/usage/tenants?page_token={page['next_page_token']}", headers=OPERATOR).json()
    assert [one["tenant"] for one in (*page["items"], *rest["items"])] == ["default", "smith"]


def test_sums_read_indexes_alone(sqlite_database: Database) -> None:
    for _, query in quotas._sums(DEFAULT_TENANT, utc_now()):
        statement = str(query.compile(sqlite_database.engine, compile_kwargs={"literal_binds": True}))
        with sqlite_database.read() as session:
            plan = [row[3] for row in session.execute(text(f"EXPLAIN QUERY PLAN {statement}"))]
        reads = [step for step in plan if step.startswith(("SEARCH", "SCAN")) and "anon" not in step]
        assert reads
        assert all("USING COVERING INDEX" in step for step in reads), plan


def test_the_operator_sees_workers_and_what_waits(
    database: Database, dataset_id: str, tmp_path: Path
) -> None:
    client = client_with(database, tmp_path)
    with database.write() as session:
        job_id = add_job(session, dataset_id)
        session.add_all(
            [Worker(name="box:1", device="cuda:0", device_name="H200"), Worker(name="box:2", device="cpu")]
        )
        common: dict[str, Any] = {"tenant_id": DEFAULT_TENANT, "job_id": job_id, "kind": "train", "pack": 0}
        common |= {"first_epoch": 0, "last_epoch": 5}
        session.add(
            Slice(id="sli_1", state=SliceState.LEASED, leased_by="box:1", model_ids=["a", "b"], **common)
        )
        session.add(Slice(id="sli_2", state=SliceState.QUEUED, model_ids=["c"], **common))
        add_dataset(session, state=DatasetState.INGESTING)
    found = client.get("/v1/workers").json()
    first, second = found["workers"]
    assert (first["name"], first["device"], first["device_name"]) == ("box:1", "cuda:0", "H200")
    assert (second["device_name"], second["work"]) == (None, [])
    [work] = first["work"]
    assert (work["job_id"], work["models"], work["tenant"], work["kind"]) == (
        job_id,
        2,
        DEFAULT_TENANT,
        "train",
    )
    queues = {one["name"]: (one["waiting"], one["running"]) for one in found["queues"]}
    assert queues == {
        "slices": (1, 1),
        "inferences": (0, 0),
        "ingests": (1, 0),
        "deletions": (0, 0),
        "messages": (0, 0),
    }
    key = client.post("/v1/keys", json={"name": "Ada"}).json()["secret"]
    assert client.get("/v1/workers", headers={"Authorization": f"Bearer {key}"}).status_code == 403
