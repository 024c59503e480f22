"""Jobs to simulate: their rows as the API writes them, and what each of them selects when nothing disturbs it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from domain.job_specification import JobSpecification
from domain.states import DatasetState, JobState
from store import outbox
from store.array_store import open_array_store
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.identifiers import new_id
from store.migrate import migrate
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Dataset, Job, Model, Trial
from tests.simulation.fake_training import Pace, instead_of_the_network
from worker.context.process import TrainingProcess
from worker.process.run_next import run_next
from worker.scheduling.scheduler import advance

DATA_PATH = "datasets/simulated"
TRIALS, BINS, NEURONS = 40, 25, 100
"""Sizes of each simulated data set: small, since loading is measured apart, with as many neurons as a usual recording."""
BIN_WIDTH_S = 0.02


def write_data(arrays: Store) -> None:
    """Write the counts that all simulated data sets share."""
    spikes = np.random.default_rng(0).poisson(0.2, (TRIALS, BINS, NEURONS)).astype(np.uint8)
    writer = ArrayGroupWriter(arrays, DATA_PATH)
    writer.write(NamedArray("spikes", spikes, ("trial", "time_s", "neuron")))
    writer.write(NamedArray("time_s", np.arange(BINS) * BIN_WIDTH_S, ("time_s",), "s"))
    writer.close()


def add_jobs(database: Database, specifications: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write jobs with a data set each, post their first messages, and return their ids.

    Parameters
    ----------
    specifications
        One for each job, without `dataset_id`.
    """
    with database.write() as session:
        return [_add_job(session, specification) for specification in specifications]


def _add_job(session: Session, given: Mapping[str, Any]) -> str:
    dataset_id, job_id = new_id("dat"), new_id("job")
    specification = JobSpecification.model_validate({**given, "dataset_id": dataset_id})
    session.add(
        Dataset(
            id=dataset_id,
            tenant_id=DEFAULT_TENANT,
            name="simulated",
            state=DatasetState.READY,
            source={"kind": "simulated"},
            trials=TRIALS,
            bins=BINS,
            neurons=NEURONS,
            bin_width_s=BIN_WIDTH_S,
            array_path=DATA_PATH,
        )
    )
    session.flush()
    session.add_all(
        Trial(dataset_id=dataset_id, trial=trial, length_bins=BINS, details={}) for trial in range(TRIALS)
    )
    session.add(
        Job(
            id=job_id,
            tenant_id=DEFAULT_TENANT,
            dataset_id=dataset_id,
            name="simulated",
            state=JobState.QUEUED,
            priority=specification.priority,
            spec=specification.model_dump(mode="json"),
        )
    )
    session.flush()
    outbox.post(session, outbox.ADVANCE, job_id)
    return job_id


def are_all_done(database: Database) -> bool:
    """Return whether every job is done."""
    with database.read() as session:
        return set(session.execute(select(Job.state)).scalars()) == {JobState.DONE}


class Selected(NamedTuple):
    """The selected model of a job: its number and its lowest smoothed SV loss."""

    number: int
    smoothed_sv_loss: float | None


def selected_of(session: Session, job_id: str) -> Selected | None:
    """Return the selected model of a job, if there is one."""
    job = session.get_one(Job, job_id)
    if job.selected_model_id is None:
        return None
    model = session.get_one(Model, job.selected_model_id)
    return Selected(model.number, model.smoothed_sv_loss)


def select_undisturbed(folder: Path, specifications: Sequence[Mapping[str, Any]]) -> list[Selected | None]:
    """Run jobs one after the other in this process, with training that takes no time, and return what they select."""
    database = Database(f"sqlite:///{folder / 'undisturbed.db'}")
    migrate(database)
    arrays = open_array_store("sql:", database)
    settings = Settings(slice_seconds=3600.0)
    process = TrainingProcess(database, arrays, settings, "undisturbed", device="cpu")
    write_data(arrays)
    found = []
    with instead_of_the_network(Pace(0.0)):
        for specification in specifications:
            (job_id,) = add_jobs(database, [specification])
            has_more = True
            while has_more:
                with database.write() as session:
                    advance(session, job_id, settings)
                has_more = run_next(process)
            with database.read() as session:
                found.append(selected_of(session, job_id))
    database.close()
    return found
