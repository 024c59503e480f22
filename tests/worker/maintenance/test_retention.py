"""Old data is removed by its age, in small steps, and every place where it is missed says why."""

import sqlite3
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.retention.schemas import TenantDays
from domain.states import DatasetState, JobState
from store import events, free_space
from store.array_store import read_object, write_object
from store.database import Database, database_now
from store.free_space import give_back_space, vacuum_once
from store.retention import KINDS, count_due, cutoff
from store.settings import Settings
from store.tables import (
    DEFAULT_TENANT,
    CurvePoint,
    Dataset,
    Event,
    IdempotentRequest,
    Job,
    Model,
    Slice,
    Tenant,
    UtcDateTime,
    WebhookDelivery,
)
from tests.app_copies import app_of
from tests.servers import ReusedDatabase
from tests.worker.fake_workers import FakeWorkers, read_job, read_models
from worker.context.checkpoints import checkpoint_key
from worker.maintenance import retention
from worker.maintenance.retention import Sweep

EPOCHS = 130
BEST = 77


@pytest.fixture
def client(database: Database, arrays: Store, settings: Settings) -> TestClient:
    return TestClient(app_of(settings, database, arrays))


@pytest.fixture
def job_id(database: Database, arrays: Store, settings: Settings, make_job: Callable[..., str]) -> str:
    """A job that is done, of three models with learning curves and checkpoints; model 1 is selected."""
    made = make_job(budget={"models": 3, "epochs": EPOCHS, "top_k": 3})
    workers = FakeWorkers(database, settings, epochs=EPOCHS)
    workers.run(made, losses={0: 0.3, 1: 0.1, 2: 0.2})
    with database.write() as session:
        events.record(session, made, "progress", models=[])
        for model in session.execute(select(Model).where(Model.job_id == made)).scalars():
            model.checkpoint_key = checkpoint_key(model.id, EPOCHS, "reported")
            model.scores = model.scores | {"best_epoch": BEST}
            session.add_all(
                CurvePoint(model_id=model.id, epoch=epoch, slice_id="sli") for epoch in range(1, EPOCHS + 1)
            )
    for model in read_models(database, made):
        write_object(arrays, model.checkpoint_key or "", b"weights")
    return made


def count(database: Database, table: type[Any]) -> int:
    with database.read() as session:
        return session.execute(select(func.count()).select_from(table)).scalar_one()


def due(database: Database, settings: Settings, now: datetime) -> dict[str, int]:
    with database.read() as session:
        found = {}
        for kind in KINDS:
            before = cutoff(settings, None, now, kind)
            assert before is not None
            found[kind] = count_due(session, DEFAULT_TENANT, kind, before).items
        return found


def sweep(database: Database, settings: Settings, arrays: Store, now: datetime) -> dict[str, int]:
    """Sweep twice: what is due is what the first removes, and the second removes nothing."""
    expected = due(database, settings, now)
    first = Sweep(database, settings, now=now)
    first.rows()
    sum(first.files(arrays))
    assert {kind: first.removed[kind] for kind in KINDS} == expected
    again = Sweep(database, settings, now=now)
    again.rows()
    sum(again.files(arrays))
    assert again.removed.total() == 0
    assert not any(due(database, settings, now).values())
    return expected


def test_each_kind_is_removed_by_one_place() -> None:
    removed = [*retention.ROWS_OF_JOBS, *retention.ROWS, *retention.FILES]
    assert sorted(removed) == sorted(KINDS) == sorted(TenantDays.model_fields)


