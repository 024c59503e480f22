"""Searches in this process, with real training of tiny models: copies, early ends, warm starts, the last fit, faults."""

import errno
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from zarr.abc.store import Store
from zarr.core.sync import sync

import worker.training.train
from api.jobs import lifecycle
from api.jobs.warm_start import find_models
from domain.job_specification import JobSpecification
from domain.states import JobState, ModelState, SliceState
from store.arrays import open_array
from store.database import Database
from store.lineage import lineage
from store.quotas import amounts_in_use, device_time
from store.settings import Settings
from store.tables import DEFAULT_TENANT, CurvePoint, Dataset, Decision, Job, Model, Slice
from tests.worker.conftest import SPECIFICATION, add_job
from tests.worker.fake_workers import read_job, read_models, read_slices
from tests.worker.real_training import curves, run_job
from worker.context.checkpoints import load_checkpoint
from worker.context.process import TrainingProcess
from worker.maintenance.garbage_collection import collect
from worker.maintenance.measuring import measure
from worker.process.run_next import run_next
from worker.scheduling.model_rows import end_model
from worker.scheduling.scheduler import advance

PBT: dict[str, Any] = {"kind": "pbt", "generation_epochs": 2, "burn_in_epochs": 2}


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    """Of one kind, since training takes long: where the kinds differ, tests without training try both."""
    return sqlite_database


def checkpoint(arrays: Store, model: Model) -> dict[str, torch.Tensor]:
    return load_checkpoint(arrays, model.checkpoint_key or "")


def test_a_copy_has_its_parent_s_weights_and_goes_on_by_itself(
    database: Database, arrays: Store, process: TrainingProcess, settings: Settings, dataset_id: str
) -> None:
    job_id = add_job(database, dataset_id, strategy=PBT, budget={"models": 6, "epochs": 6})
    with database.write() as session:
        advance(session, job_id, settings)
    assert run_next(process)
    before = {model.number: checkpoint(arrays, model) for model in read_models(database, job_id)}
    with database.write() as session:
        advance(session, job_id, settings)
    with database.read() as session:
        of_job = select(Decision).where(Decision.job_id == job_id, Decision.kind == "copy")
        parents = {one.model_number: one.parent_number or 0 for one in session.execute(of_job).scalars()}
    assert parents
    for model in read_models(database, job_id):
        torch.testing.assert_close(
            checkpoint(arrays, model), before[parents.get(model.number, model.number)], rtol=0, atol=0
        )
    run_job(process, job_id)
    assert read_job(database, job_id).state == JobState.DONE
    found = curves(database, job_id)
    assert {number: [epoch for epoch, _ in curve] for number, curve in found.items()} == {
        number: [1, 2, 3, 4, 5, 6] for number in range(6)
    }
    for child, parent in parents.items():
        assert found[child][2:] != found[parent][2:], "their noise and hyperparameters differ"
    sum(collect(database, arrays, job_id))  # what copies left behind
    assert all(checkpoint(arrays, model) for model in read_models(database, job_id))
    assert sum(collect(database, arrays, job_id)) == 0
    with database.write() as session:  # also the store has a little metadata of folders
        assert amounts_in_use(session, settings, DEFAULT_TENANT)["stored_bytes"].used == pytest.approx(
            sync(arrays.getsize_prefix("")), rel=0.01
        )
        day, _ = device_time(session, process.settings, DEFAULT_TENANT)
        of_slices = select(func.sum(Slice.device_seconds)).where(Slice.job_id == job_id)
        assert day.used == pytest.approx(session.execute(of_slices).scalar_one(), rel=0.1)
        session.execute(update(Model).values(checkpoint_bytes=None, latents_bytes=None))
        session.execute(update(Dataset).values(array_bytes=None))
    sum(measure(database, arrays, process.settings))
    with database.read() as session:
        assert amounts_in_use(session, settings, DEFAULT_TENANT)["stored_bytes"].used == pytest.approx(
            sync(arrays.getsize_prefix("")), rel=0.01
        )


