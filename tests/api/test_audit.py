"""Who did it: every route that changes something records its caller, in rows and in the log of changes, which only grows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from domain.states import DatasetState, JobState
from store import audit
from store.array_store import open_array_store
from store.database import Database
from store.originals import BucketOriginals
from store.settings import Settings
from store.tables import DEFAULT_TENANT, AuditEntry, Dataset, Job, Worker
from tests.api.api_examples import add_dataset, add_job, add_upload
from tests.api.test_inferences import add_trained
from tests.api.test_keys import OPERATOR, asks, bearer, guarded, make
from tests.app_copies import app_of

__all__ = ["asks", "guarded"]  # fixtures
ROOT = Path(__file__).resolve().parents[2]
TUS = {"Tus-Resumable": "1.0.0"}
PIECE = TUS | {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
CHANGES_NOTHING = {"infer_latents", "find_model_nearest_to_vectors", "find_inference_nearest_to_vectors"}
"""Routes that are no GET and yet change nothing: they compute an answer."""


@dataclass
class Lab:
    """A service that requires keys, and one key of a tenant."""

    app: FastAPI
    client: TestClient
    database: Database
    key: dict[str, Any]

    def send(self, method: str, path: str, **request: Any) -> Any:
        headers = bearer(self.key["secret"]) | request.pop("headers", {})
        answer = self.client.request(method, path, headers=headers, **request)
        assert answer.status_code < 300, (method, path, answer.text)
        return answer.json() if answer.content else None

    def dataset(self, state: DatasetState = DatasetState.READY) -> str:
        with self.database.write() as session:
            return add_dataset(session, state=state)

    def job(self, state: JobState = JobState.RUNNING) -> str:
        with self.database.write() as session:
            return add_job(session, add_dataset(session), state=state)

    def model(self) -> str:
        with self.database.write() as session:
            return add_trained(session, add_dataset(session))

    def original_dataset(self) -> str:
        dataset_id = self.dataset()
        with self.database.write() as session:
            session.get_one(Dataset, dataset_id).original = "00" * 32
        return dataset_id

    def upload(self) -> str:
        with self.database.write() as session:
            return add_upload(session, sha256="11" * 32)

    def begin_upload(self) -> str:
        headers = TUS | {"Upload-Length": "3"}
        return str(self.send("POST", "/v1/uploads", headers=headers)["id"])

    def entries(self) -> list[AuditEntry]:
        with self.database.read() as session:
            return list(session.execute(select(AuditEntry).order_by(AuditEntry.id)).scalars())


def _direct(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    before, lab.app.state.originals = lab.app.state.originals, BucketOriginals("s3://lab/uploads")
    body = {"filename": "a.npz", "bytes": 3, "sha256": "00" * 32}
    made = lab.send("POST", "/v1/uploads:direct", json=body)
    lab.app.state.originals = before
    return str(made["id"])


def _made(path: str, **request: Any) -> Callable[[Lab], str]:
    return lambda lab: str(lab.send("POST", path, **request)["id"])


def _of(
    path: str, make_one: Callable[[Lab], str], method: str = "POST", **request: Any
) -> Callable[[Lab], str]:
    """Return what makes an object, changes it over HTTP, and returns its id."""

    def run(lab: Lab) -> str:
        one = make_one(lab)
        lab.send(method, path.format(one), **request)
        return one

    return run


def _derived(lab: Lab) -> str:
    parent = lab.original_dataset()
    body = {"options": {"rebin_s": 0.04}}
    return str(lab.send("POST", f"/v1/datasets/{parent}:derive", json=body)["id"])


def _applied(lab: Lab) -> str:
    return str(lab.send("POST", f"/v1/models/{lab.model()}:apply", json={})["id"])


def _webhook(lab: Lab) -> str:
    return str(lab.send("POST", "/v1/webhooks", json={"url": "https://93.184.215.14/hook"})["id"])


def _key(lab: Lab) -> str:
    return str(lab.send("POST", "/v1/keys", json={"name": "Bob"})["id"])


def _tenant(lab: Lab) -> str:
    return DEFAULT_TENANT


def _drained(lab: Lab) -> str:
    """The log has the end of the long name of a worker."""
    name = f"{'a-long-name-of-a-host.' * 4}:4711:1f2e3d4c"
    with lab.database.write() as session:
        session.add(Worker(name=name, device="cpu"))
    lab.send("POST", f"/v1/workers/{name}:drain", headers=OPERATOR)
    return name[-40:]


def _put(lab: Lab) -> str:
    return str(lab.send("PUT", "/v1/uploads", content=b"whole")["id"])


def _job_verb(verb: str, state: JobState, **request: Any) -> Callable[[Lab], str]:
    return _of(f"/v1/jobs/{{}}:{verb}", lambda lab: lab.job(state), **request)


CHANGES: dict[str, tuple[str, Callable[[Lab], str]]] = {
    "upload_dataset": ("dataset.created", _made("/v1/datasets?filename=a.npz", content=b"spikes")),
    "derive_dataset": ("dataset.created", _derived),
    "retry_dataset": ("dataset.retried", _of("/v1/datasets/{}:retry", lambda lab: lab.dataset(DatasetState.FAILED))),
    "synthesize_dataset": ("dataset.created", _made("/v1/datasets:synthesize", json={"system": "lorenz"})),
    "combine_datasets": (
        "dataset.created",
        lambda lab: str(lab.send("POST", "/v1/datasets:combine", json={"dataset_ids": [lab.dataset(), lab.dataset()]})["id"]),
    ),
    "change_dataset": ("dataset.changed", _of("/v1/datasets/{}", Lab.dataset, "PATCH", json={"tags": ["pilot"]})),
    "begin_upload": ("upload.created", Lab.begin_upload),
    "continue_upload": (
        "upload.completed",
        _of("/v1/uploads/{}", Lab.begin_upload, "PATCH", headers=PIECE, content=b"abc"),
    ),
    "delete_upload": ("upload.deleted", _of("/v1/uploads/{}", Lab.upload, "DELETE", headers=TUS)),
    "put_upload": ("upload.created", _put),
    "create_job": (
        "job.created",
        lambda lab: str(lab.send("POST", "/v1/jobs", json={"dataset_id": lab.dataset()})["id"]),
    ),
    "change_job": ("job.changed", _of("/v1/jobs/{}", Lab.job, "PATCH", json={"name": "mine"})),
    "pause_job": ("job.paused", _job_verb("pause", JobState.RUNNING)),
    "resume_job": ("job.resumed", _job_verb("resume", JobState.PAUSED)),
    "stop_job": ("job.stopped", _job_verb("stop", JobState.RUNNING)),
    "cancel_job": ("job.cancelled", _job_verb("cancel", JobState.RUNNING)),
    "retry_job": ("job.retried", _job_verb("retry", JobState.CANCELLED)),
    "extend_job": ("job.extended", _job_verb("extend", JobState.RUNNING, json={"models": 1})),
    "apply_model": ("inference.created", _applied),
    "cancel_inference": ("inference.cancelled", _of("/v1/inferences/{}:cancel", _applied)),
    "create_webhook": ("webhook.created", _webhook),
    "delete_webhook": ("webhook.deleted", _of("/v1/webhooks/{}", _webhook, "DELETE")),
    "test_webhook": ("webhook.tested", _of("/v1/webhooks/{}:test", _webhook)),
    "create_key": ("key.created", _key),
    "revoke_key": ("key.revoked", _of("/v1/keys/{}", _key, "DELETE")),
    "create_share": (
        "share.created",
        lambda lab: str(lab.send("POST", "/v1/shares", json={"dataset_id": lab.dataset()})["id"]),
    ),
    "revoke_share": (
        "share.revoked",
        _of(
            "/v1/shares/{}",
            lambda lab: str(lab.send("POST", "/v1/shares", json={"dataset_id": lab.dataset()})["id"]),
            "DELETE",
        ),
    ),
    "delete_dataset": ("dataset.deleted", _of("/v1/datasets/{}", Lab.dataset, "DELETE")),
    "delete_job": ("job.deleted", _of("/v1/jobs/{}", lambda lab: lab.job(JobState.DONE), "DELETE")),
    "delete_latents": ("model.latents_deleted", _of("/v1/models/{}/latents", Lab.model, "DELETE")),
    "delete_inference": ("inference.deleted", _of("/v1/inferences/{}", _applied, "DELETE")),
    "delete_webhook_deliveries": (
        "webhook.deliveries_deleted",
        _of("/v1/webhooks/{}/deliveries", _webhook, "DELETE"),
    ),
    "set_retention": (
        "tenant.retention_changed",
        _of("/v1/retention/{}", _tenant, "PUT", json={"events": 30}, headers=OPERATOR),
    ),
    "change_quotas": (
        "tenant.quotas_changed",
        _of("/v1/usage/tenants/{}", _tenant, "PATCH", json={"stored_bytes": 2e12}, headers=OPERATOR),
    ),
    "pause_tenant": (
        "tenant.paused",
        _of("/v1/usage/tenants/{}:pause", _tenant, json={"reason": "moving"}, headers=OPERATOR),
    ),
    "resume_tenant": ("tenant.resumed", _of("/v1/usage/tenants/{}:resume", _tenant, headers=OPERATOR)),
    "drain_worker": ("worker.drained", _drained),
}  # fmt: skip
"""For each route that changes something, the action that it records, and a request whose object is returned."""


@pytest.fixture
def lab(guarded: FastAPI, asks: TestClient, database: Database) -> Lab:
    return Lab(guarded, asks, database, make(asks, name="Ada", scopes=["read", "write", "admin"]))


def test_every_route_that_changes_something_records_who_did_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = CHANGES | {"begin_direct_upload": ("upload.created", lambda lab: _direct(lab, monkeypatch))}
    changing = {
        operation["operationId"]
        for operations in lab.app.openapi()["paths"].values()
        for method, operation in operations.items()
        if method not in ("get", "head", "options")
    }
    missing = changing - CHANGES_NOTHING - set(routes)
    assert not missing, f"call audit.record in {missing} and add them to CHANGES, or to CHANGES_NOTHING"
    assert set(routes) | CHANGES_NOTHING <= changing, "routes of these tables that do not exist"
    for route, (action, request) in routes.items():
        before = len(lab.entries())
        object_id = request(lab)
        new = [(one.action, one.object_id) for one in lab.entries()[before:]]
        assert new[-1:] == [(action, object_id)], route
        entry = lab.entries()[-1]
        by_operator = action.startswith(("tenant.", "worker."))
        assert (entry.key_id, entry.key_name) == (
            (None, "operator") if by_operator else (lab.key["id"], "Ada")
        ), route
        assert (entry.tenant_id, entry.kind) == ("default", action.partition(".")[0]), route


def test_what_changes_nothing_records_nothing(lab: Lab) -> None:
    job_id, cancelled = lab.job(), lab.job(JobState.CANCELLED)
    before = len(lab.entries())
    body = {"dataset_id": lab.dataset()}
    lab.send("POST", "/v1/jobs?validate_only=true", json=body)
    lab.send("PATCH", f"/v1/jobs/{job_id}", json={"name": ""})
    lab.send("POST", f"/v1/jobs/{cancelled}:cancel")
    refused = lab.client.post(f"/v1/jobs/{job_id}:retry", headers=bearer(lab.key["secret"]))
    assert (refused.status_code, len(lab.entries())) == (409, before)
    for _ in range(2):
        lab.send("POST", "/v1/jobs", json=body, headers={"Idempotency-Key": "once"})
        lab.send("POST", "/v1/datasets?filename=a.npz", content=b"spikes")
    assert len(lab.entries()) == before + 2


def test_documents_name_the_maker_with_the_name_of_then(lab: Lab, asks: TestClient) -> None:
    """Renaming a key later changes nothing; the operator has a name, and who needs no key has none."""
    by = {"key_id": lab.key["id"], "name": "Ada"}
    made = {
        "datasets": lab.send("POST", "/v1/datasets:synthesize", json={"system": "lorenz"}),
        "jobs": lab.send("POST", "/v1/jobs", json={"dataset_id": lab.dataset()}),
        "inferences": lab.send("GET", f"/v1/inferences/{_applied(lab)}"),
        "webhooks": lab.send("GET", f"/v1/webhooks/{_webhook(lab)}"),
        "keys": lab.send("GET", f"/v1/keys/{_key(lab)}"),
        "uploads": lab.send("GET", f"/v1/uploads/{lab.begin_upload()}"),
    }
    for kind, document in made.items():
        assert document["created_by"] == by, kind
    with lab.database.write() as session:
        session.execute(text("UPDATE keys SET name = 'Ada B.'"))
    assert lab.send("GET", made["jobs"]["links"]["self"])["created_by"] == by
    body = {"dataset_id": lab.dataset()}
    operator = asks.post("/v1/jobs", json=body, headers=OPERATOR).json()
    assert operator["created_by"] == {"key_id": None, "name": "operator"}
    service = lab.job()
    assert lab.send("GET", f"/v1/jobs/{service}")["created_by"] == {"key_id": None, "name": "service"}
    found = {
        who: [one["id"] for one in lab.send("GET", "/v1/jobs", params={"created_by": who})["items"]]
        for who in (lab.key["id"], "Ada", "operator", "ada")
    }
    mine = [made["jobs"]["id"]]
    assert found == {lab.key["id"]: mine, "Ada": mine, "operator": [operator["id"]], "ada": []}


def test_without_keys_it_was_anyone(light_client: TestClient, sqlite_database: Database) -> None:
    made = light_client.post("/v1/datasets:synthesize", json={"system": "lorenz"}).json()
    assert made["created_by"] is None
    entry = light_client.get("/v1/audit").json()["items"][0]
    assert (entry["action"], entry["object_id"], entry["by"]) == ("dataset.created", made["id"], None)


def test_the_log_is_for_admins_of_the_tenant_and_the_operator(lab: Lab, asks: TestClient) -> None:
    other = make(asks, name="Eve", tenant="smith", scopes=["read", "write", "admin"])
    plain = make(asks, name="Max")
    job_id = lab.send("POST", "/v1/jobs", json={"dataset_id": lab.dataset()})["id"]
    lab.send("PATCH", f"/v1/jobs/{job_id}", json={"notes": "good", "tags": ["a"], "name": ""})
    lab.send("POST", f"/v1/jobs/{job_id}:cancel")

    def actions(headers: dict[str, str], /, **filters: Any) -> list[str]:
        answer = asks.get("/v1/audit", params=filters, headers=headers)
        assert answer.status_code == 200, answer.text
        return [one["action"] for one in answer.json()["items"]]

    mine = bearer(lab.key["secret"])
    assert actions(mine)[:3] == ["job.cancelled", "job.changed", "job.created"]
    assert actions(bearer(other["secret"])) == ["key.created"], "the operator made a key for its tenant"
    assert actions(OPERATOR) == ["job.cancelled", "job.changed", "job.created", *["key.created"] * 3]
    assert actions(OPERATOR, tenant="smith") == ["key.created"]
    assert asks.get("/v1/audit", headers=bearer(plain["secret"])).status_code == 403
    changed = asks.get("/v1/audit", params={"action": "job.changed"}, headers=mine).json()["items"]
    assert [one["details"] for one in changed] == [{"fields": ["notes", "tags"]}]
    assert actions(mine, object_id=job_id, kind="job") == ["job.cancelled", "job.changed", "job.created"]
    assert len(actions(mine, by=lab.key["id"])) == len(actions(mine, by=lab.key["name"])) == 3
    assert actions(mine, created_after=changed[0]["at"], created_before="2999-01-01")[-1] == "job.changed"
    assert actions(mine, created_before="2020-01-01") == []
    for name in ("action", "kind", "object_id", "by", "tenant"):
        assert asks.get("/v1/audit", params={name: "a\x00"}, headers=mine).status_code == 422
    seen: list[str] = []
    token: str | None = ""
    while token is not None:
        params = {"page_size": 2, **({"page_token": token} if token else {})}
        page = asks.get("/v1/audit", params=params, headers=mine).json()
        seen += [one["action"] for one in page["items"]]
        token = page["next_page_token"]
    assert seen == actions(mine)


def test_an_entry_is_written_with_its_change_or_not_at_all(database: Database) -> None:
    with database.write() as session:
        job_id = add_job(session, add_dataset(session))

    def fail() -> None:
        with database.write() as session:
            audit.record(session, "job.paused", session.get_one(Job, job_id))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as session:
        assert session.execute(select(AuditEntry)).all() == []


def test_only_one_place_writes_the_log() -> None:
    """Nothing else names the table, so that nothing updates or deletes its entries; `api.audit` only reads."""
    users = {
        str(path.relative_to(ROOT))
        for package in ("api", "store", "worker")
        for path in (ROOT / package).rglob("*.py")
        if "AuditEntry" in path.read_text()
    }
    assert users == {
        "api/audit/service.py", "store/audit.py", "store/tables/__init__.py", "store/tables/audit.py",
    }  # fmt: skip
    reading = (ROOT / "api/audit/service.py").read_text()
    assert not any(word in reading for word in (".write(", "delete(", "update(", ".add("))


def test_the_caller_of_one_request_is_not_the_actor_of_another(lab: Lab, tmp_path: Path) -> None:
    """Requests that need a key and requests that do not, one after the other in one process."""
    without = TestClient(
        app_of(Settings(data_dir=tmp_path), lab.database, open_array_store("sql:", lab.database))
    )
    body = {"dataset_id": lab.dataset()}
    makers = [
        lab.send("POST", "/v1/jobs", json=body)["created_by"]
        if needs_key
        else without.post("/v1/jobs", json=body).json()["created_by"]
        for needs_key in (True, False, True)
    ]
    assert [by and by["name"] for by in makers] == ["Ada", None, "Ada"]
