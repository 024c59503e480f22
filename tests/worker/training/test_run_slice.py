"""Slices in this process, with real training of tiny models."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from zarr.abc.store import Store

from domain.states import JobState, ModelState, SliceState
from store.array_store import object_size, read_object
from store.arrays import open_array
from store.database import Database
from store.settings import Settings
from store.tables import CurvePoint, Dataset, Event, Job, Model, Slice
from tests.worker.conftest import add_job
from tests.worker.real_training import curves, ingest, run_job
from worker.context.process import TrainingProcess
from worker.process.run_next import run_next
from worker.scheduling.leases import reap
from worker.scheduling.scheduler import advance


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    """Of one kind, since training takes long: where the kinds differ, tests without training try both."""
    return sqlite_database


def test_a_job_trains_selects_and_stores_latents(
    database: Database, arrays: Store, process: TrainingProcess, dataset_id: str
) -> None:
    job_id = add_job(database, dataset_id)
    run_job(process, job_id)
    with database.read() as session:
        job = session.get_one(Job, job_id)
        models = session.execute(select(Model).where(Model.job_id == job_id)).scalars().all()
        kinds = session.execute(select(Event.kind).where(Event.job_id == job_id)).scalars().all()
    assert job.state == JobState.DONE, job.error
    best = min(models, key=lambda model: model.smoothed_sv_loss or np.inf)
    assert job.selected_model_id == best.id
    assert {"job.state", "job.diagnostics", "model.state", "slice.state", "progress"} == set(kinds)
    assert [epoch for epoch, _ in curves(database, job_id)[0]] == [1, 2, 3, 4]
    rates = open_array(arrays, best.latents_path or "", "rates")
    assert rates is not None
    assert rates.shape == (40, 20, 8)
    assert rates.attrs["units"] == "spikes/s"
    assert 5 < np.nanmean(rates[...]) < 100  # the file's mean rate is 25 spikes/s
    split = open_array(arrays, best.latents_path or "", "split")
    assert split is not None
    assert np.bincount(split[...]).tolist() == [32, 8]
    assert set(best.scores) >= {
        "sv_loss",
        "validation_loss",
        "reconstruction_bits_per_spike_valid",
        "r2_true_rates",
    }


@pytest.fixture
def driven_id(database: Database, arrays: Store, settings: Settings, tmp_path: Path) -> str:
    """Ragged trials with true rates, conditions and two external inputs."""
    random = np.random.default_rng(0)
    lengths = np.array([20, 16, 3, 20] * 10)
    past_end = np.arange(20)[None] >= lengths[:, None]
    inputs = random.normal(size=(40, 20, 2)).astype(np.float32)
    rates_hz = 30 * np.exp(0.5 * np.cumsum(inputs, axis=1) @ random.normal(size=(2, 6)) / 4)
    spikes = random.poisson(rates_hz * 0.02).astype(np.uint8)
    spikes[past_end] = 0
    np.savez(
        tmp_path / "driven.npz", spikes=spikes, bin_width_s=0.02, true_rates_hz=rates_hz.astype(np.float32),
        trial_length_bins=lengths, external_inputs=inputs, condition=np.arange(40) % 3,
    )  # fmt: skip
    return ingest(database, arrays, settings, tmp_path / "driven.npz")


EVERYTHING: dict[str, Any] = {
    "encoder_units": 8, "initial_condition_dim": 8, "generator_units": 8, "factors": 3, "controller_units": 6,
    "controller_encoder_units": 5, "inferred_inputs": 2, "input_prior": "gaussian", "initial_condition_bins": 4,
    "encoded_bins": 15, "held_out_neurons": [1, 4],
}  # fmt: skip


@pytest.mark.parametrize(
    "observation", [pytest.param("poisson", marks=pytest.mark.slow), "negative_binomial"]
)
def test_a_job_with_everything_stores_inputs_and_its_scores(
    database: Database, arrays: Store, process: TrainingProcess, driven_id: str, observation: str
) -> None:
    training = {"batch_size": 16, "ramp_epochs": 1, "decay_factor": 0.5, "decay_patience": 1}
    architecture = {**EVERYTHING, "observation": observation}
    job_id = add_job(
        database,
        driven_id,
        architecture=architecture,
        training=training,
        inference={"posterior_samples": 3, "arrays": ["rates", "inputs", "initial_conditions"]},
    )
    run_job(process, job_id)
    with database.read() as session:
        job = session.get_one(Job, job_id)
        assert job.state == JobState.DONE, job.error
        model = session.get_one(Model, job.selected_model_id)
        points = session.execute(select(CurvePoint).where(CurvePoint.model_id == model.id)).scalars().all()
    assert model.architecture["external_inputs"] == 2
    assert model.hyperparameters.keys() >= {"kl_weight_inputs", "l2_weight_controller"}
    assert all(point.kl_inputs is not None and point.kl_inputs > 0 for point in points)
    inputs, rates = (open_array(arrays, model.latents_path or "", name) for name in ("inputs", "rates"))
    assert inputs is not None
    assert rates is not None
    assert inputs.shape == (40, 20, 2)
    assert inputs.metadata.dimension_names == ("trial", "time_s", "input")
    bins, lengths = np.arange(20)[None], np.array([20, 16, 3, 20] * 10)[:, None]
    for array in (inputs, rates):
        np.testing.assert_array_equal(np.isfinite(array[..., 0]), (bins >= 4) & (bins < lengths))
    assert open_array(arrays, model.latents_path or "", "factors") is None
    expected = {
        "reconstruction_bits_per_spike_valid", "co_smoothing_bits_per_spike_valid", "forward_prediction_bits_per_spike_valid",
        "r2_true_rates", "r2_true_rates_valid", "psth_r2_valid", "sv_bits_per_spike_valid",
    }  # fmt: skip
    assert {name for name, value in model.scores.items() if value is not None} >= expected
    assert model.baselines is not None
    assert model.baselines.keys() == expected
    predicted = {"mean", "psth"}  # smoothed spikes predict no neurons and bins that are not read
    assert all(found.keys() == predicted for found in model.baselines.values())
    assert job.diagnostics is not None
    assert job.diagnostics["leaking"] is None
    assert "models never read some samples" in job.diagnostics["note"]


def test_external_inputs_may_be_left_out(
    database: Database, arrays: Store, process: TrainingProcess, driven_id: str
) -> None:
    """And of two jobs on one data set, each trains on its own data."""
    small = {name: EVERYTHING[name] for name in ("encoder_units", "generator_units", "factors")}
    for use in (True, False, True):
        job_id = add_job(
            database,
            driven_id,
            architecture={**small, "use_external_inputs": use},
            budget={"models": 1, "epochs": 1},
        )
        run_job(process, job_id)
        with database.read() as session:
            job = session.get_one(Job, job_id)
            assert job.state == JobState.DONE, job.error
            model = session.get_one(Model, job.selected_model_id)
        assert model.architecture["external_inputs"] == (2 if use else 0)
        assert open_array(arrays, model.latents_path or "", "inputs") is None
        assert "kl_weight_inputs" not in model.hyperparameters


def test_latents_do_not_depend_on_how_many_are_inferred_at_once(
    database: Database,
    arrays: Store,
    process: TrainingProcess,
    driven_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for elements in (1 << 24, 4 * 20 * 24 * 7):  # all trials, or seven of them
        monkeypatch.setattr("models.inference.GENERATOR_ELEMENTS", elements)
        job_id = add_job(database, driven_id, budget={"models": 1, "epochs": 2})
        run_job(process, job_id)
        with database.read() as session:
            model = session.get_one(Model, session.get_one(Job, job_id).selected_model_id)
        rates = open_array(arrays, model.latents_path or "", "rates")
        assert rates is not None
        found.append((rates[...], model.scores))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-4)


def test_diagnostics_are_of_every_model_that_was_trained(
    database: Database, process: TrainingProcess, dataset_id: str
) -> None:
    job_id = add_job(database, dataset_id)
    run_job(process, job_id)
    with database.read() as session:
        job = session.get_one(Job, job_id)
        [event] = session.execute(
            select(Event.data).where(Event.job_id == job_id, Event.kind == "job.diagnostics")
        ).scalars()
        selected = session.get_one(Model, job.selected_model_id)
    assert job.diagnostics == event
    assert [entry["number"] for entry in event["models"]] == [0, 1, 2]
    assert event["selected"] == selected.number
    assert event["leaking"] == []
    assert -1 <= event["rank_correlation"] <= 1
    assert selected.scores["sv_bits_per_spike_valid"] is not None


def test_only_one_checkpoint_of_a_model_is_kept(
    database: Database, arrays: Store, process: TrainingProcess, settings: Settings, dataset_id: str
) -> None:
    settings.slice_seconds = 0.0001  # a slice for each epoch
    job_id = add_job(database, dataset_id)
    run_job(process, job_id)
    with database.read() as session:
        model = session.execute(select(Model).where(Model.job_id == job_id)).scalars().first()
        keys = session.execute(
            select(Slice.epochs_trained)
            .where(Slice.job_id == job_id, Slice.kind == "train")
            .order_by(Slice.id)
        ).scalars()
        assert list(keys) == [1, 2, 3, 4]
    assert model is not None
    assert model.checkpoint_key is not None
    assert object_size(arrays, model.checkpoint_key) is not None

    async def checkpoints() -> list[str]:
        return [key async for key in arrays.list_prefix(f"models/{model.id}/checkpoints/")]

    assert asyncio.run(checkpoints()) == [model.checkpoint_key]


def test_many_short_slices_give_the_numbers_of_one_long(
    database: Database, process: TrainingProcess, arrays: Store, settings: Settings, dataset_id: str
) -> None:
    """Bit for bit: docs/scores.md promises it."""
    whole = add_job(database, dataset_id)
    run_job(process, whole)
    settings.slice_seconds = 0.0001
    cut = add_job(database, dataset_id)
    run_job(process, cut)
    assert curves(database, cut) == curves(database, whole)
    with database.read() as session:
        paths = [
            session.get_one(Model, session.get_one(Job, one).selected_model_id).latents_path or ""
            for one in (whole, cut)
        ]
    first, second = (np.asarray(open_array(arrays, path, "rates")[...]) for path in paths)  # type: ignore[index]
    np.testing.assert_array_equal(first, second)


def test_a_slice_that_is_lost_is_trained_again_from_its_checkpoint(
    database: Database,
    process: TrainingProcess,
    settings: Settings,
    dataset_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lease goes to another in the middle; the first worker's writes are refused, the numbers stay the same."""
    undisturbed = add_job(database, dataset_id)
    run_job(process, undisturbed)
    job_id = add_job(database, dataset_id)
    with database.write() as session:
        advance(session, job_id, settings)
    import worker.training.train as module

    calls = 0
    save = module.save_checkpoint

    def lose_then_save(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            with database.write() as session:
                assert reap(session, settings, held_by="here") == 1
        save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "save_checkpoint", lose_then_save)
    assert run_next(process)
    with database.read() as session:
        piece = session.execute(select(Slice).where(Slice.job_id == job_id)).scalar_one()
        assert (piece.state, piece.attempts, piece.losses) == (SliceState.QUEUED, 0, 1)
        states = session.execute(select(Model.epochs_trained).where(Model.job_id == job_id)).scalars().all()
        assert states == [0, 0, 0]
    run_job(process, job_id)
    assert curves(database, job_id) == curves(database, undisturbed)


