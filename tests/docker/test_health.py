"""The health check of the maintenance loop sees what is overdue, on both databases."""

import importlib.util
from datetime import timedelta
from types import ModuleType

import pytest

from domain.states import DatasetState
from store import outbox
from store.database import Database
from store.tables import DEFAULT_TENANT, Dataset, OutboxMessage, utc_now
from tests.docker.compose_document import DOCKER


@pytest.fixture(scope="module")
def health() -> ModuleType:
    spec = importlib.util.spec_from_file_location("maintenance_health", DOCKER / "maintenance_health.py")
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
    health.main()
    with sqlite_database.write() as session:
        session.add(dataset_leased_for(-60))
    with pytest.raises(SystemExit, match="1 expired leases"):
        health.main()
