"""What the operator steers: pauses of tenants, and the drain of workers."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.states import DatasetState
from store import outbox
from store.database import Database, database_now
from store.settings import Settings
from store.tables import DEFAULT_TENANT, OutboxMessage, Worker
from tests.api.api_examples import add_dataset
from tests.api.test_keys import ADMIN, OPERATOR, bearer, make
from tests.api.test_quotas import client_with
from worker.scheduling.fair_queue import claim_ingest, claim_next

TENANT = f"/v1/usage/tenants/{DEFAULT_TENANT}"
WORKER = "rig-2.lab:4711:1f2e3d4c"


def test_a_paused_tenant_reads_why_its_work_waits(
    database: Database, dataset_id: str, tmp_path: Path
) -> None:
    client = client_with(database, tmp_path)
    job = client.post("/v1/jobs", json={"dataset_id": dataset_id}).json()
    before = client.get("/v1/usage").json()
    assert (before["paused_at"], before["waits_for"]) == (None, None)
    paused = client.post(f"{TENANT}:pause", json={"reason": "the disk is replaced"}).json()
    assert paused["paused_at"]
    again = client.post(f"{TENANT}:pause").json()
    assert (again["paused_at"], again["pause_reason"]) == (paused["paused_at"], None)
    client.post(f"{TENANT}:pause", json={"reason": "the disk is replaced"})
    preview = client.post("/v1/jobs?validate_only=true", json={"dataset_id": dataset_id}).json()
    found = client.get(job["links"]["self"]).json()
    caller = client.get("/v1/caller").json()
    for told in (found["progress"], preview, client.get("/v1/usage").json(), caller):
        assert "the operator paused your tenant" in told["waits_for"]
        assert "(the disk is replaced)" in told["waits_for"]
    assert found["state"] == "queued"
    assert client.post("/v1/jobs", json={"dataset_id": dataset_id}).status_code == 202  # it waits, too
    with database.write() as session:
        session.query(OutboxMessage).delete()
    assert client.post(f"{TENANT}:resume").json()["paused_at"] is None
    assert client.post(f"{TENANT}:resume").status_code == 200
    assert client.get(job["links"]["self"]).json()["progress"]["waits_for"] is None
    assert client.get("/v1/caller").json()["waits_for"] is None
    with database.read() as session:
        sent = {message.task for message in session.query(OutboxMessage)}
    assert sent == {outbox.RUN_SLICE, outbox.INGEST}  # workers learn at once that there is work
    entries = client.get(f"/v1/audit?object_id={DEFAULT_TENANT}").json()["items"]
    assert [one["action"] for one in reversed(entries)] == [*["tenant.paused"] * 3, "tenant.resumed"]
    assert client.post(f"{TENANT}:pause", json={"reason": "x" * 201}).status_code == 422


@pytest.mark.parametrize("path", [f"{TENANT}:pause", f"{TENANT}:resume", f"/v1/workers/{WORKER}:drain"])
def test_only_the_operator_steers(database: Database, tmp_path: Path, path: str) -> None:
    client = client_with(database, tmp_path, require_key=True, admin_key=ADMIN)
    with database.write() as session:
        session.add(Worker(name=WORKER, device="cpu"))
    admin = bearer(make(client, tenant="smith", scopes=["read", "write", "admin"])["secret"])
    refused = client.post(path, headers=admin)
    assert refused.status_code == 403
    assert "only the operator" in refused.json()["detail"]
    assert client.post(path, headers=OPERATOR).status_code == 200
    missing = path.replace(DEFAULT_TENANT, "nobody").replace(WORKER, "nobody")
    unknown = client.post(missing, headers=OPERATOR)
    assert unknown.status_code == 404
    assert "nobody" in unknown.json()["detail"]


def test_a_drained_worker_is_shown_and_takes_nothing(database: Database, tmp_path: Path) -> None:
    client = client_with(database, tmp_path)
    with database.write() as session:
        session.add_all([Worker(name=WORKER, device="cpu"), Worker(name="other:1", device="cuda:0")])
    first = client.post(f"/v1/workers/{WORKER}:drain").json()
    again = client.post(f"/v1/workers/{WORKER}:drain").json()
    assert first["draining_since"] == again["draining_since"] is not None
    draining = {one["name"]: one["draining_since"] for one in client.get("/v1/workers").json()["workers"]}
    assert draining == {WORKER: first["draining_since"], "other:1": None}
    [entry] = client.get("/v1/audit?kind=worker").json()["items"]
    assert (entry["action"], entry["details"]["name"]) == ("worker.drained", WORKER)


def test_the_oldest_wait_of_a_queue(database: Database, tmp_path: Path) -> None:
    client = client_with(database, tmp_path)
    with database.write() as session:
        add_dataset(session, state=DatasetState.INGESTING)
        began = database_now(session)
    queues: dict[str, Any] = {one["name"]: one for one in client.get("/v1/workers").json()["queues"]}
    assert queues["ingests"]["waiting"] == 1
    assert queues["ingests"]["waiting_since"][:13] == f"{began:%Y-%m-%dT%H}"
    assert queues["slices"]["waiting_since"] is None


def test_no_ingest_of_a_paused_tenant_begins(client: TestClient, database: Database) -> None:
    settings = Settings()
    with database.write() as session:
        dataset_id = add_dataset(session, state=DatasetState.INGESTING)
    client.post(f"{TENANT}:pause")
    with database.write() as session:
        assert claim_ingest(session, "w", settings) is None
        assert claim_ingest(session, "w", settings, dataset_id) is None
    client.post(f"{TENANT}:resume")
    with database.write() as session:
        assert claim_ingest(session, "w", settings) is not None
        assert claim_next(session, "w", settings, after_inference=False) is None
