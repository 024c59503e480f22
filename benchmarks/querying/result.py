"""Stored latents of a wanted size, as a worker leaves them."""

import numpy as np

from domain.job_specification import JobSpecification
from domain.states import DatasetState, JobState, ModelState
from store.array_store import open_array_store
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.identifiers import new_id
from store.migrate import migrate
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Dataset, Job, Model, Trial

BINS, NEURONS, BIN_WIDTH_S = 200, 128, 0.01
ROW_BYTES = BINS * NEURONS * 4
_DIFFERENT_TRIALS = 64
_TRIALS_AT_ONCE = 1000


def store_result(settings: Settings, size_bytes: int) -> tuple[str, int]:
    """Store a data set's trials and a model's rates of about a size.

    Returns
    -------
    tuple of str and int
        Id of the model, and number of trials.
    """
    database = Database(settings.database_url)
    migrate(database)
    trials = max(10, size_bytes // ROW_BYTES)
    dataset_id, job_id, model_id = new_id("dat"), new_id("job"), new_id("mod")
    path = f"models/{model_id}/latents/benchmark"
    with database.write() as session:
        session.add(
            Dataset(
                id=dataset_id, tenant_id=DEFAULT_TENANT, name="benchmark", state=DatasetState.READY,
                source={"kind": "synthetic"}, trials=trials, bins=BINS, neurons=NEURONS, bin_width_s=BIN_WIDTH_S,
                report={"warnings": []},
            )
        )  # fmt: skip
        session.flush()
        specification = JobSpecification(dataset_id=dataset_id).model_dump(mode="json")
        session.add(
            Job(
                id=job_id, tenant_id=DEFAULT_TENANT, dataset_id=dataset_id, name="benchmark",
                state=JobState.DONE, spec=specification, selected_model_id=model_id,
            )
        )  # fmt: skip
        session.flush()
        session.add(
            Model(
                id=model_id, tenant_id=DEFAULT_TENANT, job_id=job_id, number=0, pack=0,
                state=ModelState.TRAINED, seed=0, architecture={}, hyperparameters={}, latents_path=path,
            )
        )  # fmt: skip
        for first in range(0, trials, _TRIALS_AT_ONCE):
            session.add_all(
                Trial(
                    dataset_id=dataset_id, trial=trial, length_bins=BINS, split=None,
                    details={"condition": trial % 8, "outcome": "success" if trial % 3 else "failure"},
                )
                for trial in range(first, min(first + _TRIALS_AT_ONCE, trials))
            )  # fmt: skip
            session.flush()
    writer = ArrayGroupWriter(
        open_array_store(settings.array_url, database),
        path,
        {"model_id": model_id, "dataset_id": dataset_id, "bin_width_s": BIN_WIDTH_S},
    )
    dims = ("trial", "time_s", "neuron")
    target = writer.create("rates", (trials, BINS, NEURONS), np.float32, dims, units="spikes/s")
    random, rows = np.random.default_rng(0), target.chunks[0]
    smooth = np.cumsum(random.normal(0, 0.05, (_DIFFERENT_TRIALS, BINS, NEURONS)), axis=1)
    different = (10 * np.exp(smooth)).astype(np.float32)
    for first in range(0, trials, rows):
        which = np.arange(first, min(first + rows, trials)) % _DIFFERENT_TRIALS
        target[first : first + rows] = different[which]
    writer.write(NamedArray("trial", np.arange(trials), ("trial",)))
    writer.write(NamedArray("time_s", np.arange(BINS) * BIN_WIDTH_S, ("time_s",), "s"))
    writer.write(NamedArray("neuron", np.arange(NEURONS), ("neuron",)))
    writer.close()
    database.close()
    return model_id, trials
