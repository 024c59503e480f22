"""`GET /v1/checks` says what is wrong with each part, soon, also while parts are down."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from fastapi.testclient import TestClient
from redis import Redis
from sqlalchemy import text

from api.checks import base, databases, machine, work
from api.checks.base import Check, Checks, CheckStatus, Parts, failed, ok, warning
from api.checks.brokers import check_broker, check_queues
from api.checks.databases import check_database, check_migrations
from api.checks.machine import check_array_storage, check_disk, check_originals
from api.checks.routes import CHECKS
from api.checks.work import check_ingest, check_maintenance, check_workers
from domain.states import DatasetState, DeliveryState, SliceState
from store import outbox
from store.array_store import open_array_store
from store.database import Database
from store.identifiers import new_id
from store.keys import secret_digest
from store.originals import open_originals
from store.queues import CONTROL, INFER, INGEST, QUEUES, SLICES
from store.rpc import CallFailed, WorkersAway, broker_url
from store.settings import Settings
from store.tables import (
    DEFAULT_TENANT,
    ArrayObject,
    Dataset,
    Key,
    OutboxMessage,
    Slice,
    Webhook,
    WebhookDelivery,
    Worker,
    utc_now,
)
from tests.api.api_examples import add_dataset, add_job, count
from tests.app_copies import app_of
from tests.servers import broker, free_port
from tests.waiting import wait_until
from worker.celery_app import app

NOBODY = f"redis://:broker-secret@127.0.0.1:{free_port()}/0"


@pytest.fixture(autouse=True)
def however_busy_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_SLOW_SECONDS", 60.0)


@pytest.fixture(scope="module")
def live_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real broker."""
    with broker(tmp_path_factory.mktemp("broker")) as started:
        yield started.url


def parts_of(database: Database, folder: Path, **settings: Any) -> Parts:
    made = Settings(data_dir=folder, **{"redis_url": NOBODY, **settings})
    return Parts(made, database, open_array_store(made.array_url, database), open_originals(made))


@pytest.fixture
def parts(database: Database, tmp_path: Path) -> Parts:
    """Parts of a service on a database of each kind, without a broker."""
    return parts_of(database, tmp_path)


@pytest.fixture
def light_parts(sqlite_database: Database, tmp_path: Path) -> Parts:
    return parts_of(sqlite_database, tmp_path)


@pytest.fixture
def bare_parts(tmp_path: Path) -> Parts:
    """Parts whose database nobody asks."""
    return parts_of(Database(f"sqlite:///{tmp_path / 'none.db'}"), tmp_path)


def read(app: Any, **headers: str) -> dict[str, Any]:
    answer = TestClient(app).get("/v1/checks", headers=headers)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_every_part_is_looked_at_and_what_is_down_is_named(parts: Parts) -> None:
    document = read(app_of(parts.settings, parts.database, parts.arrays))
    found = {one["name"]: one for one in document["checks"]}
    assert list(found) == list(CHECKS)
    broken = {name for name, one in found.items() if one["status"] == "failed"}
    assert broken == {"broker", "queues", "workers"}
    assert document["status"] == "failed"
    assert all(found[name]["hint"] for name in broken)
    assert found["database"]["message"].startswith("SQLite" if parts.database.is_sqlite else "PostgreSQL")
    assert "broker-secret" not in str(document)
    assert "127.0.0.1" in str(found["broker"]["details"])
    assert count(parts.database, ArrayObject) == 0  # the probe is gone
    assert not any(parts.settings.uploads_dir.iterdir())


def test_a_database_that_is_away_is_told_without_its_password(tmp_path: Path, live_broker: str) -> None:
    away = Database(f"postgresql+psycopg://user:hidden-word@127.0.0.1:{free_port()}/lab?password=hidden-word")
    parts = parts_of(away, tmp_path, redis_url=live_broker)
    document = read(app_of(parts.settings, away, parts.arrays))
    found = {one["name"]: one for one in document["checks"]}
    for name in ("database", "migrations", "workers", "maintenance", "array_storage"):
        assert found[name]["status"] == "failed", name
    assert found["database"]["details"]["database"] == "lab"
    assert {found[name]["status"] for name in ("broker", "originals", "disk")} == {"ok"}
    assert "hidden-word" not in str(document)


