"""The health checks: what is overdue in the maintenance loop, on both databases, and the names of workers."""

import importlib.util
from datetime import timedelta
from types import ModuleType, SimpleNamespace

import pytest
from celery.signals import celeryd_init
from kombu.matcher import match

from domain.states import DatasetState
from store import outbox
from store.database import Database
from store.tables import DEFAULT_TENANT, Dataset, OutboxMessage, utc_now
from tests.docker.compose_document import DOCKER
from worker import child_processes
from worker.celery_app import app
from worker.child_processes import process_name


@pytest.fixture(scope="module")
def health() -> ModuleType:
    spec = importlib.util.spec_from_file_location("health", DOCKER / "health.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dataset_leased_for(seconds: float) -> Dataset:
    return Dataset(
        id="dat_1",
        tenant_id=DEFAULT_TENANT,
        name="reaches",
        state=DatasetState.INGESTING,
        source={"kind": "upload"},
        lease_token="token",
        lease_expires_at=utc_now() + timedelta(seconds=seconds),
        leased_by="host:1",
    )


def test_a_loop_that_keeps_up_is_healthy(database: Database, health: ModuleType) -> None:
    with database.write() as session:
        outbox.post(session, outbox.RUN_SLICE)
        session.add(dataset_leased_for(-5))  # ran out just now: the loop may still be about to see it
    assert health.overdue_duties(database) == []


def test_a_message_that_waits_is_overdue(database: Database, health: ModuleType) -> None:
    with database.write() as session:
        session.add(
            OutboxMessage(task="run_slice", arguments=[], created_at=utc_now() - timedelta(seconds=60))
        )
    assert health.overdue_duties(database) == ["1 messages to send, for more than 30 s"]


def test_a_lease_that_ran_out_is_overdue(database: Database, health: ModuleType) -> None:
    with database.write() as session:
        session.add(dataset_leased_for(-60))
    assert health.overdue_duties(database) == ["1 expired leases to take back, for more than 30 s"]


def test_exits_with_1_and_says_why(
    sqlite_database: Database, health: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "get_database", lambda: sqlite_database)
    health.main("maintenance")
    with sqlite_database.write() as session:
        session.add(dataset_leased_for(-60))
    with pytest.raises(SystemExit, match="1 expired leases"):
        health.main("maintenance")


def test_a_ping_reaches_the_workers_of_this_host_and_queue(
    health: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["slices@lab", "slices@lab", "slices@elsewhere", "control@lab"]
    nodes = [SimpleNamespace(hostname=name) for name in names]
    for node in nodes:
        celeryd_init.send(sender=node.hostname, instance=node)
    unique = [node.hostname for node in nodes]
    assert len(set(unique)) == 4  # also of the two that were started alike

    def broadcast(*_: object, pattern: str, matcher: str, **__: object) -> list[dict[str, object]]:
        return [{name: {"ok": "pong"}} for name in unique if match(name, pattern, matcher)]

    monkeypatch.setattr(app.control, "broadcast", broadcast)
    monkeypatch.setattr("socket.gethostname", lambda: "lab")
    assert health.answering_nodes("slices", 1.0) == unique[:2]
    assert health.answering_nodes("control", 1.0) == unique[3:]
    with pytest.raises(SystemExit, match="no worker of the queue 'infer' on lab responds within 1 s"):
        health.main("infer", 1.0)


def test_processes_of_one_host_and_id_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers can share both; each new cache stands for a new process."""
    monkeypatch.setattr("os.getpid", lambda: 7)
    monkeypatch.setattr("socket.gethostname", lambda: "lab")
    names = set()
    for _ in range(3):
        child_processes._name_of.cache_clear()
        assert process_name() == process_name()
        names.add(process_name())
    child_processes._name_of.cache_clear()
    assert len(names) == 3
    assert all(name.startswith("lab:7:") for name in names)