def test_losses_of_kept_weights_are_those_of_the_epoch_that_trained_them_also_in_copies(
    database: Database, process: TrainingProcess, dataset_id: str
) -> None:
    job_id = add_job(database, dataset_id, strategy=PBT, budget={"models": 6, "epochs": 6})
    run_job(process, job_id)
    with database.read() as session:
        of_job = select(Decision).where(Decision.job_id == job_id).order_by(Decision.id)
        decisions = session.execute(of_job).scalars().all()
        points = {
            (point.model_id, point.epoch): (point.sv_loss, point.validation_loss)
            for point in session.execute(select(CurvePoint)).scalars()
        }
    models = read_models(database, job_id)
    inherited = 0
    for model in models:
        scores, best = model.scores, model.scores["best_epoch"]
        (trained_by,) = (
            segment.model_number
            for segment in lineage(decisions, model.number)
            if segment.from_epoch < best <= (segment.to_epoch or 6)
        )
        inherited += trained_by != model.number
        kept, last = scores["sv_loss"], scores["last_sv_loss"]
        assert (kept, scores["validation_loss"]) == points[models[trained_by].id, best]
        assert (last, scores["last_validation_loss"]) == points[model.id, 6]
    job = read_job(database, job_id)
    assert job.diagnostics is not None
    assert [(one["number"], one["best_epoch"], one["sv_loss"], one["last_sv_loss"]) for one in job.diagnostics["models"]] == [
        (one.number, one.scores["best_epoch"], one.scores["sv_loss"], one.scores["last_sv_loss"]) for one in models
    ]  # fmt: skip
    assert inherited, "no copy keeps weights of its parent: choose another seed"


def test_models_of_a_population_say_who_trained_their_weights_and_what_they_reached_themselves(
    database: Database, arrays: Store, process: TrainingProcess, dataset_id: str
) -> None:
    """Against curves, decisions and checkpoints; the learning rates are so high that losses rise and fall."""
    job_id = add_job(
        database, dataset_id, strategy=PBT, budget={"models": 6, "epochs": 8}, space={"learning_rate": 0.2}
    )
    run_job(process, job_id)
    with database.read() as session:
        of_job = select(Decision).where(Decision.job_id == job_id, Decision.kind == "copy")
        copied = {
            one.model_number: one.epoch for one in session.execute(of_job.order_by(Decision.id)).scalars()
        }
        of_curves = select(Model.number, CurvePoint.epoch, CurvePoint.smoothed_sv_loss)
        of_curves = of_curves.join(CurvePoint, CurvePoint.model_id == Model.id).where(Model.job_id == job_id)
        smoothed = {(number, epoch): loss for number, epoch, loss in session.execute(of_curves)}
    models = [one for one in read_models(database, job_id) if one.state == ModelState.TRAINED]
    assert {model.trained_by == model.number for model in models} == {True, False}
    for model in models:
        assert model.best_epoch == int(checkpoint(arrays, model)["best_epoch"])
        assert smoothed[model.trained_by or 0, model.best_epoch or 0] == pytest.approx(model.smoothed_sv_loss)
        own = min(smoothed[model.number, epoch] for epoch in range(copied.get(model.number, 0) + 1, 9))
        assert model.scores["own_smoothed_sv_loss"] == pytest.approx(own)
        assert own >= (model.smoothed_sv_loss or 0.0)


def test_a_model_that_was_given_up_may_be_selected(
    database: Database, process: TrainingProcess, settings: Settings, dataset_id: str
) -> None:
    """The better ones diverged later."""
    strategy = {"kind": "hyperband", "first_rung_epochs": 2}
    job_id = add_job(database, dataset_id, strategy=strategy, budget={"models": 4, "epochs": 8})
    while True:
        with database.write() as session:
            further = select(Model).where(Model.job_id == job_id, Model.epochs_trained > 2)
            for model in session.execute(further).scalars():
                end_model(session, model, ModelState.DIVERGED, "its loss was no longer finite")
            advance(session, job_id, settings)
        if not run_next(process):
            break
    job = read_job(database, job_id)
    assert job.state == JobState.DONE, job.error
    (selected,) = (model for model in read_models(database, job_id) if model.id == job.selected_model_id)
    assert selected.state == ModelState.STOPPED
    assert job.diagnostics is not None
    assert job.diagnostics["selected"] == selected.number


def test_a_population_cut_into_many_slices_decides_the_same(
    database: Database, process: TrainingProcess, settings: Settings, dataset_id: str
) -> None:
    given = {"strategy": PBT, "budget": {"models": 4, "epochs": 6}}
    whole = add_job(database, dataset_id, **given)
    run_job(process, whole)
    settings.slice_seconds, settings.pack_models = 0.0001, 3
    cut = add_job(database, dataset_id, **given)
    run_job(process, cut)
    for number, curve in curves(database, whole).items():
        assert [loss for _, loss in curves(database, cut)[number]] == pytest.approx(
            [loss for _, loss in curve], rel=1e-4
        )


