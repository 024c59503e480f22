"""What happens to jobs from outside, with fake training: paused, resumed, stopped, cancelled, tried again, extended."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.jobs import lifecycle
from api.jobs.schemas import BudgetExtension
from domain.states import JobState, ModelState, SliceState
from store.budget import spent
from store.database import Database
from store.deletion import delete_job
from store.identifiers import new_id
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Job, Model, OutboxMessage, Slice
from tests.worker.conftest import SPECIFICATION, drawn_edges
from tests.worker.fake_workers import FakeWorkers, read_decisions, read_job, read_models, read_slices
from worker.scheduling.leases import LeaseLost, reap

Change = Callable[[Session, Job], None]


@pytest.fixture
def workers(database: Database, settings: Settings) -> FakeWorkers:
    return FakeWorkers(database, settings)


def change(database: Database, job_id: str, how: Change) -> None:
    with database.write() as session:
        how(session, session.get_one(Job, job_id, with_for_update=True))


def extend(**more: Any) -> Change:
    return lambda session, job: lifecycle.extend(session, job, BudgetExtension(**more))


def test_a_paused_job_rests_and_goes_on_where_it_was(
    database: Database, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 3, "epochs": 8})
    workers.advance(job_id)
    lease = workers.claim()
    assert lease is not None
    change(database, job_id, lifecycle.pause)
    workers.report(lease)  # a worker that had the slice reports it as ever
    workers.advance(job_id)
    assert read_job(database, job_id).state == JobState.PAUSED
    assert workers.claim() is None
    change(database, job_id, lifecycle.resume)
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE
    assert list(workers.trained.values()) == [[(0, 2), (2, 4), (4, 6), (6, 8)]] * 3


def test_a_pause_takes_back_what_has_not_begun(
    database: Database, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job()
    workers.advance(job_id)
    change(database, job_id, lifecycle.pause)
    assert workers.claim() is None
    workers.advance(job_id)
    assert [piece.state for piece in read_slices(database, job_id)] == [SliceState.CANCELLED]
    change(database, job_id, lifecycle.resume)
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE


def test_a_lease_lost_while_the_job_is_paused_is_queued_and_taken_back(
    database: Database, settings: Settings, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job()
    workers.advance(job_id)
    lease = workers.claim("victim")
    assert lease is not None
    change(database, job_id, lifecycle.pause)
    with database.write() as session:
        reap(session, settings, held_by="victim")
    assert workers.claim() is None, "a paused job trains nothing"
    workers.advance(job_id)
    assert [piece.state for piece in read_slices(database, job_id)] == [SliceState.CANCELLED]
    change(database, job_id, lifecycle.resume)
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE
    with pytest.raises(LeaseLost):
        workers.report(lease)


def test_a_lease_lost_while_the_job_is_stopping_ends_with_it(
    database: Database, settings: Settings, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 1, "epochs": 8})
    workers.advance(job_id)
    lease = workers.claim()
    assert lease is not None
    workers.report(lease)
    workers.advance(job_id)
    assert workers.claim("victim") is not None
    change(database, job_id, lifecycle.stop)
    with database.write() as session:
        reap(session, settings, held_by="victim")
        messages = [(one.task, one.arguments) for one in session.execute(select(OutboxMessage)).scalars()]
    assert messages[-2:] == [("run_slice", []), ("advance", [job_id])]
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE
    assert list(workers.trained.values()) == [[(0, 2)]]


def test_the_time_of_a_pause_does_not_count(
    database: Database, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 2, "epochs": 1000, "wall_seconds": 60})
    workers.advance(job_id)
    lease = workers.claim()
    assert lease is not None
    workers.report(lease)
    change(database, job_id, lifecycle.pause)

    def an_hour_ago(session: Session, job: Job) -> None:
        assert job.started_at is not None
        assert job.paused_at is not None
        job.started_at -= timedelta(hours=1)
        job.paused_at -= timedelta(hours=1)

    change(database, job_id, an_hour_ago)
    change(database, job_id, lifecycle.resume)
    with database.read() as session:
        assert spent(session, session.get_one(Job, job_id)).wall_seconds < 30
    workers.advance(job_id)
    assert workers.claim() is not None


def test_a_stopped_job_selects_from_what_is_there(
    database: Database, workers: FakeWorkers, make_job: Callable[..., str], settings: Settings
) -> None:
    settings.pack_models = 2
    job_id = make_job(budget={"models": 4, "epochs": 1000})
    workers.advance(job_id)
    lease, other = workers.claim(), workers.claim()
    assert lease is not None
    assert other is not None
    losses = {0: 0.5, 1: 0.3, 2: 0.4, 3: 0.2}
    workers.report(lease, losses=losses)
    workers.advance(job_id)
    change(database, job_id, lifecycle.stop)
    workers.advance(job_id)
    assert read_job(database, job_id).state == JobState.STOPPING, "a slice is still under way"
    workers.report(other, losses=losses)
    workers.run(job_id)
    job, models = read_job(database, job_id), read_models(database, job_id)
    assert job.state == JobState.DONE
    assert job.selected_model_id == models[3].id
    assert {(model.state, model.end_reason) for model in models} == {
        (ModelState.TRAINED, "the job was stopped")
    }
    assert {model.epochs_trained for model in models} == {2}


def test_a_job_stopped_before_it_trained_anything_fails_and_says_so(
    database: Database, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job()
    workers.advance(job_id)
    change(database, job_id, lifecycle.stop)
    workers.advance(job_id)
    job = read_job(database, job_id)
    assert job.state == JobState.FAILED
    assert job.error is not None
    assert "the job was stopped before it had trained" in job.error["message"]


def test_a_cancelled_job_that_is_tried_again_goes_on_from_what_it_had(
    database: Database, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 2, "epochs": 6})
    workers.advance(job_id)
    lease = workers.claim()
    assert lease is not None
    workers.report(lease)
    workers.advance(job_id)
    late = workers.claim()
    assert late is not None
    change(database, job_id, lifecycle.cancel)
    with pytest.raises(LeaseLost):
        workers.report(late)
    change(database, job_id, lifecycle.retry)
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE
    assert list(workers.trained.values()) == [[(0, 2), (2, 4), (4, 6)]] * 2


def test_a_failed_job_that_is_tried_again_gives_its_models_new_attempts(
    database: Database, settings: Settings, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 1, "epochs": 2})
    workers.advance(job_id)
    for _ in range(settings.max_attempts):
        assert workers.claim("victim") is not None
        with database.write() as session:
            reap(session, settings, held_by="victim", process_died=True)
        workers.advance(job_id)
    assert read_job(database, job_id).state == JobState.FAILED
    change(database, job_id, lifecycle.retry)
    workers.run(job_id)
    job = read_job(database, job_id)
    assert (job.state, job.error) == (JobState.DONE, None)


def test_a_failed_inference_is_tried_again(
    database: Database, settings: Settings, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 1, "epochs": 2})
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
    assert read_job(database, job_id).state == JobState.FAILED
    change(database, job_id, lifecycle.retry)
    workers.run(job_id)
    assert read_job(database, job_id).state == JobState.DONE
    assert list(workers.trained.values()) == [[(0, 2)]]


def test_models_added_to_a_job_that_is_done_are_trained_and_may_be_selected(
    database: Database, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 2, "epochs": 4})
    workers.run(job_id, losses={0: 0.3, 1: 0.4})
    first = read_models(database, job_id)
    change(database, job_id, extend(models=2))
    workers.run(job_id, losses={2: 0.5, 3: 0.1})
    job, models = read_job(database, job_id), read_models(database, job_id)
    assert job.state == JobState.DONE
    assert len(models) == 4
    assert job.selected_model_id == models[3].id
    assert [model.hyperparameters for model in models[:2]] == [model.hyperparameters for model in first]
    assert all(pieces == [(0, 2), (2, 4)] for pieces in workers.trained.values())


def test_epochs_added_to_a_job_that_is_done_are_trained_by_the_models_that_are_there(
    database: Database, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 2, "epochs": 4})
    workers.run(job_id)
    with database.write() as session:  # the weights of one were not kept
        read_models(database, job_id)
        session.get_one(Model, read_models(database, job_id)[1].id).checkpoint_key = None
    change(database, job_id, extend(epochs=2))
    workers.run(job_id, losses={0: 0.2})
    assert read_job(database, job_id).state == JobState.DONE
    assert [model.epochs_trained for model in read_models(database, job_id)] == [6, 4]
    assert "its budget is 6 epochs" in [one.reason for one in read_decisions(database, job_id)]


def test_time_added_takes_up_what_the_clock_had_ended(
    database: Database, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 2, "epochs": 8, "device_seconds": 3})
    workers.run(job_id)  # a second for each slice
    assert read_job(database, job_id).state == JobState.DONE
    reasons = {model.end_reason for model in read_models(database, job_id)}
    assert reasons == {"the job's device time is spent"}
    assert {model.epochs_trained for model in read_models(database, job_id)} == {6}
    change(database, job_id, extend(device_seconds=10))
    workers.run(job_id)
    assert {model.epochs_trained for model in read_models(database, job_id)} == {8}


def test_a_running_job_may_get_more_models(
    database: Database, workers: FakeWorkers, make_job: Callable[..., str]
) -> None:
    job_id = make_job(budget={"models": 2, "epochs": 4})
    workers.advance(job_id)
    change(database, job_id, extend(models=1, epochs=2))
    workers.run(job_id)
    assert [model.epochs_trained for model in read_models(database, job_id)] == [6, 6, 6]


def test_every_edge_drawn_is_walked(
    database: Database,
    settings: Settings,
    workers: FakeWorkers,
    make_job: Callable[..., str],
    walked_edges: dict[type[Any], set[tuple[str, str]]],
) -> None:
    """The drawings of job, model and slice have no edge that is never taken; others fail whichever test takes them."""

    def begin(**changes: Any) -> str:
        job_id = make_job(**{"budget": {"models": 2, "epochs": 4}, **changes})
        workers.advance(job_id)
        return job_id

    def report(job_id: str, **given: Any) -> None:
        lease = workers.claim()
        assert lease is not None
        workers.report(lease, **given)
        workers.advance(job_id)

    def kill() -> None:
        workers.claim("victim")
        with database.write() as session:
            reap(session, settings, held_by="victim", process_died=True)

    def to_inference() -> str:
        job_id = begin()
        report(job_id)
        report(job_id)
        return job_id

    # Paused and stopped: before it began, while it runs, with and without anything to select.
    job_id = begin()
    change(database, job_id, lifecycle.pause)
    change(database, job_id, lifecycle.resume)
    workers.advance(job_id)
    report(job_id)
    change(database, job_id, lifecycle.pause)
    change(database, job_id, lifecycle.stop)
    workers.run(job_id)
    change(database, job_id, extend(epochs=2, models=1))
    workers.run(job_id)
    job_id = begin()
    change(database, job_id, lifecycle.stop)
    workers.advance(job_id)
    job_id = begin()
    report(job_id)
    change(database, job_id, lifecycle.stop)
    change(database, job_id, lifecycle.cancel)
    change(database, job_id, lifecycle.retry)
    workers.run(job_id)
    # Cancelled from everywhere else.
    for states in ([], [lifecycle.pause]):
        job_id = begin()
        for how in states:
            change(database, job_id, how)
        change(database, job_id, lifecycle.cancel)
    job_id = begin()
    workers.claim()
    change(database, job_id, lifecycle.cancel)
    change(database, to_inference(), lifecycle.cancel)
    # Failed: in training, in inference, with nothing to select; after a pause too.
    job_id = to_inference()
    for _ in range(settings.max_attempts):
        kill()
    workers.advance(job_id)
    change(database, job_id, lifecycle.retry)
    workers.run(job_id)
    job_id = begin(budget={"models": 1, "epochs": 4})
    for _ in range(settings.max_attempts):
        kill()
    workers.advance(job_id)
    change(database, job_id, lifecycle.retry)
    workers.advance(job_id)
    report(job_id)
    for _ in range(settings.max_attempts):
        kill()
    workers.advance(job_id)
    change(database, job_id, lifecycle.retry)
    workers.run(job_id)
    job_id = begin()
    lease = workers.claim()
    assert lease is not None
    change(database, job_id, lifecycle.pause)
    workers.report(lease, diverged=(0, 1))
    change(database, job_id, lifecycle.resume)
    workers.advance(job_id)
    assert read_job(database, job_id).state == JobState.FAILED
    # Given up by the strategy.
    asha = {"kind": "asha", "first_rung_epochs": 2, "reduction_factor": 2}
    job_id = make_job(strategy=asha, budget={"models": 4, "epochs": 4})
    workers.run(job_id, losses={0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4})
    # A budget that is over before a model began.
    settings.pack_models = 1
    job_id = begin(budget={"models": 2, "epochs": 100, "device_seconds": 1})
    report(job_id)
    workers.run(job_id)
    change(database, job_id, extend(device_seconds=1))
    # Deleted from everywhere.
    dataset_id = read_job(database, job_id).dataset_id
    for state in [one for one in JobState if one != JobState.DELETING]:
        with database.write() as session:
            specification = {"dataset_id": dataset_id, **SPECIFICATION}
            row = Job(
                id=new_id("job"), tenant_id=DEFAULT_TENANT, dataset_id=dataset_id, name="", state=state, spec=specification
            )  # fmt: skip
            session.add(row)
            session.flush()
            delete_job(session, row)

    for table, states in ((Job, JobState), (Model, ModelState), (Slice, SliceState)):
        assert walked_edges[table] == drawn_edges(states), table.__name__