def test_only_whoever_runs_the_service_reads_addresses(sqlite_database: Database, tmp_path: Path) -> None:
    operator, secret = "operator-" + "0" * 20, "lat_of_a_tenant"
    parts = parts_of(sqlite_database, tmp_path, require_key=True, admin_key=operator)
    row = Key(
        id=new_id("key"), tenant_id=DEFAULT_TENANT, name="a", digest=secret_digest(secret), beginning="lat",
        scopes=["read"],
    )  # fmt: skip
    with sqlite_database.write() as session:
        session.add(row)
    app = app_of(parts.settings, sqlite_database, parts.arrays)
    assert TestClient(app).get("/v1/checks").status_code == 401
    told = read(app, Authorization=f"Bearer {secret}")
    assert [one["details"] for one in told["checks"]] == [None] * len(CHECKS)
    assert str(tmp_path) not in str(told)
    assert "127.0.0.1" not in str(told)
    whole = read(app, Authorization=f"Bearer {operator}")
    assert str(tmp_path) in str(whole["checks"])


def test_a_check_that_hangs_is_a_finding_and_is_not_begun_twice(
    bare_parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_CACHE_SECONDS", 0.0)
    let_go, begun = threading.Event(), []

    def hangs(_parts: Parts) -> Any:
        begun.append(1)
        let_go.wait(600)
        return ok("at last")

    def breaks(_parts: Parts) -> Any:
        raise ZeroDivisionError("secret of the inside")

    def warns(_parts: Parts) -> Any:
        return warning("nearly", "do it")

    checks = Checks(bare_parts, {"hangs": hangs, "breaks": breaks, "warns": warns}, limit_seconds=1.0)
    for _ in range(2):
        document = checks.run()
        hanging, broken, warned = document.checks
        assert (hanging.status, broken.status, warned.status) == ("failed", "failed", "warning")
        assert hanging.message.startswith("no response within")
        assert broken.message == "the check failed with an error: ZeroDivisionError"
    assert len(begun) == 1
    let_go.set()
    wait_until(lambda: checks.run().checks[0].message == "at last")


def test_whoever_asks_again_at_once_gets_the_same_answer(bare_parts: Parts) -> None:
    ran = []
    checks = Checks(bare_parts, {"one": lambda _parts: ran.append(1) or ok("fine")})
    assert checks.run() is checks.run()
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        ((ok("a"), ok("b")), "ok"),
        ((ok("a"), warning("b", "c")), "warning"),
        ((failed("a", "b"), ok("b")), "failed"),
    ],
)
def test_the_worst_counts(bare_parts: Parts, statuses: tuple[Any, ...], worst: str) -> None:
    checks: dict[str, Check] = {str(n): (lambda _parts, one=one: one) for n, one in enumerate(statuses)}
    assert Checks(bare_parts, checks).run().status == worst


@pytest.mark.parametrize(
    ("revision", "status", "says"),
    [
        ("0001", "failed", "has the schema 0001, but this version"),
        ("ffff", "failed", "has the schema ffff, which this version of Latentry does not know"),
        (None, "failed", "no schema"),
    ],
)
def test_a_schema_that_is_not_the_newest(
    light_parts: Parts, revision: str | None, status: str, says: str
) -> None:
    assert check_migrations(light_parts).status == "ok"
    with light_parts.database.write() as session:
        session.execute(text("DELETE FROM alembic_version"))
        if revision:
            session.execute(text("INSERT INTO alembic_version VALUES (:it)"), {"it": revision})
    found = check_migrations(light_parts)
    assert found.status == status
    assert says in found.message


