"""The one estimate of how long a job takes: before it begins, and while it trains."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain import cost
from domain.cost import CoreTime, Extent, Pace
from domain.job_specification import JobSpecification
from domain.sessions import neurons_per_trial
from domain.states import JobState, SliceState
from domain.strategies import AshaStrategy, HyperbandStrategy, PbtStrategy
from store.budget import Spent, wall_seconds
from store.database import database_now
from store.tables import Dataset, Event, Job, Model, Slice
from store.workers import alive_workers

SLICE_S = 0.5
"""Of a slice beside its epochs: to claim it, load data and checkpoints, save them, and decide what comes next."""
LATENTS_S = 1.0
"""Of the last slice beside inference: to store and score latents."""
_SLICES_MEASURED = 50
_PRIOR_SHARE = 0.02
"""Share of the whole training. A job's own pace counts more than the preview's once it has trained more than this."""
_LATE_REPORT_S = 15.0
"""Workers report every few seconds. A job that has not reported for so long has become slower."""

Basis = Literal["measured", "assumed"]
Limit = Literal["wall_seconds", "device_seconds"]


@dataclass(frozen=True)
class Estimate:
    """How long a job takes.

    Parameters
    ----------
    seconds
        By the clock until the latents are there, with the workers that are there.
    device_seconds
        Of training, summed over devices.
    basis
        Whether the pace was measured in trainings on this service, or is that of a short measurement when workers start.
    workers
        Training processes that were seen lately; 1 if there are none.
    limit
        The limit of the budget that ends the training before all epochs are trained; None if none does.
    epochs_each
        Epochs of each model by then; where models train in rounds, of each model of the first round.
    """

    seconds: float
    device_seconds: float
    basis: Basis
    workers: int
    limit: Limit | None
    epochs_each: float


@dataclass(frozen=True)
class EpochCount:
    """Epochs of a job, over all models.

    Parameters
    ----------
    trained
        Epochs that were reported.
    to_do
        Epochs that are left at most.
    committed
        Epochs that models were told to train and have not trained.
    models_left
        Models that train on, and models that have not begun.
    """

    trained: int
    to_do: int
    committed: int
    models_left: int


def estimate(session: Session, specification: JobSpecification, dataset: Dataset) -> Estimate:
    """Estimate a job that has not begun."""
    budget, work = specification.budget, _Work(specification, dataset)
    pace, basis = _pace(session)
    workers = max(1, len(alive_workers(session)))
    epochs = expected_epochs(specification)
    training = work.search_seconds(epochs, work.models_at_once, workers, pace)
    device = training * _busy_workers(work.models_at_once, workers)
    shares: list[tuple[float, Limit | None]] = [(1.0, None)]
    if budget.wall_seconds is not None:
        shares.append((budget.wall_seconds / training, "wall_seconds"))
    if budget.device_seconds is not None:
        shares.append((budget.device_seconds / device, "device_seconds"))
    share, limit = min(shares, key=lambda one: one[0])
    return Estimate(
        seconds=training * share + work.last_seconds(pace, has_begun=False),
        device_seconds=device * share,
        basis=basis,
        workers=workers,
        limit=limit,
        epochs_each=budget.epochs if limit is None else share * epochs * work.rounds / budget.models,
    )


def seconds_left(
    session: Session, job: Job, specification: JobSpecification, count: EpochCount, spent: Spent
) -> float:
    """Estimate the time until the latents of a job are there, without pauses.

    Until the job has trained an epoch, this is the `estimate` of its preview; from then on its own pace decides more and more.
    """
    dataset, budget = session.get_one(Dataset, job.dataset_id), specification.budget
    if not count.trained:
        return round(estimate(session, specification, dataset).seconds, 1)
    work, (pace, _) = _Work(specification, dataset), _pace(session)
    workers = max(1, len(alive_workers(session)))
    left = min(count.to_do, max(expected_epochs(specification) - count.trained, count.committed))
    to_train = work.search_seconds(left, min(count.models_left, work.models_at_once), workers, pace)
    trained = work.search_seconds(count.trained, work.models_at_once, workers, pace)
    reported = _reported_seconds(session, job)
    since_report = max(0.0, spent.wall_seconds - reported)
    if since_report > _LATE_REPORT_S:
        reported, since_report = spent.wall_seconds, 0.0
    prior = _PRIOR_SHARE * (trained + to_train)
    slowness = (reported + prior) / (trained + prior)
    last = work.last_seconds(pace, has_begun=_has_refit(session, job))
    if job.state == JobState.INFERRING:
        return max(0.0, last - _latents_seconds(session, job))
    if job.state == JobState.STOPPING:
        return last
    search = max(0.0, to_train * slowness - since_report)
    if (limit := budget.wall_seconds) is not None:
        search = min(search, max(0.0, limit - spent.wall_seconds))
    if (limit := budget.device_seconds) is not None:
        busy = _busy_workers(max(1, count.models_left), workers)
        search = min(search, max(0.0, limit - spent.device_seconds) / busy)
    return search + last


class _Work:
    """What a job has to do, as `domain.cost` counts it.

    Parameters
    ----------
    specification, dataset
        Of the job.
    """

    def __init__(self, specification: JobSpecification, dataset: Dataset) -> None:
        self.specification, self.dataset = specification, dataset
        self.extent = _extent(specification, dataset)
        architecture, report = specification.architecture, dataset.report
        # A search over sizes takes about as long as the mean of the largest and the smallest network.
        smallest = architecture.with_sizes(lambda _, choices: min(choices))
        self.architectures = [one.of_model({}, report) for one in (architecture.largest(), smallest)]
        # Networks of different sizes train one after the other.
        self.kinds = math.prod(len(choices) for choices in architecture.searched().values())
        strategy, models = specification.strategy, specification.budget.models
        at_once = getattr(getattr(strategy, "sampler", strategy), "models_at_once", models)
        self.models_at_once = models if isinstance(strategy, HyperbandStrategy) else min(models, at_once)
        self.rounds = -(-models // self.models_at_once)

    def search_seconds(self, epochs: float, models: int, workers: int, pace: Pace) -> float:
        """Return the time by the clock of so many epochs over all models, of which so many train at once."""
        if epochs <= 0 or models <= 0:
            return 0.0
        whole = expected_epochs(self.specification)
        time = self.epoch_time(models, workers).seconds(pace) * epochs / models
        return time + self._slices() * SLICE_S * epochs / whole

    def epoch_time(self, models: int, workers: int) -> CoreTime:
        """Return the time by the clock of one epoch of each of some models."""
        parallel = min(workers, models)
        most = math.ceil(models / parallel)  # models of one worker
        batch_trials = self.specification.training.batch_size
        times = [cost.epoch_time(one, self.extent, batch_trials, most) for one in self.architectures]
        groups = max(1.0, min(self.kinds, models) / parallel)
        return CoreTime(times[0].overhead_s * groups, statistics.mean(one.arithmetic_s for one in times))

    def last_seconds(self, pace: Pace, *, has_begun: bool) -> float:
        """Return the time of what follows the search: the refit if one is wanted and has not begun, and the latents."""
        inference, trials = self.specification.inference, self.dataset.trials or 0
        draws = inference.posterior_samples
        time = cost.latents_time(self.architectures[0], self.extent, trials, draws).seconds(pace) + LATENTS_S
        if inference.refit and not has_begun:
            time += self.epoch_time(1, 1).seconds(pace) * self.specification.budget.epochs + SLICE_S
        return time

    def _slices(self) -> int:
        """Return how many slices the strategy needs for its decisions."""
        strategy, epochs = self.specification.strategy, self.specification.budget.epochs
        if isinstance(strategy, PbtStrategy):
            return -(-epochs // strategy.generation_epochs)
        if isinstance(strategy, AshaStrategy | HyperbandStrategy):
            return self.rounds * (1 + len(strategy.rungs(epochs, self.specification.training.ramp_epochs)))
        return self.rounds


def _busy_workers(models: int, workers: int) -> float:
    """Return how many workers train on average, until the one that has most of the models ends."""
    return models / math.ceil(models / min(workers, models))


def _extent(specification: JobSpecification, dataset: Dataset) -> Extent:
    """Return how large a data set is for a job, without reading its trials."""
    training, trials = specification.training, dataset.trials or 0
    given = (dataset.report or {}).get("split") or {}
    is_given = (
        given.get("train", 0) + given.get("valid", 0) > 0
    )  # then trials of neither part are for testing
    test = given.get("not_given", 0) if is_given else 0
    test += given.get("gap", 0)
    valid = given.get("valid") or round(training.valid_fraction * (trials - test))
    test = test or round(training.test_fraction * trials)
    return Extent(
        neurons_per_trial(dataset), dataset.bins or 0, max(1, trials - valid - test), valid, dataset.report
    )


def _reported_seconds(session: Session, job: Job) -> float:
    """Return when workers last reported epochs, in seconds since the first slice began, without rests."""
    latest = select(Event.created_at).where(Event.job_id == job.id, Event.kind == "progress")
    reported = session.execute(latest.order_by(Event.id.desc()).limit(1)).scalar_one_or_none()
    return 0.0 if reported is None else wall_seconds(job, reported)


def _has_refit(session: Session, job: Job) -> bool:
    """Return whether the refit of a job has begun; its epochs are then among those of the job."""
    found = select(Model.id).where(Model.job_id == job.id, Model.refit_of.is_not(None))
    return session.execute(found.limit(1)).first() is not None


def _latents_seconds(session: Session, job: Job) -> float:
    """Return for how long the last slice of a job has been under way."""
    under_way = select(Slice.started_at).where(
        Slice.job_id == job.id, Slice.kind == "infer", Slice.state == SliceState.LEASED
    )
    started: datetime | None = session.execute(under_way.limit(1)).scalar_one_or_none()
    return 0.0 if started is None else (database_now(session) - started).total_seconds()


def expected_epochs(specification: JobSpecification) -> int:
    """Epochs over all models: at most, or with successive halving of those that go on at each rung."""
    budget, strategy = specification.budget, specification.strategy
    if not isinstance(strategy, AshaStrategy | HyperbandStrategy):
        return budget.models * budget.epochs
    rungs = strategy.rungs(budget.epochs, specification.training.ramp_epochs)
    epochs = 0
    for skipped, models in _brackets(strategy, len(rungs), budget.models):
        before = 0
        for end in [*rungs[skipped:], budget.epochs]:
            epochs += models * (end - before)
            before, models = end, max(1, models // strategy.reduction_factor)
    return epochs


def _brackets(strategy: AshaStrategy | HyperbandStrategy, rungs: int, models: int) -> list[tuple[int, int]]:
    """Models that are halved together: how many rungs they skip, and how many they are."""
    if isinstance(strategy, AshaStrategy):
        return [(0, models)]
    found: list[tuple[int, int]] = []
    while models:
        for skipped, size in enumerate(strategy.bracket_sizes(rungs)):
            members = min(size, models)
            models -= members
            found += [(skipped, members)] if members else []
    return found


def _pace(session: Session) -> tuple[Pace, Basis]:
    """Return the pace of one worker: as workers measured themselves, corrected by the last slices of training here.

    It is read once in a session: a page of jobs asks for it again and again.
    """
    if "pace" not in session.info:
        known = [
            Pace(one.overhead_pace, one.arithmetic_pace)
            for one in alive_workers(session)
            if one.overhead_pace is not None and one.arithmetic_pace is not None
        ]
        pace = _mean_pace(known) if known else Pace()
        ratio = _measured_ratio(session, pace)
        if ratio is not None:
            pace = Pace(pace.overhead * ratio, pace.arithmetic * ratio)
        session.info["pace"] = (pace, "assumed" if ratio is None else "measured")
    found: tuple[Pace, Basis] = session.info["pace"]
    return found


def _mean_pace(paces: Sequence[Pace]) -> Pace:
    overhead, arithmetic = (
        statistics.mean(values)
        for values in zip(*((one.overhead, one.arithmetic) for one in paces), strict=True)
    )
    return Pace(overhead, arithmetic)


def _measured_ratio(session: Session, pace: Pace) -> float | None:
    """Return how many times as long as expected the last slices took: the median."""
    recent = (
        select(Slice, Job.spec, Dataset)
        .join(Job, Job.id == Slice.job_id)
        .join(Dataset, Dataset.id == Job.dataset_id)
        .where(Slice.kind == "train", Slice.state == SliceState.DONE, Slice.device_seconds > 0)
        .order_by(Slice.id.desc())
        .limit(_SLICES_MEASURED)
    )
    ratios = []
    for piece, spec, dataset in session.execute(recent):
        epochs = (piece.epochs_trained or 0) - piece.first_epoch
        epoch = _Work(JobSpecification.model_validate(spec), dataset).epoch_time(len(piece.model_ids), 1)
        seconds = piece.device_seconds or 0.0
        if epochs > 0:
            ratios.append((seconds - min(SLICE_S, seconds / 2)) / (epochs * epoch.seconds(pace)))
    return statistics.median(ratios) if ratios else None