@pytest.mark.parametrize("batch_rows", [1000, 7])
def test_a_job_that_grows_old(
    database: Database,
    arrays: Store,
    settings: Settings,
    client: TestClient,
    job_id: str,
    batch_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "_BATCH_ROWS", batch_rows)
    models = read_models(database, job_id)
    selected = read_job(database, job_id).selected_model_id
    assert selected == models[1].id
    other = models[0].id
    document = client.get(f"/v1/jobs/{job_id}").json()
    ended = read_job(database, job_id).ended_at
    assert ended is not None

    def at(days: float) -> dict[str, int]:
        return sweep(database, settings, arrays, ended + timedelta(days=days))

    assert at(29) == dict.fromkeys(KINDS, 0)
    whole = client.get(f"/v1/models/{other}/learning_curve").json()
    assert (whole["is_thinned"], len(whole["points"])) == (False, EPOCHS)

    assert at(31)["curves"] > 200
    thin = client.get(f"/v1/models/{other}/learning_curve").json()
    epochs = [point["epoch"] for point in thin["points"]]
    assert thin["is_thinned"]
    assert 40 < len(epochs) <= 54
    assert {1, BEST, EPOCHS} <= set(epochs)

    assert client.get(f"/v1/jobs/{job_id}/events").status_code == 200
    removed = at(91)
    assert removed["events"] > 5
    assert removed["slices"] == 2 + (len(read_models(database, job_id)) > 3)
    assert removed["checkpoints"] == 2
    assert (count(database, Event), count(database, Slice)) == (0, 0)
    for path in ("events", "events/stream"):
        gone = client.get(f"/v1/jobs/{job_id}/{path}")
        assert gone.status_code == 410
        assert "LATENTRY_KEEP_EVENTS_DAYS" in gone.json()["detail"]
    assert client.get(f"/v1/jobs/{job_id}").json() == document, "times, device time and progress stay"
    stored = {one.number: one.checkpoint_key for one in read_models(database, job_id)}
    assert [key is not None for key in stored.values()][:3] == [False, True, False]
    assert read_object(arrays, stored[1] or "") == b"weights"
    assert read_object(arrays, checkpoint_key(other, EPOCHS, "reported")) is None
    refused = client.post(f"/v1/jobs/{job_id}:extend", json={"epochs": 5})
    assert refused.status_code == 409
    assert "LATENTRY_KEEP_CHECKPOINTS_DAYS" in refused.json()["detail"]
    exported = client.get(f"/v1/models/{other}/export")
    assert exported.status_code == 409
    assert "LATENTRY_KEEP_CHECKPOINTS_DAYS" in exported.json()["detail"]

    assert at(366)["thinned_curves"] == 2 * len(epochs)
    gone = client.get(f"/v1/models/{other}/learning_curve")
    assert gone.status_code == 410
    assert "LATENTRY_KEEP_THINNED_CURVES_DAYS" in gone.json()["detail"]
    kept = client.get(f"/v1/models/{selected}/learning_curve").json()
    assert len(kept["points"]) == len(epochs)
    assert client.get(f"/v1/jobs/{job_id}").json() == document


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_job_without_selected_model_loses_all_weights_and_is_not_retried(
    database: Database, arrays: Store, settings: Settings, client: TestClient, job_id: str, state: JobState
) -> None:
    with database.write() as session:
        session.execute(update(Job).values(state=state, selected_model_id=None, final_model_id=None))
        now = database_now(session)
    assert sweep(database, settings, arrays, now + timedelta(days=91))["checkpoints"] == 3
    refused = client.post(f"/v1/jobs/{job_id}:retry")
    assert refused.status_code == 409
    assert "LATENTRY_KEEP_CHECKPOINTS_DAYS" in refused.json()["detail"]


def test_a_tenant_may_keep_things_longer_and_a_resumed_job_is_left_alone(
    database: Database, settings: Settings, job_id: str
) -> None:
    with database.write() as session:
        session.get_one(Tenant, DEFAULT_TENANT).retention = {"events": "forever", "curves": 100}
        later = database_now(session) + timedelta(days=95)
    assert Sweep(database, settings, now=later).rows() == {"slices": 2}
    with database.write() as session:
        session.get_one(Job, job_id).ended_at = None
        session.get_one(Tenant, DEFAULT_TENANT).retention = None
    assert Sweep(database, settings, now=later + timedelta(days=1000)).rows().total() == 0


