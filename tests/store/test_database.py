"""Migrations, transactions, settings."""

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import ValidationError
from sqlalchemy import select, text

from domain.job_specification import JobSpecification, split_trials
from domain.split_groups import SplitGroups
from store import database as database_module
from store import outbox
from store.database import Database, database_now
from store.identifiers import PATTERN, new_id
from store.migrate import alembic_config, migrate
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Base, Job, OutboxMessage, Tenant, UtcDateTime


def test_migrations_give_the_tables_of_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_changes_nothing(database: Database) -> None:
    migrate(database)
    with database.read() as session:
        assert session.execute(select(Tenant.id)).scalars().all() == [DEFAULT_TENANT]


def test_rows_of_the_first_schema_are_kept(sqlite_database: Database) -> None:
    """Down to it and up again; what is new of them is empty."""
    config = alembic_config()
    with sqlite_database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        connection.execute(
            text(
                "INSERT INTO datasets (id, tenant_id, name, state, source, attempts, created_at) "
                "VALUES ('dat_1', 'default', 'old', 'ready', '{}', 0, '2026-01-01')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO jobs (id, tenant_id, dataset_id, name, state, spec, created_at) "
                "VALUES ('job_1', 'default', 'dat_1', 'old', 'done', '{}', '2026-01-01')"
            )
        )
    migrate(sqlite_database)
    with sqlite_database.read() as session:
        job = session.get_one(Job, "job_1")
        assert (job.name, job.diagnostics) == ("old", None)


def test_jobs_of_before_keep_their_split_and_their_held_out_samples(database: Database) -> None:
    """Revision 0007 drew both from `seed`; what it drew stands here as it was written then."""
    config = alembic_config()
    specification = JobSpecification(dataset_id="dat_1", seed=5).model_dump(mode="json")
    for new in ("evaluation_seed", "test_fraction"):
        del specification["training"][new]
    specification["training"]["least_learning_rate"] = specification["training"].pop("min_learning_rate")
    specification["inference"]["final_fit"] = specification["inference"].pop("refit")
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0007")
        connection.execute(
            text(
                "INSERT INTO datasets (id, tenant_id, name, state, source, attempts, created_at) "
                "VALUES ('dat_1', 'default', 'old', 'ready', '{}', 0, '2026-01-01')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO jobs (id, tenant_id, dataset_id, name, state, spec, created_at) "
                "VALUES ('job_1', 'default', 'dat_1', 'old', 'paused', :spec, '2026-01-01')"
            ),
            {"spec": json.dumps(specification)},
        )
    migrate(database)
    with database.read() as session:
        stored = session.get_one(Job, "job_1").spec
    migrated = JobSpecification.model_validate(stored)
    assert (migrated.seed, migrated.training.evaluation_seed, migrated.training.test_fraction) == (5, 5, 0.0)
    split = split_trials([None] * 20, SplitGroups.alone(20), migrated.training)
    drawn = np.random.default_rng([5, 0x5B117]).permutation(20)[:4]  # valid_fraction 0.2
    assert [trial for trial, part in enumerate(split) if part == "valid"] == sorted(drawn.tolist())
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0007")
        spec = connection.execute(text("SELECT spec FROM jobs")).scalar_one()
    assert (json.loads(spec) if isinstance(spec, str) else spec) == specification


def test_postgresql_does_not_try_to_compress_array_objects(postgres_database_url: str) -> None:
    database = Database(postgres_database_url)
    migrate(database)
    storage = text(
        "SELECT attstorage FROM pg_attribute WHERE attrelid = 'array_objects'::regclass AND attname = 'value'"
    )
    with database.read() as session:
        assert session.execute(storage).scalar_one() in ("e", b"e")
    database.close()


def test_several_processes_may_migrate_at_once(postgres_database_url: str, tmp_path: Path) -> None:
    for url in (postgres_database_url, f"sqlite:///{tmp_path / 'new' / 'several.db'}"):
        environment = {**os.environ, "LATENTRY_DATABASE_URL": url}
        command = [sys.executable, "-m", "store.migrate"]
        processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(3)]
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors.decode()


def test_concurrent_read_and_write_loses_no_update(database: Database) -> None:
    """Each transaction reads and then writes: under SQLite's default BEGIN a third of these would be lost."""
    with database.write() as session:
        session.add(Tenant(id="counter", name="0"))

    def count_up() -> None:
        for _ in range(20):
            with database.write() as session:
                row = session.get_one(Tenant, "counter", with_for_update=True)
                row.name = str(int(row.name) + 1)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.get_one(Tenant, "counter").name == "80"


