"""What a tenant stores counts in a quota: every column without a limit, and the trials of a data set."""

from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import JSON, LargeBinary, String, Text

from domain.states import DatasetState
from store.database import Database
from store.migrate import alembic_config
from store.quotas import amounts_in_use, file_bytes
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Base, Dataset, Trial, trial_bytes


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


COUNTED = {
    # `database_bytes`: `row_bytes` of jobs, with about 2 kB for each model that begins, and of data sets
    "jobs": "spec warm_models warnings trained_with diagnostics error notes tags search_text",
    "datasets": "source report problems notes tags search_text",
    "trials": "details",
    "models": "architecture hyperparameters",
    # `database_bytes`: an estimate for each row, whose texts have limits
    "uploads": "tus_metadata",
    "inferences": "options scores baselines baseline_settings error",
    "keys": "scopes",
    "webhooks": "states",
    # `stored_bytes`: `array_bytes`, `checkpoint_bytes` and `latents_bytes`
    "array_objects": "value",
}
WRITTEN_BY_REQUESTS = {
    # `written_bytes_per_day`; the retention deletes the rows
    "audit": "details",
    "idempotent_requests": "body",
}
BOUNDED_BY_WORK = {
    # Workers write them while a job uses `job_model_epochs` and device time; the retention deletes events.
    "models": "best_hyperparameters scores baselines baseline_settings end_reason",
    "decisions": "hyperparameters reason",
    "events": "data",
    "slices": "model_ids error",
    "webhook_deliveries": "body error",
}
OF_THE_SERVICE = {"outbox": "arguments", "tenants": "retention quotas"}


def test_every_column_without_a_limit_is_counted_or_bounded() -> None:
    known = {
        (table, column)
        for kind in (COUNTED, WRITTEN_BY_REQUESTS, BOUNDED_BY_WORK, OF_THE_SERVICE)
        for table, columns in kind.items()
        for column in columns.split()
    }
    unlimited = {
        (table.name, column.name)
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, JSON | Text | LargeBinary)
        or (isinstance(column.type, String) and column.type.length is None)
    }
    assert unlimited == known, "say in which quota a new column counts, and remove old ones"


def add_dataset(database: Database, name: str, **columns: object) -> None:
    with database.write() as session:
        session.add(
            Dataset(
                id=name, tenant_id=DEFAULT_TENANT, name=name, state=DatasetState.READY, source={}, attempts=0,
                **columns,
            )
        )  # fmt: skip


def used(database: Database, settings: Settings) -> float:
    with database.read() as session:
        return amounts_in_use(session, settings, DEFAULT_TENANT)["database_bytes"].used


def test_long_documents_and_trials_count_and_stay_counted(database: Database, settings: Settings) -> None:
    add_dataset(database, "dat_1")
    before = used(database, settings)
    with database.write() as session:
        row = session.get_one(Dataset, "dat_1")
        row.trial_bytes, row.problems = 70_000, [{"message": "x" * 10_000}]
    assert used(database, settings) - before >= 80_000
    with database.write() as session:
        row = session.get_one(Dataset, "dat_1")
        row.notes = "é" * 1_000
    assert used(database, settings) - before >= 80_000 + 2 * 2_000  # also in the text of the search
    with database.write() as session:
        row = session.get_one(Dataset, "dat_1")
        row.problems = None
    assert 70_000 + 4_000 <= used(database, settings) - before < 80_000


def test_trials_of_before_are_counted(database: Database, settings: Settings) -> None:
    details = [{"condition": "left", "note": "x" * 1_000}, {"condition": None}]
    add_dataset(database, "dat_1")
    add_dataset(database, "dat_2")
    with database.write() as session:
        session.add_all(
            Trial(dataset_id="dat_1", trial=trial, length_bins=5, details=one)
            for trial, one in enumerate(details)
        )
    before = used(database, settings)
    with database.engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0017")
        command.upgrade(config, "head")
    assert used(database, settings) - before == trial_bytes(details) > 1_200
    with database.read() as session:
        assert [session.get_one(Dataset, name).trial_bytes for name in ("dat_1", "dat_2")] == [
            trial_bytes(details),
            None,
        ]


def test_a_file_of_several_data_sets_counts_once(database: Database, settings: Settings) -> None:
    for name, original, size in (("a", "one", 5), ("b", "one", 5), ("c", "two", 7), ("d", None, 9)):
        add_dataset(database, name, original=original, original_bytes=size, array_bytes=100)
    with database.read() as session:
        assert file_bytes(session, Dataset.tenant_id == DEFAULT_TENANT) == 12
        assert file_bytes(session, Dataset.id == "b") == 5
        assert file_bytes(session, Dataset.id == "d") == 0
        assert [session.get_one(Dataset, name).stored_bytes for name in "abcd"] == [105, 105, 107, 100]
        assert amounts_in_use(session, settings, DEFAULT_TENANT)["stored_bytes"].used == 12 + 400
