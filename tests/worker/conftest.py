"""A data set and a job in the database, and a training process in this one."""

import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import event
from zarr.abc.store import Store

import worker.ingest.service
from domain.job_specification import JobSpecification
from domain.states import DatasetState, DeliveryState, InferenceState, JobState, ModelState, SliceState
from store import outbox
from store.array_store import open_array_store
from store.database import Database
from store.identifiers import new_id
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Dataset, Inference, Job, Model, Slice, Tenant, Trial, WebhookDelivery
from tests.worker.real_training import ingest
from worker.context.process import TrainingProcess
from worker.ingest.readers import ReadOptions
from worker.ingest.sandbox import ParsedFile, parse_in_sandbox

SPECIFICATION: dict[str, Any] = {
    "architecture": {"encoder_units": 8, "initial_condition_dim": 8, "generator_units": 8, "factors": 3},
    "training": {"batch_size": 16, "ramp_epochs": 2},
    "budget": {"models": 3, "epochs": 4},
    "inference": {"posterior_samples": 4},
}


_STATES: dict[type[Any], type[StrEnum]] = {
    Dataset: DatasetState, Inference: InferenceState, Job: JobState, Model: ModelState, Slice: SliceState,
    WebhookDelivery: DeliveryState,
}  # fmt: skip


def drawn_edges(states: type[StrEnum]) -> set[tuple[str, str]]:
    """The edges of a state machine as its docstring draws them."""
    drawn = re.findall(r"^ +(\w+) +──[^─]+──▶ (\w+)$", states.__doc__ or "", re.MULTILINE)
    assert drawn, f"{states.__name__} draws no edges"
    return set(drawn)


@pytest.fixture(autouse=True)
def walked_edges() -> Iterator[dict[type[Any], set[tuple[str, str]]]]:
    """The edges that rows walk in a test, by table; one that is not drawn fails it."""
    walked: dict[type[Any], set[tuple[str, str]]] = {table: set() for table in _STATES}
    watched = []
    for table, states in _STATES.items():
        edges = drawn_edges(states)

        def walk(
            row: Any,
            new: str,
            old: Any,
            _event: Any,
            table: type[Any] = table,
            edges: set[tuple[str, str]] = edges,
        ) -> None:
            if isinstance(old, str) and old != new:
                walked[table].add((str(old), str(new)))
                assert (old, new) in edges, (
                    f"{table.__name__} {row.id} went from {old} to {new}: no such edge is drawn"
                )

        event.listen(table.state, "set", walk, active_history=True)
        watched.append((table.state, walk))
    yield walked
    for attribute, walk in watched:
        event.remove(attribute, "set", walk)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, lease_seconds=3, heartbeat_seconds=0.001, slice_seconds=60)


@pytest.fixture
def arrays(database: Database) -> Store:
    return open_array_store("sql:", database)


def add_dataset(database: Database, trials: int = 40, tenant_id: str = DEFAULT_TENANT) -> str:
    """A data set of which the scheduler needs only the rows."""
    dataset_id = new_id("dat")
    with database.write() as session:
        if session.get(Tenant, tenant_id) is None:
            session.add(Tenant(id=tenant_id, name=tenant_id))
            session.flush()
        session.add(
            Dataset(
                id=dataset_id, tenant_id=tenant_id, name="test", state=DatasetState.READY, source={"kind": "test"},
                trials=trials, bins=20, neurons=8, bin_width_s=0.02, array_path="nowhere",
            )
        )  # fmt: skip
        session.flush()
        session.add_all(
            Trial(dataset_id=dataset_id, trial=i, length_bins=20, details={}) for i in range(trials)
        )
    return dataset_id


def add_job(database: Database, dataset_id: str, tenant_id: str = DEFAULT_TENANT, **changes: Any) -> str:
    """A job as `POST /v1/jobs` writes it."""
    job_id = new_id("job")
    specification = JobSpecification.model_validate({"dataset_id": dataset_id, **SPECIFICATION, **changes})
    with database.write() as session:
        session.add(
            Job(
                id=job_id, tenant_id=tenant_id, dataset_id=dataset_id, name="test", state=JobState.QUEUED,
                spec=specification.model_dump(mode="json"),
            )
        )  # fmt: skip
        session.flush()
        outbox.post(session, outbox.ADVANCE, job_id)
    return job_id


@pytest.fixture
def make_job(database: Database) -> Callable[..., str]:
    """Makes a job on a data set of its own."""

    def make(**changes: Any) -> str:
        return add_job(database, add_dataset(database), **changes)

    return make


@pytest.fixture(scope="session")
def parsed_spikes(spikes_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ParsedFile:
    """The NPZ of the tests as its subprocess reads it, once for all."""
    parsed = parse_in_sandbox(spikes_file, tmp_path_factory.mktemp("parsed"), ReadOptions())
    assert isinstance(parsed, ParsedFile)
    return parsed


@pytest.fixture
def dataset_id(
    database: Database, arrays: Store, settings: Settings, spikes_file: Path, parsed_spikes: ParsedFile
) -> str:
    """The NPZ of the tests."""
    with patch.object(worker.ingest.service, "parse_in_sandbox", return_value=parsed_spikes):
        return ingest(database, arrays, settings, spikes_file)


@pytest.fixture
def process(database: Database, arrays: Store, settings: Settings) -> TrainingProcess:
    return TrainingProcess(database, arrays, settings, name="here", device="cpu")