def write_name(database: Database, name: str, hold_seconds: float = 0.0) -> None:
    with database.write() as session:
        session.get_one(Tenant, DEFAULT_TENANT).name = name
        session.flush()
        time.sleep(hold_seconds)


def test_a_new_connection_waits_for_no_writer(sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        session.get_one(Tenant, DEFAULT_TENANT).name = "half written"
        session.flush()
        new = sqlite3.connect(sqlite_database.engine.url.database or "", timeout=0.0)  # else it would wait
        database_module._configure_sqlite(new)
        assert new.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert new.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        new.close()


def test_a_process_that_writes_without_a_pause_keeps_others_waiting_for_one_transaction_each(
    sqlite_database: Database,
) -> None:
    """Two engines stand for two processes: each locks by itself. With SQLite's lock alone, this takes 5 to 30 in between."""
    other, over, written = Database(sqlite_database.url), threading.Event(), [0]

    def write_on() -> None:
        while not over.is_set():
            write_name(sqlite_database, "busy", hold_seconds=0.01)
            written[0] += 1

    thread = threading.Thread(target=write_on)
    thread.start()
    while written[0] < 2:
        time.sleep(0.001)
    before = written[0]
    for _ in range(10):
        write_name(other, "quiet")
    between = written[0] - before
    over.set()
    thread.join()
    other.close()
    assert between <= 30


def test_waiting_threads_of_several_tenants_write_in_turns(sqlite_database: Database) -> None:
    order: list[str | None] = []
    turns = database_module._AlternatingLock()
    assert turns.acquire("busy", 1)

    def write(tenant_id: str | None) -> None:
        assert turns.acquire(tenant_id, 60)
        order.append(tenant_id)
        turns.release()

    threads = []
    for tenant_id in ("busy", "busy", "busy", "quiet", None):
        threads.append(threading.Thread(target=write, args=(tenant_id,)))
        threads[-1].start()
        while len(turns._waiting) < len(threads):
            time.sleep(0.001)
    assert not turns.acquire("late", 0.01)
    turns.release()
    for thread in threads:
        thread.join()
    assert order == ["quiet", "busy", None, "busy", "busy"]
    assert turns.acquire("late", 1)


def test_a_writer_goes_on_without_its_turn(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns only help: a process that hangs with the lock of the queue does not stop the service."""
    monkeypatch.setattr(database_module, "_LONGEST_WAIT_SECONDS", 0.05)
    with Path(sqlite_database.engine.url.database + "-queue").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_name(sqlite_database, "written")
    with sqlite_database.read() as session:
        assert session.get_one(Tenant, DEFAULT_TENANT).name == "written"


def test_a_message_is_written_with_its_transaction_or_not_at_all(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            outbox.post(session, outbox.ADVANCE, "job_1")
            session.flush()
            raise RuntimeError("rolled back")

    with pytest.raises(RuntimeError, match="rolled back"):
        fail()
    with database.write() as session:
        outbox.post(session, outbox.ADVANCE, "job_2")
    with database.read() as session:
        assert session.execute(select(OutboxMessage.arguments)).scalars().all() == [["job_2"]]


def test_times_come_back_in_utc(database: Database) -> None:
    with database.read() as session:
        now = database_now(session)
        assert now.tzinfo is not None
        assert abs(now - datetime.now(UTC)) < timedelta(seconds=5)
        assert session.get_one(Tenant, DEFAULT_TENANT).created_at.utcoffset() == timedelta(0)


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without zone"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), None)  # type: ignore[arg-type]


def test_identifiers_sort_by_time_and_never_meet() -> None:
    made = [new_id("job") for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(PATTERN.match(one) for one in made)
    assert [one[:16] for one in made] == sorted(one[:16] for one in made)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTRY_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LATENTRY_LEASE_SECONDS", "90")
    settings = Settings()
    assert settings.lease_seconds == 90
    assert settings.database_url == f"sqlite:///{tmp_path}/latentry.db"


def test_a_lease_shorter_than_three_heartbeats_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least three times heartbeat_seconds"):
        Settings(lease_seconds=5, heartbeat_seconds=4)