def test_a_clock_that_is_wrong(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_database(parts).status == "ok"
    monkeypatch.setattr("api.checks.databases.utc_now", lambda: utc_now() - timedelta(hours=1))
    found = check_database(parts)
    assert found.status == "warning"
    assert "+3600 s" in found.message


def test_a_database_that_is_slow(bare_parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_SLOW_SECONDS", 0.0)
    assert check_database(bare_parts).status == "warning"


def test_queues_are_those_of_the_workers() -> None:
    routed = {route["queue"] for route in app.conf.task_routes.values()}
    assert set(QUEUES) == {*routed, INFER} == {SLICES, CONTROL, INGEST, INFER}


def test_a_broker_and_who_takes_work(bare_parts: Parts, live_broker: str, tmp_path: Path) -> None:
    parts = parts_of(bare_parts.database, tmp_path, redis_url=live_broker)
    with Redis.from_url(live_broker) as broker:
        broker.rpush(CONTROL, "a", "b")
        found = check_broker(parts)
        assert found.status == "ok"
        assert "0 in slices, 2 in control, 0 in ingest, 0 in infer" in found.message
        broker.delete(CONTROL)
        broker.config_set("maxmemory", "100mb")
        broker.config_set("maxmemory-policy", "allkeys-lru")
        assert "allkeys-lru" in check_broker(parts).message
        broker.config_set("maxmemory", "0")
    nobody = check_queues(parts)
    assert nobody.status == "failed"
    assert all(queue in nobody.message for queue in (SLICES, CONTROL, INGEST, INFER))
    assert "no model is trained" in nobody.hint
    application = Celery("test", broker=broker_url(live_broker), set_as_current=False)
    application.conf.task_queues = None
    application.amqp.queues.select([SLICES, CONTROL, INGEST])
    with start_worker(application, pool="solo", perform_ping_check=False, shutdown_timeout=10):
        for _ in range(5):
            some = check_queues(parts)
            if some.status != CheckStatus.FAILED:
                break
    assert some.status == "warning"  # only what is answered at once is missing
    assert "1 of slices, 1 of control, 1 of ingest, 0 of infer" in some.message
    assert "no model is trained" not in some.hint


def test_a_broker_that_refuses_the_password(bare_parts: Parts, tmp_path: Path, live_broker: str) -> None:
    with Redis.from_url(live_broker) as broker:
        broker.config_set("requirepass", "right")
        try:
            found = check_broker(
                parts_of(bare_parts.database, tmp_path, redis_url=f"{live_broker}?password=wrong")
            )
        finally:
            broker.execute_command("AUTH", "right")
            broker.config_set("requirepass", "")
    assert found.status == "failed"
    assert found.message == "the broker rejects the password"
    assert "wrong" not in str(found.details)


def test_training_processes(parts: Parts) -> None:
    with parts.database.write() as session:
        session.add(Worker(name="old", device="cuda:0", seen_at=utc_now() - timedelta(hours=3)))
    found = check_workers(parts)
    assert found.status == "failed"
    assert "the last one was seen 3 h ago" in found.message
    with parts.database.write() as session:
        session.add(Worker(name="host:1", device="cuda:0"))
        job_id = add_job(session, add_dataset(session))
        session.add(
            Slice(
                id=new_id("sli"), tenant_id=DEFAULT_TENANT, job_id=job_id, kind="train", pack=0, model_ids=[],
                first_epoch=0, last_epoch=1, state=SliceState.QUEUED,
            )
        )  # fmt: skip
    found = check_workers(parts)
    assert found.status == "ok"
    assert found.message.startswith("training processes alive: 1 × cuda:0, last seen ")
    assert found.message.endswith("; queued slices: 1")
    assert list(found.details["workers"]) == ["host:1"]


def test_a_maintenance_loop_that_does_nothing(parts: Parts) -> None:
    with parts.database.write() as session:
        outbox.post(session, outbox.COLLECT)
    assert check_maintenance(parts).status == "ok"
    with parts.database.write() as session:
        session.add(
            OutboxMessage(task="collect", arguments=[], created_at=utc_now() - timedelta(seconds=100))
        )
    found = check_maintenance(parts)
    assert found.status == "failed"
    assert "2, the oldest from 100 s ago" in found.message


def test_leases_that_nobody_takes_back(parts: Parts) -> None:
    with parts.database.write() as session:
        job_id = add_job(session, add_dataset(session))
        session.add(
            Slice(
                id=new_id("sli"), tenant_id=DEFAULT_TENANT, job_id=job_id, kind="train", pack=0, model_ids=[],
                first_epoch=0, last_epoch=1, state=SliceState.LEASED, lease_token="t",
                lease_expires_at=utc_now() - timedelta(seconds=60),
            )
        )  # fmt: skip
    found = check_maintenance(parts)
    assert found.status == "failed"
    assert "nobody has taken back: 1" in found.message


def test_messages_to_webhooks_that_wait(light_parts: Parts) -> None:
    with light_parts.database.write() as session:
        webhook = Webhook(
            id=new_id("whk"), tenant_id=DEFAULT_TENANT, url="https://example.org", states=["done"], secret="s"
        )
        session.add(webhook)
        session.flush()
        for minutes in (1, 10):
            session.add(
                WebhookDelivery(
                    id=new_id("dlv"), webhook_id=webhook.id, state=DeliveryState.WAITING, body={},
                    due_at=utc_now() - timedelta(minutes=minutes),
                )
            )  # fmt: skip
    found = check_maintenance(light_parts)
    assert found.status == "warning"
    assert found.message.endswith("more than 5 min: 1")


def test_a_folder_that_nothing_can_be_written_to(light_parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    parts = parts_of(light_parts.database, tmp_path / "file", array_url=f"file://{tmp_path}/file/arrays")
    for check in (check_array_storage, check_originals):
        found = check(parts)
        assert found.status == "failed"
        assert found.details["error"].startswith(("NotADirectoryError", "FileExistsError"))
        assert str(tmp_path) not in found.message
    folder = parts_of(light_parts.database, tmp_path, array_url=f"file://{tmp_path}/arrays")
    assert check_array_storage(folder).status == "ok"
    assert [path for path in (tmp_path / "arrays").rglob("*") if path.is_file()] == []


def test_other_bytes_than_were_written(light_parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_object", lambda _store, _key: b"rotten")
    assert "other bytes" in check_array_storage(light_parts).message
    assert count(light_parts.database, ArrayObject) == 0


def test_a_writer_that_never_ends_shows(light_parts: Parts) -> None:
    with light_parts.database.write() as session:
        session.execute(text("SELECT 1"))  # it holds the lock from here on
        document = Checks(light_parts, {"array_storage": check_array_storage}, limit_seconds=0.3).run()
    assert document.checks[0].message.startswith("no response within")


@pytest.mark.parametrize(("free", "status"), [(10**9, "failed"), (2 * 10**9, "warning"), (10**11, "ok")])
def test_room_on_the_disk(bare_parts: Parts, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda _folder: free)
    found = check_disk(bare_parts)
    assert found.status == status
    assert ("uploads are refused" in found.message) == (status == "failed")
    assert "LATENTRY_DATA_DIR" in found.message


@pytest.mark.parametrize(
    ("answer", "status", "told"),
    [
        ({"reads": True}, "ok", "read a small valid file"),
        (
            CallFailed("cannot_read", "No module named 'numpy' in /opt"),
            "failed",
            "even a small valid file fails",
        ),
        (WorkersAway("no process"), "warning", "no ingest worker responded"),
    ],
)
def test_whether_uploads_can_be_read(
    light_parts: Parts, monkeypatch: pytest.MonkeyPatch, answer: Any, status: str, told: str
) -> None:
    def call(task: str, _arguments: Any, *, timeout_s: float, queue: str) -> Any:
        assert (task, queue) == ("check_ingest", INGEST)
        assert timeout_s < base.LIMIT_SECONDS
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(work, "call_worker", call)
    found = check_ingest(light_parts)
    assert (found.status, told in found.message) == (status, True)
    assert "/opt" not in found.message
    if status == "failed":
        assert "/opt" in found.details["error"]
    with light_parts.database.write() as session:
        add_dataset(session, state=DatasetState.FAILED)
    found = check_ingest(light_parts)
    if status == "ok":
        assert (found.status, found.message) == ("warning", "data sets that the service could not read: 1")
        assert "datasets retry" in found.hint
    with light_parts.database.write() as session:
        row = session.get_one(Dataset, add_dataset(session, state=DatasetState.INGESTING))
        row.lease_token = "t"
    assert check_ingest(light_parts).status == ("failed" if status == "failed" else "warning")
