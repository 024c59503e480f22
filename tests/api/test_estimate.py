"""How long a job is expected to take: before it begins, and while it trains; and what a limit of time leaves no room for."""

from datetime import timedelta
from typing import Any

import pytest

from api.jobs.service import document
from api.jobs.timing import read_workers
from domain import cost
from domain.cost import Extent
from domain.estimate import LATENTS_S, SLICE_S, Estimate, estimate, extent_of
from domain.job_checks import JobData
from domain.job_specification import JobSpecification, split_trials
from domain.job_warnings import of_test_trials, of_time
from domain.split_groups import SplitGroups
from domain.states import JobState, ModelState, SliceState
from store.database import Database, database_now
from store.tables import Dataset, Event, Job, Slice, Worker
from tests.api.api_examples import add_dataset, add_job, add_model

PLAIN = {
    "encoder_units": 64, "initial_condition_dim": 64, "generator_units": 64, "factors": 8,
    "controller_units": 0, "controller_encoder_units": 64, "inferred_inputs": 0,
}  # fmt: skip


def test_time_of_an_epoch_by_hand() -> None:
    """8 steps of 10 trials, each with its overhead, and two evaluations of 20 trials."""
    weights = 6 * 64 * (29 + 64) + 4 * 64 * 64 + 64 * 64 + 3 * 64 * 64 + 64 * 8 + 8 * 29
    biases = 2 * 4 * 64 + 2 * 64 + 2 * 64 + 64 + 4 * 64 + 29  # encoders, posterior, prior, generator, rates
    a_bin = weights * 2.6e-11 + (11 * 29 + 18 * 64 + 13 * 64) * 1.0e-9
    one = cost.epoch_time(PLAIN, Extent(29, 50, 80, 20), 10)
    assert one.overhead_s == pytest.approx(8 * 2e-3 + 2 * 0.8e-3)
    assert one.arithmetic_s == pytest.approx(50 * (80 + 0.4 * 40) * a_bin + 8 * (weights + biases) * 6.6e-9)
    four = cost.epoch_time(PLAIN, Extent(29, 50, 80, 20), 10, models=4)
    assert (four.overhead_s, four.arithmetic_s) == pytest.approx((one.overhead_s, 4 * one.arithmetic_s))
    assert one.seconds(cost.Pace(2, 3)) == pytest.approx(2 * one.overhead_s + 3 * one.arithmetic_s)


def add_worker(session: Any, name: str, pace: tuple[float, float] | None = None) -> None:
    overhead, arithmetic = pace or (None, None)
    now = database_now(session)
    session.add(
        Worker(name=name, device="cpu", seen_at=now, overhead_pace=overhead, arithmetic_pace=arithmetic)
    )


def add_large_dataset(session: Any) -> str:
    dataset_id = add_dataset(session, splits=(None,) * 100, neurons=29)
    session.get_one(Dataset, dataset_id).bins = 50
    return dataset_id


def test_the_pace_is_that_of_workers_and_then_that_of_slices(sqlite_database: Database) -> None:
    specification = {
        "architecture": {name: PLAIN[name] for name in ("encoder_units", "initial_condition_dim", "generator_units", "factors")},
        "budget": {"models": 1, "epochs": 100}, "training": {"batch_size": 10},
    }  # fmt: skip
    epoch = cost.epoch_time(PLAIN, Extent(29, 50, 80, 20), 10)
    latents = cost.latents_time(PLAIN, Extent(29, 50, 80, 20), 100, 50)

    def estimated() -> Estimate:
        with sqlite_database.read() as session:
            whole = JobSpecification(dataset_id=dataset_id, **specification)
            return estimate(whole, session.get_one(Dataset, dataset_id), read_workers(session))

    def expected(pace: cost.Pace) -> float:
        return 100 * epoch.seconds(pace) + SLICE_S + latents.seconds(pace) + LATENTS_S

    with sqlite_database.write() as session:
        dataset_id = add_large_dataset(session)
    assert (estimated().basis, estimated().workers) == ("assumed", 1)
    assert estimated().seconds == pytest.approx(expected(cost.Pace(1, 1)))
    with sqlite_database.write() as session:
        add_worker(session, "one", (2.0, 3.0))
    assert estimated().basis == "assumed"
    assert estimated().seconds == pytest.approx(expected(cost.Pace(2, 3)))
    # A slice of 10 epochs that took 5 times as long as expected; one that was cancelled says nothing.
    with sqlite_database.write() as session:
        job_id = add_job(session, dataset_id, **specification)
        took = 5 * 10 * epoch.seconds(cost.Pace(2, 3)) + SLICE_S
        for number, (state, seconds) in enumerate([(SliceState.DONE, took), (SliceState.CANCELLED, 1e9)]):
            session.add(
                Slice(
                    id=f"sli_{number}", tenant_id="default", job_id=job_id, kind="train", pack=0, model_ids=["a"],
                    first_epoch=10, last_epoch=50, epochs_trained=20, device_seconds=seconds, state=state,
                )
            )  # fmt: skip
    assert estimated().basis == "measured"
    assert estimated().seconds == pytest.approx(expected(cost.Pace(10, 15)))