def test_a_job_that_is_deleted_during_a_sweep_is_left_alone(
    database: Database, arrays: Store, settings: Settings, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep has read the id of a job whose row then goes; it goes on with the next job."""
    real, calls = retention.due_jobs, [0]

    def due_jobs(session: Session, tenant_id: str, kind: str, before: datetime) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            gone = sa.literal("job_gone").label("id"), sa.literal(before, UtcDateTime()).label("ended_at")
            return select(*gone)
        return real(session, tenant_id, kind, before)

    monkeypatch.setattr(retention, "due_jobs", due_jobs)
    with database.read() as session:
        now = database_now(session) + timedelta(days=100)
    assert sum(Sweep(database, settings, now=now).files(arrays)) == 2


def test_a_sweep_of_checkpoints_that_died_is_completed(
    database: Database, arrays: Store, settings: Settings, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.read() as session:
        now = database_now(session) + timedelta(days=91)

    def die(*_: Any) -> int:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(retention, "collect", die)
        with pytest.raises(RuntimeError):
            sum(Sweep(database, settings, now=now).files(arrays))
    assert sum(Sweep(database, settings, now=now).files(arrays)) == 2
    for model in read_models(database, job_id):
        key = checkpoint_key(model.id, EPOCHS, "reported")
        assert (read_object(arrays, key) is None) == (model.number != 1)


def test_answers_and_messages_are_forgotten(database: Database, settings: Settings) -> None:
    with database.write() as session:
        now = database_now(session)
        for days in (6, 8):
            session.add(
                IdempotentRequest(
                    tenant_id=DEFAULT_TENANT, key=str(days), fingerprint="", body={}, created_at=now - timedelta(days=days)
                )
            )  # fmt: skip
    assert due(database, settings, now)["idempotency"] == 1
    assert Sweep(database, settings, now=now).rows() == {"idempotency": 1}
    with database.read() as session:
        assert session.execute(select(IdempotentRequest.key)).scalars().all() == ["6"]
    assert count(database, WebhookDelivery) == 0


def test_an_old_file_is_removed_unless_it_was_used(
    database: Database, arrays: Store, settings: Settings, client: TestClient, tmp_path: Path
) -> None:
    np.savez(tmp_path / "spikes.npz", spikes=np.ones((5, 10, 2), np.uint8), bin_width_s=0.02)
    content = (tmp_path / "spikes.npz").read_bytes()

    def upload() -> dict[str, Any]:
        answer = client.post("/v1/datasets", files={"file": ("spikes.npz", content)})
        assert answer.status_code in (200, 202), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def end_ingests() -> None:
        with database.write() as session:
            session.execute(update(Dataset).values(state=DatasetState.READY))

    parent = upload()["id"]
    end_ingests()
    path = settings.uploads_dir / read_source(database, parent)
    with database.write() as session:
        now = database_now(session)
        session.get_one(Dataset, parent).original_since = now - timedelta(days=300)
    assert (
        client.post(f"/v1/datasets/{parent}:derive", json={"options": {"bin_width_s": 0.04}}).status_code
        == 202
    )
    end_ingests()
    assert sweep(database, settings, arrays, now + timedelta(days=300))["originals"] == 0
    assert path.exists()
    assert sweep(database, settings, arrays, now + timedelta(days=366))["originals"] == 1
    assert not path.exists()
    refused = client.post(f"/v1/datasets/{parent}:derive", json={"options": {"bin_width_s": 0.08}})
    assert refused.status_code == 409
    assert "LATENTRY_KEEP_ORIGINALS_DAYS" in refused.json()["detail"]
    assert client.get(f"/v1/datasets/{parent}").json()["original_removed_at"] is not None

    again = upload()  # as the hint says
    assert (again["id"], again["original_removed_at"]) == (parent, None)
    assert path.exists()
    assert (
        client.post(f"/v1/datasets/{parent}:derive", json={"options": {"bin_width_s": 0.08}}).status_code
        == 202
    )


def read_source(database: Database, dataset_id: str) -> str:
    with database.read() as session:
        return str(session.get_one(Dataset, dataset_id).source["sha256"])


def test_an_operator_sees_what_is_due_and_sets_days_and_others_do_not(
    database: Database, client: TestClient, job_id: str
) -> None:
    with database.write() as session:
        session.get_one(Job, job_id).ended_at = database_now(session) - timedelta(days=45)
    report = {one["kind"]: one for one in client.get("/v1/retention").json()["items"]}
    assert set(report) == set(KINDS)
    assert (report["curves"]["days"], report["curves"]["is_own"]) == (30, False)
    assert report["curves"]["due"] > 200
    assert report["curves"]["due_bytes"] > 50_000
    assert {report[kind]["due"] for kind in {"checkpoints", *retention.ROWS_OF_JOBS} - {"curves"}} == {0}
    changed = client.put("/v1/retention/default", json={"curves": "forever", "events": 40, "slices": 40})
    assert changed.status_code == 200, changed.text
    report = {one["kind"]: one for one in changed.json()["items"]}
    assert (report["curves"]["days"], report["curves"]["due"]) == (None, 0)
    assert (report["events"]["days"], report["events"]["is_own"]) == (40, True)
    assert report["events"]["due"] > 5
    assert client.put("/v1/retention/default", json={"slices": 5}).status_code == 422
    assert client.put("/v1/retention/nobody", json={}).status_code == 404
    key = client.post("/v1/keys", json={"name": "a", "tenant": "smith", "scopes": ["read", "write", "admin"]})
    headers = {"Authorization": f"Bearer {key.json()['secret']}"}
    own = client.get("/v1/retention", headers=headers).json()["items"]
    assert {one["tenant"] for one in own} == {"smith"}
    assert client.get("/v1/retention?tenant=default", headers=headers).status_code == 404
    assert client.put("/v1/retention/smith", json={}, headers=headers).status_code == 403


def test_an_old_sqlite_file_is_rewritten_once_and_then_shrinks_in_steps(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_space, "_LOG_BYTES", 10**6)
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE blocks (value BLOB)")
    made.close()
    database = Database(f"sqlite:///{path}")
    vacuum_once(database)
    with database.engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() == 2
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) "
            "INSERT INTO blocks SELECT zeroblob(4000) FROM n"
        )
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM blocks")
    assert Path(f"{path}-wal").stat().st_size > 5e6
    assert give_back_space(database, threading.Event()) > 1000
    assert Path(f"{path}-wal").stat().st_size == 0
    assert path.stat().st_size < 4e6
    assert give_back_space(database, threading.Event()) == 0
    database.close()
    with sqlite_database.engine.connect() as connection:  # new files need no rewriting
        assert connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() == 2


def test_a_sparse_index_of_postgresql_is_rebuilt(
    reused_database: ReusedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models have increasing ids, and some points of each are kept, so no page of the index is ever empty."""
    monkeypatch.setattr(free_space, "_SMALL_INDEX_BYTES", 2**20)
    database = Database(reused_database.take())
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def run(statement: str) -> Any:
            found = connection.exec_driver_sql(statement)
            return found.scalar_one() if found.returns_rows else None

        def index_bytes() -> int:
            return int(run("SELECT pg_relation_size('pk_curve_points')"))

        run("SET session_replication_role = replica")
        run(
            "INSERT INTO curve_points (model_id, epoch, slice_id) SELECT 'mod_' || lpad(m::text, 24, '0'), e, 'sli' "
            "FROM generate_series(1, 100) m, generate_series(1, 600) e"
        )
        run("VACUUM (ANALYZE) curve_points")
        assert give_back_space(database, threading.Event()) == 0
        before = index_bytes()
        run("DELETE FROM curve_points WHERE mod(epoch, 20) != 0")
        run("VACUUM (ANALYZE) curve_points")
        assert index_bytes() == before > 2**20
        with database.engine.connect() as other:  # another process rebuilds
            other.exec_driver_sql(f"SELECT pg_advisory_lock({free_space._REBUILD_LOCK})")
            assert give_back_space(database, threading.Event()) == 0
            other.exec_driver_sql("SELECT pg_advisory_unlock_all()")
        run("CREATE INDEX pk_curve_points_ccnew ON curve_points (epoch)")
        run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pk_curve_points_ccnew'::regclass")
        assert give_back_space(database, threading.Event()) == 1
        assert index_bytes() < before / 10
        assert run("SELECT count(*) FROM curve_points") == 3000
        assert run("SELECT to_regclass('pk_curve_points_ccnew')") is None
        assert run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    database.close()
    reused_database.give_back()