def test_a_job_keeps_the_versions_that_trained_it(
    database: Database,
    process: TrainingProcess,
    settings: Settings,
    dataset_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each combination once, in order: the service is upgraded between two slices of the same job."""
    versions = iter(["0.1.0", "0.1.0", "0.2.0", "0.2.0"])
    monkeypatch.setattr(
        "worker.training.train.installed", lambda *names: dict.fromkeys(names, next(versions))
    )
    settings.slice_seconds = 0.0  # one epoch
    job_id = add_job(database, dataset_id, budget={"models": 1, "epochs": 4})
    run_job(process, job_id)
    with database.read() as session:
        trained_with = session.get_one(Job, job_id).trained_with
    assert trained_with == [{"latentry": one, "torch": one} for one in ("0.1.0", "0.2.0")]
    assert next(versions, None) is None


def test_a_cancelled_slice_writes_nothing_more(
    database: Database, process: TrainingProcess, settings: Settings, dataset_id: str
) -> None:
    from api.jobs.lifecycle import cancel

    job_id = add_job(database, dataset_id, budget={"models": 2, "epochs": 10_000})
    with database.write() as session:
        advance(session, job_id, settings)
    epochs = 0

    def cancel_at_third_epoch() -> bool:
        nonlocal epochs
        epochs += 1
        if epochs == 3:
            with database.write() as session:
                cancel(session, session.get_one(Job, job_id))
        return False

    process.should_yield = cancel_at_third_epoch
    run_next(process)
    with database.read() as session:
        assert session.get_one(Job, job_id).state == JobState.CANCELLED
        models = session.execute(select(Model).where(Model.job_id == job_id)).scalars().all()
        assert {model.state for model in models} == {ModelState.CANCELLED}
        assert {model.checkpoint_key for model in models} == {None}
    assert epochs < 10
    assert not run_next(process)


def test_an_error_is_tried_again_and_then_reported(
    database: Database, arrays: Store, process: TrainingProcess, dataset_id: str
) -> None:
    job_id = add_job(database, dataset_id, budget={"models": 1, "epochs": 2})
    with database.write() as session:
        session.get_one(Dataset, dataset_id).array_path = "datasets/gone"
    for _ in range(3):
        with database.write() as session:
            advance(session, job_id, process.settings)
        with pytest.raises(Exception, match="datasets/gone"):
            run_next(process)
    with database.write() as session:
        advance(session, job_id, process.settings)
    with database.read() as session:
        job = session.get_one(Job, job_id)
        assert job.state == JobState.FAILED
        assert job.error is not None
        assert "datasets/gone" in job.error["message"]


def test_ragged_trials_have_no_latents_past_their_end(
    database: Database, arrays: Store, process: TrainingProcess, settings: Settings, tmp_path: Path
) -> None:
    lengths = np.array([20, 12, 7, 20] * 8)
    spikes = np.random.default_rng(0).poisson(0.5, (32, 20, 5)).astype(np.uint8)
    spikes[np.arange(20)[None] >= lengths[:, None]] = 0
    np.savez(tmp_path / "ragged.npz", spikes=spikes, bin_width_s=0.02, trial_length_bins=lengths)
    dataset_id = ingest(database, arrays, settings, tmp_path / "ragged.npz")
    job_id = add_job(database, dataset_id, budget={"models": 1, "epochs": 2})
    run_job(process, job_id)
    with database.read() as session:
        job = session.get_one(Job, job_id)
        assert job.state == JobState.DONE, job.error
        path = session.get_one(Model, job.selected_model_id).latents_path
    rates = open_array(arrays, path or "", "rates")
    assert rates is not None
    past_end = np.arange(20)[None] >= lengths[:, None]
    assert np.isnan(rates[...][past_end]).all()
    assert np.isfinite(rates[...][~past_end]).all()
    assert read_object(arrays, f"{path}/zarr.json") is not None


@pytest.mark.parametrize(
    ("system", "shape", "parameters"),
    [
        ("lorenz", (15, 50, 29), {}),
        pytest.param("chaotic_rnn", (15, 100, 50), {"gain": 1.5}, marks=pytest.mark.slow),
        ("driven", (15, 100, 50), {"inputs": 2}),
        ("two_sessions", (15, 50, 29), {"session": 1}),
    ],
)
def test_a_synthetic_system_becomes_a_data_set(
    database: Database,
    arrays: Store,
    settings: Settings,
    system: str,
    shape: tuple[int, int, int],
    parameters: dict[str, Any],
) -> None:
    few = {"conditions": 3, "trials_per_condition": 5, "seed": 1}
    dataset_id = ingest(
        database, arrays, settings, {"kind": "synthetic", "system": system, **few, **parameters}
    )
    with database.read() as session:
        row = session.get_one(Dataset, dataset_id)
        assert (row.trials, row.bins, row.neurons) == shape
        assert row.report is not None
        assert row.report["warnings"] == []
        assert {"true_rates_hz", "true_latents", "condition"} <= set(row.report["arrays"])
        assert "external_inputs" not in row.report["arrays"]
        inputs = open_array(arrays, row.array_path or "", "true_inputs")
    assert (inputs is not None) == (system == "driven")
    if inputs is not None:
        assert inputs.shape == (15, 100, 2)
        assert (np.count_nonzero(inputs[...], axis=1) == 1).all()
