"""`advance` with fake training: every edge of the state machines, and idempotence."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from api.jobs import lifecycle
from api.jobs.schemas import BudgetExtension
from domain.states import JobState, ModelState, SliceState
from store.database import Database, database_now
from store.lineage import lineage
from store.settings import Settings
from store.tables import Event, Job, Model, OutboxMessage, Slice, Worker
from tests.worker.fake_workers import FakeWorkers, read_decisions, read_job, read_models, read_slices
from worker.scheduling.leases import reap
from worker.scheduling.scheduler import advance, precompute


def test_a_job_runs_to_the_model_with_the_lowest_sv_loss(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job()
    workers = FakeWorkers(database, settings)
    workers.run(job_id, losses={0: 0.5, 1: 0.3, 2: 0.4})
    job, models = read_job(database, job_id), read_models(database, job_id)
    assert job.state == JobState.DONE
    assert job.selected_model_id == models[1].id
    assert [model.state for model in models] == [ModelState.TRAINED] * 3
    assert all(model.end_reason == "its budget of epochs is spent" for model in models)
    assert list(workers.trained.values()) == [[(0, 2), (2, 4)]] * 3
    assert [piece.kind for piece in read_slices(database, job_id)] == ["train", "train", "infer"]


def test_advancing_again_changes_nothing(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job()
    workers = FakeWorkers(database, settings)
    for _ in range(10):
        workers.advance(job_id)
    assert len(read_models(database, job_id)) == 3
    assert len(read_slices(database, job_id)) == 1
    lease = workers.claim()
    for _ in range(10):
        workers.advance(job_id)
    assert len(read_slices(database, job_id)) == 1
    assert lease is not None
    workers.report(lease)
    for _ in range(10):
        workers.advance(job_id)
    assert len(read_slices(database, job_id)) == 2


def test_advance_reads_no_slice_that_is_over_but_the_newest_of_each_pack(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    """A job of weeks has thousands of slices, and its row is locked meanwhile."""
    job_id = make_job(budget={"models": 3, "epochs": 20})
    workers = FakeWorkers(database, settings, epochs=1)
    workers.advance(job_id)
    for _ in range(10):
        lease = workers.claim()
        assert lease is not None
        workers.report(lease)
        workers.advance(job_id)
    assert len(read_slices(database, job_id)) == 11
    loaded: list[Slice] = []

    def note(piece: Slice, _context: object) -> None:
        loaded.append(piece)

    event.listen(Slice, "load", note)
    try:
        workers.advance(job_id)
    finally:
        event.remove(Slice, "load", note)
    assert [piece.state for piece in loaded] == [SliceState.QUEUED]


def test_packs_spread_over_the_workers_there_are(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    with database.write() as session:
        now = database_now(session)
        session.add_all(Worker(name=f"w{i}", device="cpu", seen_at=now) for i in range(2))
        session.add(Worker(name="gone", device="cpu", seen_at=now - timedelta(minutes=5)))
    job_id = make_job(budget={"models": 5, "epochs": 4})
    FakeWorkers(database, settings).advance(job_id)
    assert sorted(len(piece.model_ids) for piece in read_slices(database, job_id)) == [2, 3]


def test_packs_stay_whole_while_other_jobs_want_the_workers_and_are_halved_when_some_are_idle(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    with database.write() as session:
        now = database_now(session)
        session.add_all(Worker(name=f"w{i}", device="cuda", seen_at=now) for i in range(3))
    jobs = [make_job(budget={"models": 4, "epochs": 8}) for _ in range(3)]
    workers = FakeWorkers(database, settings)
    for job_id in jobs:
        workers.advance(job_id)
    assert [len(read_slices(database, job_id)) for job_id in jobs] == [1, 1, 1]
    leases = [workers.claim() for _ in jobs]
    with database.write() as session:  # two jobs are gone: their workers would stand idle
        for job_id in jobs[1:]:
            session.get_one(Job, job_id).state = JobState.CANCELLED
            for piece in session.execute(select(Slice).where(Slice.job_id == job_id)).scalars():
                piece.state, piece.lease_token = SliceState.CANCELLED, None
    assert leases[0] is not None
    workers.report(leases[0])
    workers.advance(jobs[0])
    packs = [piece for piece in read_slices(database, jobs[0]) if piece.state == SliceState.QUEUED]
    assert sorted(len(piece.model_ids) for piece in packs) == [1, 1, 2]
    assert len({model for piece in packs for model in piece.model_ids}) == 4
    workers.run(jobs[0])
    assert list(workers.trained.values()) == [[(0, 2), (2, 4), (4, 6), (6, 8)]] * 4


def test_packs_are_no_larger_than_configured(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    settings.pack_models = 4
    job_id = make_job(budget={"models": 10, "epochs": 4})
    FakeWorkers(database, settings).advance(job_id)
    assert sorted(len(piece.model_ids) for piece in read_slices(database, job_id)) == [3, 3, 4]


def test_a_pack_that_always_fails_is_tried_model_by_model(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    """A model that always takes its worker with it fails alone; its neighbours are trained."""
    job_id = make_job()
    workers = FakeWorkers(database, settings)
    workers.advance(job_id)
    deadly = read_models(database, job_id)[1].id
    while (lease := workers.claim("victim")) is not None:
        with database.read() as session:
            kills = deadly in session.get_one(Slice, lease.row_id).model_ids
        if kills:
            with database.write() as session:
                reap(session, settings, held_by="victim", process_died=True)
        else:
            workers.report(lease)
        workers.advance(job_id)
    states = [model.state for model in read_models(database, job_id)]
    assert states == [ModelState.TRAINED, ModelState.FAILED, ModelState.TRAINED]
    assert read_job(database, job_id).state == JobState.DONE
    assert "failed alone after its attempts" in (read_models(database, job_id)[1].end_reason or "")


def test_diverged_models_are_not_selected(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job()
    FakeWorkers(database, settings).run(job_id, losses={0: 0.5, 1: 0.1, 2: 0.4}, diverged=(1,))
    assert read_job(database, job_id).selected_model_id == read_models(database, job_id)[2].id


def test_a_job_without_a_model_to_select_fails_and_says_why(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job()
    FakeWorkers(database, settings).run(job_id, diverged=(0, 1, 2))
    job = read_job(database, job_id)
    assert job.state == JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "no_model_to_select"
    assert "diverged" in job.error["message"]


def test_the_wall_clock_ends_training_with_what_is_there(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 3, "epochs": 1000, "wall_seconds": 60})
    workers = FakeWorkers(database, settings)
    workers.advance(job_id)
    lease = workers.claim()
    assert lease is not None
    workers.report(lease)
    with database.write() as session:
        started = session.get_one(Job, job_id).started_at
        assert started is not None
        session.get_one(Job, job_id).started_at = started - timedelta(seconds=61)
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE
    assert {model.end_reason for model in read_models(database, job_id)} == {"the job's wall clock is over"}
    assert {model.epochs_trained for model in read_models(database, job_id)} == {2}


def test_a_failed_inference_fails_the_job(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job()
    workers = FakeWorkers(database, settings, epochs=4)
    workers.advance(job_id)
    lease = workers.claim()
    assert lease is not None
    workers.report(lease)
    workers.advance(job_id)
    for _ in range(settings.max_attempts):
        assert workers.claim("victim") is not None
        with database.write() as session:
            reap(session, settings, held_by="victim", process_died=True)
    workers.advance(job_id)
    job = read_job(database, job_id)
    assert job.state == JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "inference_failed"


PBT: dict[str, Any] = {"kind": "pbt", "generation_epochs": 2, "burn_in_epochs": 2, "patience_generations": 9}


def test_a_population_copies_what_its_models_were_before_any_of_them_copied(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job(strategy=PBT, budget={"models": 12, "epochs": 6})
    workers = FakeWorkers(database, settings)
    workers.advance(job_id)
    lease = workers.claim()
    assert lease is not None
    workers.report(lease, losses={number: 0.6 - 0.01 * number for number in range(12)})
    before = {model.number: model for model in read_models(database, job_id)}
    workers.advance(job_id)
    copies = {one.model_number: one for one in read_decisions(database, job_id) if one.kind == "copy"}
    after = {model.number: model for model in read_models(database, job_id)}
    assert len(copies) >= 2
    assert 11 not in copies, "the best copied another"
    for number, copy in copies.items():
        parent = before[copy.parent_number or 0]
        assert after[number].checkpoint_key == parent.checkpoint_key
        assert after[number].smoothed_sv_loss == parent.smoothed_sv_loss
        assert after[number].hyperparameters == copy.hyperparameters != parent.hyperparameters
        assert copy.lowest_sv_loss == before[number].smoothed_sv_loss, "the loss that it had itself"
        assert "lost" in copy.reason
    for number in set(after) - set(copies):
        assert after[number].checkpoint_key == before[number].checkpoint_key
        assert after[number].hyperparameters == before[number].hyperparameters
    with database.read() as session:
        told = session.execute(select(Event.data).where(Event.kind == "model.copied")).scalars().all()
    assert {one["number"]: one["parent_number"] for one in told} == {
        n: c.parent_number for n, c in copies.items()
    }
    workers.run(job_id)
    assert list(workers.trained.values()) == [[(0, 2), (2, 4), (4, 6)]] * 12
    assert read_job(database, job_id).state == JobState.DONE


def test_a_population_waits_for_all_of_its_packs(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    settings.pack_models = 3
    job_id = make_job(strategy=PBT, budget={"models": 6, "epochs": 6})
    workers = FakeWorkers(database, settings)
    workers.advance(job_id)
    first, second = workers.claim(), workers.claim()
    assert first is not None
    assert second is not None
    workers.report(first)
    workers.advance(job_id)
    assert workers.claim() is None
    workers.report(second)
    workers.advance(job_id)
    assert workers.claim() is not None


def test_models_given_up_leave_their_packs_and_what_is_left_trains_together(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    settings.pack_models = 4
    strategy = {"kind": "hyperband", "first_rung_epochs": 2, "reduction_factor": 4}
    job_id = make_job(strategy=strategy, budget={"models": 8, "epochs": 8})
    workers = FakeWorkers(database, settings)
    losses = {number: 0.1 * (number % 4) for number in range(8)}
    workers.advance(job_id)
    sizes = []
    while (lease := workers.claim()) is not None:
        with database.read() as session:
            sizes.append(len(session.get_one(Slice, lease.row_id).model_ids))
        workers.report(lease, losses=losses)
        workers.advance(job_id)
    models = read_models(database, job_id)
    given_up = [model.number for model in models if model.state == ModelState.STOPPED]
    assert len(given_up) == 4  # three of four in the first bracket, one of two in the last
    assert sorted(sizes[:3]) == [2, 3, 3]  # by how far they are to train
    assert len(models) == 8
    assert read_job(database, job_id).state == JobState.DONE
    for number in given_up:
        assert "go on" in (models[number].end_reason or "")


def test_packs_form_by_equal_architecture(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job(
        architecture={"generator_units": [8, 16], "factors": [2, 3]}, budget={"models": 12, "epochs": 2}
    )
    FakeWorkers(database, settings).advance(job_id)
    models = {model.id: model for model in read_models(database, job_id)}
    sizes = {(m.architecture["generator_units"], m.architecture["factors"]) for m in models.values()}
    pieces = read_slices(database, job_id)
    assert 2 <= len(pieces) == len(sizes) <= 4
    for piece in pieces:
        assert len({str(models[model_id].architecture) for model_id in piece.model_ids}) == 1
    assert all("factors" not in model.hyperparameters for model in models.values())


def test_models_of_a_failed_pack_train_alone_once_and_then_together_again(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 3, "epochs": 6})
    workers = FakeWorkers(database, settings)
    workers.advance(job_id)
    for _ in range(settings.max_attempts):
        assert workers.claim("victim") is not None
        with database.write() as session:
            reap(session, settings, held_by="victim", process_died=True)
    workers.advance(job_id)
    sizes = []
    for _ in range(3):
        lease = workers.claim()
        assert lease is not None
        with database.read() as session:
            sizes.append(len(session.get_one(Slice, lease.row_id).model_ids))
        workers.report(lease)
    workers.advance(job_id)
    assert sizes == [1, 1, 1]
    assert [
        len(one.model_ids) for one in read_slices(database, job_id) if one.state == SliceState.QUEUED
    ] == [3]
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE


def test_a_lost_worker_is_no_fault_of_the_work(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 1, "epochs": 2})
    workers = FakeWorkers(database, settings)
    workers.advance(job_id)
    for _ in range(settings.max_attempts + 5):
        assert workers.claim("victim") is not None
        with database.write() as session:
            reap(session, settings, held_by="victim")
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE
    assert read_slices(database, job_id)[0].losses == settings.max_attempts + 5


def test_device_time_ends_training_with_what_is_there(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 2, "epochs": 1000, "device_seconds": 5})
    workers = FakeWorkers(database, settings)
    workers.device_seconds = 2.5
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE
    assert {model.epochs_trained for model in read_models(database, job_id)} == {4}
    assert {model.end_reason for model in read_models(database, job_id)} == {"the job's device time is spent"}


def test_the_first_models_of_a_warm_start_begin_as_the_others_were(
    database: Database, settings: Settings, make_job: Callable[..., str]
) -> None:
    job_id = make_job(architecture={"factors": [2, 3]}, budget={"models": 3, "epochs": 2})
    warm = {"job_id": "job_1", "number": 7, "start_key": "models/mod_1/checkpoints/1-a.safetensors"}
    warm["hyperparameters"] = {"dropout": 0.123, "factors": 3.0}  # type: ignore[assignment]
    with database.write() as session:
        session.get_one(Job, job_id).warm_models = [warm]
    FakeWorkers(database, settings).advance(job_id)
    models = read_models(database, job_id)
    assert (models[0].hyperparameters["dropout"], models[0].architecture["factors"]) == (0.123, 3)
    assert [model.start_key for model in models] == [warm["start_key"], None, None]
    assert "cd_rate" in models[0].hyperparameters
    assert read_decisions(database, job_id)[0].reason == "as model 7 of job_1"
    assert len({piece.pack for piece in read_slices(database, job_id)}) >= 2, "states and fresh models apart"


class TestFinalFit:
    FINAL: dict[str, Any] = {"posterior_samples": 4, "refit": True}  # noqa: RUF012

    def test_what_is_selected_is_trained_again_on_all_trials(
        self, database: Database, settings: Settings, make_job: Callable[..., str]
    ) -> None:
        job_id = make_job(inference=self.FINAL, budget={"models": 2, "epochs": 4, "device_seconds": 2})
        workers = FakeWorkers(database, settings)
        workers.run(job_id, losses={0: 0.5, 1: 0.3, 1000: 0.1})
        job, models = read_job(database, job_id), read_models(database, job_id)
        assert job.state == JobState.DONE
        assert (job.selected_model_id, job.final_model_id) == (models[1].id, models[2].id)
        final = models[2]
        assert (final.refit_of, final.epochs_trained, final.state) == (1, 4, ModelState.TRAINED)
        assert (final.seed, final.hyperparameters) == (models[1].seed, models[1].hyperparameters)
        [inference] = [one for one in read_slices(database, job_id) if one.kind == "infer"]
        assert inference.model_ids == [final.id]

    def test_a_search_that_is_extended_is_fitted_again(
        self, database: Database, settings: Settings, make_job: Callable[..., str]
    ) -> None:
        job_id = make_job(inference=self.FINAL, budget={"models": 2, "epochs": 4})
        workers = FakeWorkers(database, settings)
        workers.run(job_id, losses={0: 0.5, 1: 0.3})
        with database.write() as session:
            lifecycle.extend(session, session.get_one(Job, job_id), BudgetExtension(models=1, epochs=2))
        workers.run(job_id, losses={0: 0.2, 2: 0.1})
        job, models = read_job(database, job_id), read_models(database, job_id)
        assert job.state == JobState.DONE
        assert [model.number for model in models] == [0, 1, 2, 1000, 1001]
        assert [model.epochs_trained for model in models] == [6, 6, 6, 4, 6]
        assert (job.selected_model_id, job.final_model_id) == (models[2].id, models[4].id)

    def test_it_repeats_the_hyperparameters_that_led_to_the_selected_model(
        self, database: Database, settings: Settings, make_job: Callable[..., str]
    ) -> None:
        job_id = make_job(inference=self.FINAL, strategy=PBT, budget={"models": 6, "epochs": 8})
        workers = FakeWorkers(database, settings, epochs=1)
        workers.advance(job_id)
        seen: dict[int, dict[str, float]] = {}
        while (lease := workers.claim()) is not None:
            with database.read() as session:
                for model_id in session.get_one(Slice, lease.row_id).model_ids:
                    model = session.get_one(Model, model_id)
                    if model.refit_of is not None and model.epochs_trained < 8:
                        seen[model.epochs_trained] = model.hyperparameters
            # Who is best changes, so that weights travel.
            with database.read() as session:
                epoch = session.get_one(Slice, lease.row_id).first_epoch
            workers.report(lease, losses={n: 0.5 + 0.01 * ((n + epoch) % 6) - 0.02 * epoch for n in range(6)})
            workers.advance(job_id)
        job, models = read_job(database, job_id), read_models(database, job_id)
        (selected,) = (model for model in models if model.id == job.selected_model_id)
        segments = lineage(read_decisions(database, job_id), selected.number)
        assert len(segments) > 1, "nothing was copied: the test shows nothing"
        for epoch, hyperparameters in seen.items():
            (segment,) = (s for s in segments if s.from_epoch <= epoch < (s.to_epoch or 99))
            assert hyperparameters == segment.hyperparameters
        assert sorted(seen) == list(range(8))

    def test_if_it_fails_the_latents_are_those_of_the_selected_model(
        self, database: Database, settings: Settings, make_job: Callable[..., str]
    ) -> None:
        job_id = make_job(inference=self.FINAL, budget={"models": 2, "epochs": 4})
        FakeWorkers(database, settings).run(job_id, losses={0: 0.5, 1: 0.3}, diverged=(1000,))
        job, models = read_job(database, job_id), read_models(database, job_id)
        assert (job.state, job.final_model_id) == (JobState.DONE, None)
        assert models[2].state == ModelState.DIVERGED
        [inference] = [one for one in read_slices(database, job_id) if one.kind == "infer"]
        assert inference.model_ids == [models[1].id]


TPE: dict[str, Any] = {"kind": "tpe", "models_at_once": 2, "startup_models": 2}


def test_what_takes_seconds_is_decided_before_a_lock_is_held(
    database: Database, settings: Settings, make_job: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = make_job(strategy=TPE, budget={"models": 4, "epochs": 2})
    workers = FakeWorkers(database, settings)
    workers.advance(job_id)
    lease = workers.claim()
    assert lease is not None
    stale = precompute(database, job_id)
    workers.report(lease)
    with database.write() as session:
        advance(session, job_id, settings, stale)
        assert session.execute(select(OutboxMessage.task)).scalars().all()[-1] == "advance"
    assert [model.state for model in read_models(database, job_id)] == [ModelState.TRAINED] * 2
    precomputed = precompute(database, job_id)
    sampler = "worker.scheduling.strategies.samplers.optuna_samplers.LearningSampler.suggest"
    with monkeypatch.context() as patched:
        patched.setattr(sampler, lambda *_: pytest.fail("decided under the lock"))
        with database.write() as session:
            advance(session, job_id, settings, precomputed)
    assert len(read_models(database, job_id)) == 4
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE
    reasons = [one.reason for one in read_decisions(database, job_id) if one.kind == "begin"]
    assert reasons == ["drawn at random"] * 2 + ["chosen by tpe from 2 models"] * 2
    assert precompute(database, make_job()) is None, "random draws take no time"