@pytest.mark.parametrize("slowness", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("strategy", "workers"), [("random", 1), ("pbt", 1), ("random", 4), ("asha", 1)], ids=str
)
def test_time_left_of_a_simulated_job(
    sqlite_database: Database, strategy: str, workers: int, share: float, slowness: float
) -> None:
    """Training may be slower or faster than expected; the job was paused for a long time. The latents follow as expected."""
    fields: dict[str, Any] = {"kind": strategy} | ({"first_rung_epochs": 10} if strategy == "asha" else {})
    budget = {"models": 4, "epochs": 100}
    specification = {"strategy": fields, "budget": budget, "training": {"ramp_epochs": 20}}
    epochs = round(share * 400)  # over all models
    trained, targets = [epochs // 4] * 4, [100] * 4
    if strategy == "asha":  # all models to epoch 10, and one of them to epoch 100: 130 epochs
        epochs = round(share * 130)
        trained = [min(10, epochs // 4)] * 4
        trained[0] += epochs - sum(trained)
        targets = [30 if trained[0] < 30 else 90 if trained[0] < 90 else 100, 10, 10, 10]
    with sqlite_database.write() as session:
        dataset_id = add_large_dataset(session)
        for number in range(workers):
            add_worker(session, f"worker-{number}", (100.0, 100.0))  # jobs of minutes
        whole = JobSpecification(dataset_id=dataset_id, **specification)
        expected = estimate(whole, session.get_one(Dataset, dataset_id), read_workers(session))
        training = expected.device_seconds / workers
        job_id = add_job(session, dataset_id, **specification)
        job, now = session.get_one(Job, job_id), database_now(session)
        job.started_at = now - timedelta(seconds=slowness * share * training + 5000)
        job.paused_seconds = 5000.0
        for number, (done, target) in enumerate(zip(trained, targets, strict=True)):
            is_given_up = strategy == "asha" and number > 0 and done == 10
            state = ModelState.STOPPED if is_given_up else ModelState.TRAINING
            add_model(session, job_id, number, losses=(1.0,) * done, target_epochs=target, state=state)
        session.add(Event(job_id=job_id, kind="progress", data={"models": []}, created_at=now))
        session.flush()
        left = document(session, job).progress.seconds_left
    latents = expected.seconds - training
    assert left is not None
    assert left - latents == pytest.approx((1 - share) * slowness * training, rel=0.21)


def test_time_left_at_the_end_is_that_of_the_latents(sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_large_dataset(session)
        specification = {"budget": {"models": 1, "epochs": 10}}
        whole = JobSpecification(dataset_id=dataset_id, **specification)
        expected = estimate(whole, session.get_one(Dataset, dataset_id), read_workers(session)).seconds
        found = {}
        for state in (JobState.STOPPING, JobState.INFERRING, JobState.PAUSED, JobState.DONE):
            job_id = add_job(session, dataset_id, state=state, **specification)
            add_model(session, job_id, losses=(1.0,) * 10, state=ModelState.TRAINED)
            job, now = session.get_one(Job, job_id), database_now(session)
            job.started_at = now - timedelta(seconds=expected)
            session.add(Event(job_id=job_id, kind="progress", data={}, created_at=now))
            session.flush()
            found[state] = document(session, job).progress.seconds_left
    assert 1 < found[JobState.STOPPING] < 20
    assert found[JobState.INFERRING] == pytest.approx(found[JobState.STOPPING], rel=0.05)
    assert found[JobState.PAUSED] is None
    assert found[JobState.DONE] is None


def limited(epochs_each: float) -> Estimate:
    return Estimate(60.0, 60.0, "measured", 1, "wall_seconds", epochs_each)


@pytest.mark.parametrize(
    ("body", "epochs_each", "says"),
    [
        (
            {"strategy": {"kind": "pbt"}, "budget": {"models": 20, "epochs": 1000, "wall_seconds": 60}}, 40.5,
            ["budget.wall_seconds is 60: about 40 epochs of each model", "measured pace",
             "rise until epoch 80 (training.ramp_epochs)", "No model copies another before epoch 105",
             "give about 160 s", "no more than 7 models (budget.models is 20)"],
        ),
        (
            {"strategy": {"kind": "pbt", "burn_in_epochs": 50}, "budget": {"models": 4, "wall_seconds": 60},
             "training": {"ramp_epochs": 10}}, 20.0,
            ["before epoch 50 (strategy.burn_in_epochs)", "give about 160 s, or lower the epochs"],
        ),
        (
            {"strategy": {"kind": "asha", "first_rung_epochs": 30}, "budget": {"wall_seconds": 60},
             "training": {"ramp_epochs": 0}}, 29.0,
            ["No model is compared with others before epoch 30 (strategy.first_rung_epochs), so none is stopped early"],
        ),
        (
            {"budget": {"wall_seconds": 60, "patience_epochs": 50}, "training": {"ramp_epochs": 20}}, 60.0,
            ["budget.patience_epochs ends no model before epoch 70"],
        ),
    ],
)  # fmt: skip
def test_a_limitof_time_that_ends_before_a_strategy_begins(
    body: dict[str, Any], epochs_each: float, says: list[str]
) -> None:
    specification = JobSpecification(dataset_id="dat", **body)
    [warning] = of_time(specification, limited(epochs_each))
    for text in says:
        assert text in warning, warning
    assert of_time(specification, limited(500.0)) == []
    assert of_time(specification, Estimate(60.0, 60.0, "measured", 1, None, 200)) == []


def test_the_preview_tells_of_a_limitof_time(sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_large_dataset(session)
        dataset = session.get_one(Dataset, dataset_id)

        def of(**limit: float) -> Estimate:
            budget = {"models": 4, "epochs": 100, **limit}
            whole = JobSpecification(dataset_id=dataset_id, budget=budget)
            return estimate(whole, dataset, read_workers(session))

        whole = of()
        training = whole.device_seconds
        assert (whole.limit, whole.epochs_each) == (None, 100)
        half = of(wall_seconds=training / 2)
        assert (half.limit, half.epochs_each) == ("wall_seconds", pytest.approx(50))
        assert half.seconds == pytest.approx(whole.seconds - training / 2)
        tenth = of(wall_seconds=training / 2, device_seconds=training / 10)
        assert (tenth.limit, tenth.epochs_each) == ("device_seconds", pytest.approx(10))
        assert of(wall_seconds=10 * training) == whole


@pytest.mark.parametrize(
    ("split", "test_fraction", "expected"),
    [
        ({}, 0.0, (80, 20)),
        ({}, 0.7, (10, 20)),
        ({"train": 20, "valid": 10, "not_given": 70, "gap": 0}, 0.0, (20, 10)),
        ({"train": 60, "valid": 10, "not_given": 20, "gap": 10}, 0.0, (60, 10)),
        ({"train": 0, "valid": 0, "not_given": 100, "gap": 0}, 0.0, (80, 20)),
    ],
)
def test_trials_that_are_not_trained_on_take_no_time(
    split: dict[str, int], test_fraction: float, expected: tuple[int, int]
) -> None:
    dataset = Dataset(id="dat_1", trials=100, bins=20, neurons=5, report={"split": split})
    given = {"dataset_id": "dat_1", "training": {"test_fraction": test_fraction}}
    extent = extent_of(JobSpecification.model_validate(given), dataset)
    assert (extent.training_trials, extent.validation_trials) == expected


def test_a_shareof_test_trials_that_cannot_be_drawn_is_told() -> None:
    """One chain of overlapping trials, every other one for validation: each free trial shares bins with one of those."""
    groups = SplitGroups.of([0] * 40, [10.0 * trial for trial in range(40)], [20] * 40)
    given = JobSpecification.model_validate({"dataset_id": "dat_1", "training": {"test_fraction": 0.3}})
    split = split_trials(["train", "valid"] * 20, groups, given.training)
    assert "test" not in split
    dataset = Dataset(id="dat_1", trials=40, bins=20, neurons=5, report={})
    data = JobData(dataset, groups, split, is_given=True, has_own_test=False)
    [told] = of_test_trials(given, data)
    assert "there is no test trial: all trials that could be drawn share bins with validation trials" in told
