"""Estimate how long a job takes: before it begins, and while it trains."""

import math
import statistics
from dataclasses import dataclass
from typing import Literal, assert_never

from domain import cost
from domain.cost import CoreTime, Extent, Pace
from domain.job_specification import JobSpecification
from domain.sessions import DescribedDataset, neurons_per_trial
from domain.states import JobState
from domain.strategies import (
    AshaStrategy,
    HyperbandStrategy,
    IndependentSampler,
    LearningSampler,
    PbtStrategy,
    Strategy,
)

SLICE_S = 0.5
"""Time of a slice beside its epochs: claiming it, loading data and checkpoints, saving them, and deciding what comes next."""
LATENTS_S = 1.0
"""Time of the last slice beside inference: storing and scoring latents."""
_PRIOR_SHARE = 0.02
"""Share of the whole training. Once a job has trained more than this, its own pace counts more than the preview's."""
_LATE_REPORT_S = 15.0
"""Workers report every few seconds. A job that has not reported for longer has become slower."""

Basis = Literal["measured", "assumed"]
Limit = Literal["wall_seconds", "device_seconds"]


@dataclass(frozen=True)
class Workers:
    """The training processes of the service.

    Parameters
    ----------
    number
        Processes that were seen lately; 1 if there are none.
    pace
        Pace of one of them.
    basis
        Whether the pace was measured in trainings on this service, or in a short measurement when workers start.
    """

    number: int
    pace: Pace
    basis: Basis


@dataclass(frozen=True)
class Estimate:
    """How long a job takes.

    Parameters
    ----------
    seconds
        Time by the clock until the latents are stored, with the workers that are alive.
    device_seconds
        Time of training, summed over devices.
    basis, workers
        `basis` and `number` of the `Workers` that the estimate assumes.
    limit
        The limit of the budget that ends the training before all epochs are trained; None if none does.
    epochs_each
        Epochs that each model trains until then; where models train in rounds, each model of the first round.
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
        Epochs that workers reported.
    to_do
        The largest number of epochs that can follow.
    committed
        Epochs that models were told to train and have not trained.
    models_left
        Models that train on, and models that have not begun.
    """

    trained: int
    to_do: int
    committed: int
    models_left: int


@dataclass(frozen=True)
class Progress:
    """How far a job has come. Times are in seconds, without pauses.

    Parameters
    ----------
    state, epochs
        State and epochs of the job.
    wall_seconds, device_seconds
        Time since the first slice began, and time of training summed over devices.
    reported_seconds
        When workers last reported epochs, from the beginning of the first slice.
    inference_seconds
        How long the computation of the latents has run.
    has_refit
        Whether the refit has begun; its epochs then count among `epochs`.
    """

    state: JobState
    epochs: EpochCount
    wall_seconds: float
    device_seconds: float
    reported_seconds: float
    inference_seconds: float
    has_refit: bool


def estimate(specification: JobSpecification, dataset: DescribedDataset, workers: Workers) -> Estimate:
    """Estimate a job that has not begun."""
    budget, work = specification.budget, Work(specification, dataset)
    epochs = expected_epochs(specification)
    training = work.search_seconds(epochs, work.models_at_once, workers)
    device = training * _busy_workers(work.models_at_once, workers.number)
    shares: list[tuple[float, Limit | None]] = [(1.0, None)]
    if budget.wall_seconds is not None:
        shares.append((budget.wall_seconds / training, "wall_seconds"))
    if budget.device_seconds is not None:
        shares.append((budget.device_seconds / device, "device_seconds"))
    share, limit = min(shares, key=lambda one: one[0])
    return Estimate(
        seconds=training * share + work.last_seconds(workers.pace, has_begun=False),
        device_seconds=device * share,
        basis=workers.basis,
        workers=workers.number,
        limit=limit,
        epochs_each=budget.epochs if limit is None else share * epochs * work.rounds / budget.models,
    )


def seconds_left(
    specification: JobSpecification, dataset: DescribedDataset, workers: Workers, progress: Progress
) -> float:
    """Estimate the time until the latents of a job are stored, without pauses.

    Until the job has trained an epoch, this is the `estimate` of its preview. Then the job's own pace counts more and more.
    """
    epochs = progress.epochs
    if not epochs.trained:
        return round(estimate(specification, dataset, workers).seconds, 1)
    budget, work = specification.budget, Work(specification, dataset)
    last = work.last_seconds(workers.pace, has_begun=progress.has_refit)
    if progress.state == JobState.INFERRING:
        return max(0.0, last - progress.inference_seconds)
    if progress.state == JobState.STOPPING:
        return last
    left = min(epochs.to_do, max(expected_epochs(specification) - epochs.trained, epochs.committed))
    to_train = work.search_seconds(left, min(epochs.models_left, work.models_at_once), workers)
    trained = work.search_seconds(epochs.trained, work.models_at_once, workers)
    reported = progress.reported_seconds
    since_report = max(0.0, progress.wall_seconds - reported)
    if since_report > _LATE_REPORT_S:
        reported, since_report = progress.wall_seconds, 0.0
    prior = _PRIOR_SHARE * (trained + to_train)
    slowness = (reported + prior) / (trained + prior)
    search = max(0.0, to_train * slowness - since_report)
    if (limit := budget.wall_seconds) is not None:
        search = min(search, max(0.0, limit - progress.wall_seconds))
    if (limit := budget.device_seconds) is not None:
        busy = _busy_workers(max(1, epochs.models_left), workers.number)
        search = min(search, max(0.0, limit - progress.device_seconds) / busy)
    return search + last


