"""What jobs are scored on: the split and the held-out samples hang on the evaluation seed, not on the seed of the search."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select
from zarr.abc.store import Store

from domain.scores import bits_per_spike
from store.arrays import open_array
from store.database import Database
from store.settings import Settings
from store.tables import CurvePoint, Event, Model
from tests.worker.conftest import add_job
from tests.worker.real_training import run_job
from worker.context.data import read_array
from worker.context.process import TrainingProcess
from worker.context.slices import Work, load_work
from worker.scheduling.fair_queue import claim_slice
from worker.scheduling.scheduler import advance


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    """Of one kind: the tests are of what is trained on."""
    return sqlite_database


def first_slice(process: TrainingProcess, job_id: str) -> Work:
    with process.database.write() as session:
        advance(session, job_id, process.settings)
        lease = claim_slice(session, "here", process.settings)
    assert lease is not None
    return load_work(process.database, lease)


def held_out(process: TrainingProcess, work: Work) -> NDArray[np.bool_]:
    """[validation trials, T, N] as the training process has it on its device."""
    data = process.data.load(work).training
    [part] = data.batch(data.validation_trials).parts
    found: NDArray[np.bool_] = part.held_out.permute(1, 0, 2).numpy()
    return found


def scored(database: Database, arrays: Store, settings: Settings, job_id: str) -> tuple[list[str], Any]:
    """Split and held-out samples of a job, by a process that has trained nothing else."""
    process = TrainingProcess(database, arrays, settings, name="here", device="cpu")
    work = first_slice(process, job_id)
    return work.split().tolist(), held_out(process, work)


def test_the_seed_of_the_search_changes_no_sample_that_is_scored(
    database: Database, arrays: Store, settings: Settings, dataset_id: str
) -> None:
    first, other_seed, other_samples = (
        scored(database, arrays, settings, add_job(database, dataset_id, seed=seed, training=training))
        for seed, training in ((0, {}), (7, {}), (0, {"evaluation_seed": 7}))
    )
    assert first[0] == other_seed[0]
    np.testing.assert_array_equal(first[1], other_seed[1])
    assert first[0] != other_samples[0]
    assert (first[1] != other_samples[1]).any()
    # by the definition: one draw for all trials, of which these are the validation trials
    valid = np.array(first[0]) == "valid"
    drawn = np.random.default_rng(0).random((40, 20, 8), dtype=np.float32) < 0.2
    np.testing.assert_array_equal(first[1], drawn[valid])


def test_a_process_that_goes_from_job_to_job_gives_each_its_own_samples(
    process: TrainingProcess, database: Database, dataset_id: str
) -> None:
    masks = [
        held_out(process, first_slice(process, add_job(database, dataset_id, seed=seed, training=training)))
        for seed, training in ((0, {}), (1, {"evaluation_seed": 1}), (2, {}))
    ]
    assert (masks[0] != masks[1]).any()
    np.testing.assert_array_equal(masks[0], masks[2])


def test_models_of_other_seeds_differ_and_are_scored_on_the_same_samples(
    process: TrainingProcess, database: Database, arrays: Store, dataset_id: str
) -> None:
    splits, losses = [], []
    for seed in (0, 1):
        job_id = add_job(database, dataset_id, seed=seed, inference={"refit": True, "posterior_samples": 2})
        run_job(process, job_id)
        with database.read() as session:
            models = session.execute(select(Model).where(Model.job_id == job_id)).scalars().all()
        losses.append(models[0].smoothed_sv_loss)
        [with_latents] = [model for model in models if model.latents_path]
        split = open_array(arrays, with_latents.latents_path or "", "split")
        assert split is not None
        splits.append(split[...].tolist())
    assert splits[0] == splits[1]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "observation", ["poisson", pytest.param("negative_binomial", marks=pytest.mark.slow)]
)
def test_every_report_has_the_sv_loss_in_bits_per_spike(
    process: TrainingProcess, database: Database, dataset_id: str, observation: str
) -> None:
    architecture = {
        "encoder_units": 8,
        "generator_units": 8,
        "initial_condition_bins": 3,
        "observation": observation,
    }
    job_id = add_job(database, dataset_id, architecture=architecture)
    work = first_slice(process, job_id)
    mask = held_out(process, work)[:, 3:]
    spikes = read_array(process.arrays, work.dataset, "spikes")[work.split() == "valid", 3:].astype(float)
    with database.write() as session:
        work.lease.keep(session, process.settings)
    from worker.training.train import train

    train(process, work)
    with database.read() as session:
        models = session.execute(select(Model).where(Model.job_id == job_id)).scalars().all()
        points = session.execute(select(CurvePoint)).scalars().all()
        events = session.execute(select(Event.data).where(Event.kind == "progress")).scalars().all()
    assert len(models) == 3
    assert len(points) == 12
    found = [(one.scores["sv_loss"], one.scores["sv_bits_per_spike_valid"]) for one in models]
    found += [(point.sv_loss, point.sv_bits_per_spike_valid) for point in points]
    found += [(one["sv_loss"], one["sv_bits_per_spike_valid"]) for data in events for one in data["models"]]
    if observation != "poisson":
        assert {bits for _, bits in found} == {None}
        return
    # The rates of a model whose loss this is are not kept: rates that are the mean times one factor have any loss above the
    # mean's, so the factor that has this loss gives the same bits per spike, by the definition of the metric.
    mean = (spikes * mask).sum((0, 1)) / mask.sum((0, 1))
    log_factorials = np.array([0, 0, *np.cumsum(np.log(np.arange(2, 60)))])[spikes.astype(int)]

    def loss(factor: float) -> float:
        rates = mean * factor
        return float(((rates - spikes * np.log(rates) + log_factorials) * mask).sum() / mask.sum())

    for sv_loss, bits in found:
        low, high = 1.0, 1000.0
        assert loss(low) < sv_loss < loss(high)
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if loss(middle) < sv_loss else (low, middle)
        rates = np.broadcast_to(mean * low, spikes.shape)
        assert bits == pytest.approx(bits_per_spike(rates, spikes, mask=mask), abs=1e-4)
