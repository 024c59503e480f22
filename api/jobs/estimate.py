"""The one estimate of how long a job takes: before it begins, and while it trains."""

import statistics
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import cost
from store.sessions import neurons_per_trial
from store.specification import JobSpecification
from store.states import SliceState
from store.strategies import AshaStrategy, HyperbandStrategy
from store.tables import Dataset, Job, Slice
from store.workers import alive_workers

ASSUMED_OPERATIONS_PER_S = 5e10
"""Of one CPU core in training, where nothing has been measured yet."""
_SLICES_MEASURED = 50

Basis = Literal["measured", "assumed"]


@dataclass(frozen=True)
class Estimate:
    """How long the training of a job takes.

    Parameters
    ----------
    seconds
        By the clock, with the workers that are there.
    device_seconds
        The same summed over devices.
    basis
        Whether the pace was measured on this service, or is assumed.
    workers
        Training processes that were seen lately; 1 if there are none.
    """

    seconds: float
    device_seconds: float
    basis: Basis
    workers: int


def estimate(session: Session, specification: JobSpecification, dataset: Dataset) -> Estimate:
    """Estimate the training of a job that has not begun, from the pace of the last trainings on this service."""
    budget = specification.budget
    pace, basis = _operations_per_s(session)
    workers = max(1, len(alive_workers(session)))
    parallel = min(workers, budget.models)
    device_seconds = expected_epochs(specification) * _epoch_operations(specification, dataset) / pace
    seconds = device_seconds / parallel
    if (limit := budget.device_seconds) is not None:
        device_seconds, seconds = min(device_seconds, limit), min(seconds, limit)
    if (limit := budget.wall_seconds) is not None:
        seconds, device_seconds = min(seconds, limit), min(device_seconds, limit * parallel)
    return Estimate(seconds, device_seconds, basis, workers)


def seconds_left(
    session: Session, job: Job, specification: JobSpecification, trained: int, to_do: int, elapsed_s: float
) -> float:
    """Estimate the time until a job has trained its last epoch, without pauses.

    Until the job has trained an epoch, this is the `estimate` of its preview; from then on its own pace decides.

    Parameters
    ----------
    trained, to_do
        Epochs over all models: trained, and left at most.
    elapsed_s
        Since the first slice began.
    """
    if not trained:
        return round(estimate(session, specification, session.get_one(Dataset, job.dataset_id)).seconds, 1)
    expected = expected_epochs(specification) - trained
    left = elapsed_s / trained * (min(to_do, expected) if expected > 0 else to_do)
    if (limit := specification.budget.wall_seconds) is not None:
        left = min(left, max(0.0, limit - elapsed_s))
    return left


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


def _epoch_operations(specification: JobSpecification, dataset: Dataset) -> float:
    """Operations of one epoch of the largest model that a job may train."""
    trials = dataset.trials or 0
    valid = round(specification.training.valid_fraction * trials)
    largest = specification.architecture.largest().of_model({}, dataset.report)
    return cost.epoch_operations(
        largest, neurons_per_trial(dataset), dataset.bins or 0, trials - valid, valid
    )


def _operations_per_s(session: Session) -> tuple[float, Basis]:
    """Return the pace of one worker: the median over the last slices of training here, or assumed.

    It is read once in a session: a page of jobs asks for it again and again.
    """
    if "pace" not in session.info:
        session.info["pace"] = _measured_operations_per_s(session)
    measured = session.info["pace"]
    return (ASSUMED_OPERATIONS_PER_S, "assumed") if measured is None else (measured, "measured")


def _measured_operations_per_s(session: Session) -> float | None:
    recent = (
        select(Slice, Job.spec, Dataset)
        .join(Job, Job.id == Slice.job_id)
        .join(Dataset, Dataset.id == Job.dataset_id)
        .where(Slice.kind == "train", Slice.state == SliceState.DONE, Slice.device_seconds > 0)
        .order_by(Slice.id.desc())
        .limit(_SLICES_MEASURED)
    )
    paces = []
    for piece, spec, dataset in session.execute(recent):
        epochs = len(piece.model_ids) * ((piece.epochs_trained or 0) - piece.first_epoch)
        operations = epochs * _epoch_operations(JobSpecification.model_validate(spec), dataset)
        paces.append(operations / (piece.device_seconds or 1.0))
    return max(1.0, statistics.median(paces)) if paces else None
