"""`advance` with fake training: every edge of the state machines, and idempotence."""

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import event, select

from store.database import Database, database_now
from store.settings import Settings
from store.states import JobState, ModelState, SliceState
from store.tables import Job, Slice, Worker
from tests.worker.fake_workers import FakeWorkers, read_job, read_models, read_slices
from worker.leases import reap


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
                reap(session, settings, held_by="victim", died_at_it=True)
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
            reap(session, settings, held_by="victim", died_at_it=True)
    workers.advance(job_id)
    job = read_job(database, job_id)
    assert job.state == JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "inference_failed"