def test_a_model_that_improves_no_more_ends_early_and_its_neighbours_go_on(
    database: Database, process: TrainingProcess, dataset_id: str
) -> None:
    space = {"learning_rate": [1e-7, 5e-3]}
    budget = {"models": 6, "epochs": 12, "patience_epochs": 3}
    job_id = add_job(database, dataset_id, space=space, budget=budget, seed=1)
    run_job(process, job_id)
    assert read_job(database, job_id).state == JobState.DONE
    models = read_models(database, job_id)
    early = [model for model in models if model.epochs_trained < 12]
    assert 0 < len(early) < 6
    for model in models:
        assert model.state == ModelState.TRAINED
        assert [epoch for epoch, _ in curves(database, job_id)[model.number]] == list(
            range(1, model.epochs_trained + 1)
        )
    assert {model.end_reason for model in early} == {"its smoothed SV loss had not improved for 3 epochs"}
    assert all(model.checkpoint_key for model in early)


def test_a_warm_start_begins_with_the_best_weights_of_another_job(
    database: Database, arrays: Store, process: TrainingProcess, settings: Settings, dataset_id: str
) -> None:
    first = add_job(database, dataset_id, budget={"models": 3, "epochs": 8})
    run_job(process, first)
    best = min(read_models(database, first), key=lambda model: model.smoothed_sv_loss or 9.0)
    second = add_job(database, dataset_id, seed=5, budget={"models": 2, "epochs": 1})
    wanted = {"job_id": first, "models": 1}
    given = JobSpecification.model_validate({"dataset_id": dataset_id, **SPECIFICATION, "warm_start": wanted})
    with database.write() as session:
        dataset = session.get_one(Dataset, dataset_id)
        session.get_one(Job, second).warm_models = find_models(session, DEFAULT_TENANT, given, dataset)
    run_job(process, second)
    warm, cold = read_models(database, second)
    assert warm.hyperparameters == best.hyperparameters
    assert warm.start_key is None
    begun_with = load_checkpoint(arrays, best.checkpoint_key or "")
    moved = [
        sum(
            float((weights - begun_with[name.replace("weights.", "best.", 1)]).square().sum())
            for name, weights in load_checkpoint(arrays, model.checkpoint_key or "").items()
            if name.startswith("weights.")
        )
        for model in (warm, cold)
    ]
    assert moved[0] < 0.01 * moved[1]  # one epoch later
    assert warm.smoothed_sv_loss == pytest.approx(best.smoothed_sv_loss, abs=0.05)
    [path] = [one.latents_path for one in read_models(database, second) if one.latents_path]
    assert open_array(arrays, path, "rates") is not None


def test_the_last_fit_trains_on_every_trial_and_its_latents_are_stored(
    database: Database, arrays: Store, process: TrainingProcess, dataset_id: str
) -> None:
    inference = {"posterior_samples": 4, "refit": True}
    job_id = add_job(database, dataset_id, inference=inference, budget={"models": 2, "epochs": 4})
    run_job(process, job_id)
    job, models = read_job(database, job_id), read_models(database, job_id)
    assert job.state == JobState.DONE, job.error
    selected, final = next(m for m in models if m.id == job.selected_model_id), models[2]
    assert job.final_model_id == final.id
    assert (final.latents_path is not None, selected.latents_path) == (True, None)
    trained, again = curves(database, job_id)[selected.number], curves(database, job_id)[final.number]
    assert [epoch for epoch, _ in trained] == [epoch for epoch, _ in again]
    assert trained != again
    assert job.diagnostics is not None
    assert [one["number"] for one in job.diagnostics["models"]] == [0, 1]
    assert final.scores["reconstruction_bits_per_spike_valid"] is not None