class Work:
    """What a job has to do, as `domain.cost` counts it.

    Parameters
    ----------
    specification, dataset
        Specification and data set of the job.
    """

    def __init__(self, specification: JobSpecification, dataset: DescribedDataset) -> None:
        self.specification, self.dataset = specification, dataset
        self.extent = extent_of(specification, dataset)
        architecture, report = specification.architecture, dataset.report
        # A search over sizes takes about as long as the mean of the largest and the smallest network.
        smallest = architecture.smallest()
        self.architectures = [one.of_model({}, report) for one in (architecture.largest(), smallest)]
        # Networks of different sizes train one after the other.
        self.kinds = math.prod(len(choices) for choices in architecture.searched().values())
        models = specification.budget.models
        self.models_at_once = min(models, _models_at_once(specification.strategy, models))
        self.rounds = -(-models // self.models_at_once)

    def search_seconds(self, epochs: float, models: int, workers: Workers) -> float:
        """Return the time by the clock of `epochs` epochs over all models, of which `models` train at once."""
        if epochs <= 0 or models <= 0:
            return 0.0
        whole = expected_epochs(self.specification)
        time = self.epoch_time(models, workers.number).seconds(workers.pace) * epochs / models
        return time + self._slices() * SLICE_S * epochs / whole

    def epoch_time(self, models: int, workers: int) -> CoreTime:
        """Return the time by the clock of one epoch of each of `models` models."""
        parallel = min(workers, models)
        most = math.ceil(models / parallel)  # models of the worker that has most
        batch_trials = self.specification.training.batch_size
        times = [cost.epoch_time(one, self.extent, batch_trials, most) for one in self.architectures]
        groups = max(1.0, min(self.kinds, models) / parallel)
        return CoreTime(times[0].overhead_s * groups, statistics.mean(one.arithmetic_s for one in times))

    def last_seconds(self, pace: Pace, *, has_begun: bool) -> float:
        """Return the time of what follows the search: the refit, if one is wanted and has not begun, and the latents."""
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
            return self.rounds * (1 + len(strategy.rungs(epochs, self.specification.training.settled_epoch)))
        if isinstance(strategy, IndependentSampler | LearningSampler):
            return self.rounds
        assert_never(strategy)


def _models_at_once(strategy: Strategy, models: int) -> int:
    """Return how many of `models` models the strategy lets train at the same time."""
    if isinstance(strategy, LearningSampler):
        return strategy.models_at_once
    if isinstance(strategy, AshaStrategy):
        return _models_at_once(strategy.sampler, models)
    if isinstance(strategy, IndependentSampler | HyperbandStrategy | PbtStrategy):
        return models
    assert_never(strategy)


def _busy_workers(models: int, workers: int) -> float:
    """Return how many workers train on average until the one with the most models ends."""
    return models / math.ceil(models / min(workers, models))


def extent_of(specification: JobSpecification, dataset: DescribedDataset) -> Extent:
    """Return how large a data set is for a job, without reading its trials."""
    training, trials = specification.training, dataset.trials or 0
    given = (dataset.report or {}).get("split") or {}
    # Then trials of neither part are for testing.
    is_given = given.get("train", 0) + given.get("valid", 0) > 0
    test = given.get("not_given", 0) if is_given else 0
    test += given.get("gap", 0)
    valid = given.get("valid") or round(training.valid_fraction * (trials - test))
    test = test or round(training.test_fraction * trials)
    return Extent(
        neurons_per_trial(dataset), dataset.bins or 0, max(1, trials - valid - test), valid, dataset.report
    )


def expected_epochs(specification: JobSpecification) -> int:
    """Return the largest number of epochs over all models; successive halving is taken into account."""
    budget, strategy = specification.budget, specification.strategy
    if isinstance(strategy, IndependentSampler | LearningSampler | PbtStrategy):
        return budget.models * budget.epochs
    if not isinstance(strategy, AshaStrategy | HyperbandStrategy):
        assert_never(strategy)
    rungs = strategy.rungs(budget.epochs, specification.training.settled_epoch)
    epochs = 0
    for skipped, models in _brackets(strategy, len(rungs), budget.models):
        before = 0
        for end in [*rungs[skipped:], budget.epochs]:
            epochs += models * (end - before)
            before, models = end, max(1, models // strategy.reduction_factor)
    return epochs


def _brackets(strategy: AshaStrategy | HyperbandStrategy, rungs: int, models: int) -> list[tuple[int, int]]:
    """Return groups of models that are halved together: how many rungs each group skips, and how many models it has."""
    if isinstance(strategy, AshaStrategy):
        return [(0, models)]
    found: list[tuple[int, int]] = []
    while models:
        for skipped, size in enumerate(strategy.bracket_sizes(rungs)):
            members = min(size, models)
            models -= members
            found += [(skipped, members)] if members else []
    return found
