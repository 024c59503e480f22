"""What a job would do and take, without doing it."""

import math
import statistics

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.datasets.service import find_ready
from api.jobs import warm_start
from api.jobs.checks import JobData, check, step_bytes, warnings
from api.jobs.schemas import JobPreview
from store import cost
from store.sessions import neurons_per_trial, sessions_of
from store.settings import Settings
from store.specification import JobSpecification, split_trials
from store.states import SliceState
from store.strategies import AshaStrategy, HyperbandStrategy
from store.tables import Dataset, Job, Slice, Trial
from store.workers import alive_workers

ASSUMED_OPERATIONS_PER_S = 5e10
"""Of one CPU core in training, where nothing has been measured yet."""
_SLICES_MEASURED = 50
_CURVE_POINT_BYTES = 200


def job_data(session: Session, tenant_id: str, specification: JobSpecification) -> JobData:
    """The data set of a job and its split.

    Raises
    ------
    NotFound, WrongState
        If there is no such data set, or it is not ready.
    """
    dataset = find_ready(session, tenant_id, specification.dataset_id)
    of_trials = (
        select(Trial.split, Trial.length_bins).where(Trial.dataset_id == dataset.id).order_by(Trial.trial)
    )
    rows = session.execute(of_trials).all()
    given = [row.split for row in rows]
    fraction, seed = specification.training.valid_fraction, specification.seed
    split = split_trials(given, fraction, seed, sessions_of(dataset))
    return JobData(dataset, [row.length_bins for row in rows], split, is_given="valid" in given)


def preview(
    session: Session, tenant_id: str, specification: JobSpecification, settings: Settings
) -> JobPreview:
    """Check a specification against its data set, and say what it would do and take.

    Raises
    ------
    NotFound, WrongState, Invalid
        Everything that can be known before training.
    """
    data = job_data(session, tenant_id, specification)
    check(specification, data)
    if specification.warm_start is not None:
        warm_start.find_models(session, tenant_id, specification, data)
    training, architecture = data.training_trials, specification.architecture
    largest = architecture.largest().of_model({}, data.dataset.report)
    neurons, models = neurons_per_trial(data.dataset), specification.budget.models
    epochs = expected_epochs(specification)
    operations = epochs * cost.epoch_operations(largest, neurons, data.bins, training, data.validation_trials)
    workers = max(1, len(alive_workers(session)))
    pace, basis = _operations_per_s(session)
    seconds_of_devices = operations / pace
    packs = max(min(models, workers), -(-models // settings.pack_models))
    seconds = seconds_of_devices / min(workers, packs)
    if (limit := specification.budget.device_seconds) is not None:
        seconds_of_devices, seconds = min(seconds_of_devices, limit), min(seconds, limit)
    if (limit := specification.budget.wall_seconds) is not None:
        seconds, seconds_of_devices = (
            min(seconds, limit),
            min(seconds_of_devices, limit * min(workers, packs)),
        )
    kept = min(models, specification.budget.top_k)
    return JobPreview(
        valid=True,
        models=models,
        epochs=epochs,
        training_trials=training,
        validation_trials=data.validation_trials,
        steps_per_epoch=-(-training // min(specification.training.batch_size, training)),
        packs=packs,
        slices=max(packs, math.ceil(seconds_of_devices / settings.slice_seconds)) + 1,
        seconds=round(seconds, 1),
        device_seconds=round(seconds_of_devices, 1),
        seconds_basis=basis,
        workers=workers,
        step_memory_bytes=step_bytes(specification, data),
        kept_bytes=kept * cost.checkpoint_bytes(largest, data.dataset.neurons or 0)
        + epochs * _CURVE_POINT_BYTES,
        latents_bytes=cost.latents_bytes(largest, neurons, data.bins, len(data.lengths)),
        external_inputs=architecture.external_inputs(data.dataset.report),
        specification=specification,
        warnings=warnings(specification, data),
    )


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


def _operations_per_s(session: Session) -> tuple[float, str]:
    """Pace of one worker: the median over the last slices of training here, or assumed."""
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
        specification = JobSpecification.model_validate(spec)
        valid = specification.training.valid_fraction * (dataset.trials or 0)
        architecture = specification.architecture.largest().of_model({}, dataset.report)
        per_epoch = cost.epoch_operations(
            architecture,
            neurons_per_trial(dataset),
            dataset.bins or 0,
            (dataset.trials or 0) - round(valid),
            round(valid),
        )
        paces.append(epochs * per_epoch / (piece.device_seconds or 1.0))
    if not paces:
        return ASSUMED_OPERATIONS_PER_S, "assumed"
    return max(1.0, statistics.median(paces)), "measured"