def test_a_full_disk_is_waited_for_and_no_attempt_is_counted(
    database: Database,
    process: TrainingProcess,
    settings: Settings,
    dataset_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.full_disk_seconds = 0.2
    undisturbed = add_job(database, dataset_id)
    run_job(process, undisturbed)
    job_id = add_job(database, dataset_id)
    with database.write() as session:
        advance(session, job_id, settings)
    save, full = worker.training.train.save_checkpoint, [True] * (settings.max_attempts + 1)

    def fill(*arguments: Any) -> None:
        if full:
            full.pop()
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(worker.training.train, "save_checkpoint", fill)
    for _ in range(settings.max_attempts + 1):
        with pytest.raises(OSError, match="No space left"):
            run_next(process)
        [piece] = read_slices(database, job_id)
        assert (piece.state, piece.attempts, piece.losses) == (SliceState.QUEUED, 0, 0)
        assert not run_next(process), "it waits"
        while piece.not_before is not None and not _is_due(database, piece):
            pass
    run_job(process, job_id)
    assert read_job(database, job_id).state == JobState.DONE
    assert curves(database, job_id) == curves(database, undisturbed)


def test_a_failure_is_reported_when_the_full_database_can_be_written_again(
    database: Database, process: TrainingProcess, dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = add_job(database, dataset_id)
    with database.write() as session:
        advance(session, job_id, process.settings)
    tries = 0
    write = Database.write

    def fail(*_: Any) -> None:
        monkeypatch.setattr(Database, "write", write_when_there_is_space)
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    def write_when_there_is_space(self: Database) -> Any:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise OperationalError("BEGIN IMMEDIATE", {}, Exception("database or disk is full"))
        return write(self)

    monkeypatch.setattr(worker.process.run_next, "train", fail)
    monkeypatch.setattr("worker.scheduling.failures.time.sleep", lambda _seconds: None)
    with pytest.raises(OperationalError):
        run_next(process)
    assert tries == 5
    [piece] = read_slices(database, job_id)
    assert (piece.state, piece.lease_token) == (SliceState.QUEUED, None)
    assert (piece.attempts, piece.losses) == (0, 0)
    assert piece.not_before is not None


def _is_due(database: Database, piece: Slice) -> bool:
    from store.database import database_now

    with database.read() as session:
        return piece.not_before is not None and database_now(session) >= piece.not_before


def test_a_database_that_is_away_interrupts_no_training(
    database: Database, process: TrainingProcess, dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats that fail are made up for; the report is tried until it is written, once."""
    undisturbed = add_job(database, dataset_id)
    run_job(process, undisturbed)
    job_id = add_job(database, dataset_id)
    with database.write() as session:
        advance(session, job_id, process.settings)
    monkeypatch.setattr("worker.scheduling.failures.time.sleep", lambda _seconds: None)
    write, asked = Database.write, {"leased_transaction": 0, "write_with_retry": 0}

    def write_or_fail(self: Database) -> Any:
        import sys

        caller = sys._getframe(1).f_code.co_name
        if caller in asked:
            asked[caller] += 1
            if asked[caller] % 3 != 0:
                raise OperationalError("SELECT 1", {}, Exception("the database is away"))
        return write(self)

    monkeypatch.setattr(Database, "write", write_or_fail)
    run_job(process, job_id)
    monkeypatch.setattr(Database, "write", write)
    assert asked["leased_transaction"] > 5
    assert asked["write_with_retry"] >= 6
    assert read_job(database, job_id).state == JobState.DONE
    assert {piece.attempts for piece in read_slices(database, job_id)} == {0}
    assert curves(database, job_id) == curves(database, undisturbed)


@pytest.mark.parametrize("verb", ["pause", pytest.param("stop", marks=pytest.mark.slow)])
def test_a_slice_under_way_ends_with_the_epoch_in_which_its_job_is_paused_or_stopped(
    database: Database, process: TrainingProcess, settings: Settings, dataset_id: str, verb: str
) -> None:
    job_id = add_job(database, dataset_id, budget={"models": 2, "epochs": 10_000})
    with database.write() as session:
        advance(session, job_id, settings)
    epochs = 0

    def change_in_third_epoch() -> bool:
        nonlocal epochs
        epochs += 1
        if epochs == 3:
            with database.write() as session:
                getattr(lifecycle, verb)(session, session.get_one(Job, job_id))
        return False

    process.should_yield = change_in_third_epoch
    assert run_next(process)
    [piece] = read_slices(database, job_id)
    assert piece.state == SliceState.DONE
    assert piece.epochs_trained == epochs == 4
    process.should_yield = lambda: False
    if verb == "pause":
        assert not run_next(process)
        with database.write() as session:
            lifecycle.resume(session, session.get_one(Job, job_id))
            lifecycle.stop(session, session.get_one(Job, job_id))
    run_job(process, job_id)
    job = read_job(database, job_id)
    assert job.state == JobState.DONE
    assert {len(curve) for curve in curves(database, job_id).values()} == {4}
    rates = open_array(
        process.arrays, read_models(database, job_id)[0].latents_path or "", "rates"
    ) or open_array(process.arrays, read_models(database, job_id)[1].latents_path or "", "rates")
    assert rates is not None
    assert np.isfinite(rates[...]).all()
