"""What a job would do and take, without doing it."""

import math

from sqlalchemy.orm import Session

from api.datasets.service import find_ready
from api.jobs import warm_start
from api.jobs.checks import JobData, check, step_bytes
from api.jobs.estimate import estimate, expected_epochs
from api.jobs.schemas import JobPreview
from api.jobs.warnings import warnings
from domain import cost
from domain.job_specification import JobSpecification, scored_on, split_trials
from domain.sessions import neurons_per_trial, sessions_of
from store.datasets import given_splits
from store.settings import Settings

_CURVE_POINT_BYTES = 200


def job_data(
    session: Session, tenant_id: str, specification: JobSpecification
) -> tuple[JobData, JobSpecification]:
    """Return the data set of a job with its split, and the specification with what is chosen for this data set.

    Raises
    ------
    NotFound, WrongState
        If there is no such data set, or it is not ready.
    """
    dataset = find_ready(session, tenant_id, specification.dataset_id)
    given, groups = given_splits(session, dataset.id)
    split = split_trials(given, groups, specification.training, sessions_of(dataset))
    data = JobData(dataset, groups, split, is_given="valid" in given, has_own_test="test" in given)
    return data, specification.for_trials(data.training_trials)


def preview(
    session: Session, tenant_id: str, specification: JobSpecification, settings: Settings
) -> JobPreview:
    """Check a specification against its data set, and say what it would do and take.

    Raises
    ------
    NotFound, WrongState, Invalid
        Everything that can be known before training.
    """
    data, specification = job_data(session, tenant_id, specification)
    check(specification, data)
    if specification.warm_start is not None:
        warm_start.find_models(session, tenant_id, specification, data)
    training, architecture = data.training_trials, specification.architecture
    largest = architecture.largest().of_model({}, data.dataset.report)
    neurons, models = neurons_per_trial(data.dataset), specification.budget.models
    epochs = expected_epochs(specification)
    time = estimate(session, specification, data.dataset)
    packs = max(min(models, time.workers), -(-models // settings.pack_models))
    kept = min(models, specification.budget.top_k)
    return JobPreview(
        valid=True,
        models=models,
        epochs=epochs,
        training_trials=training,
        validation_trials=data.validation_trials,
        test_trials=data.test_trials,
        steps_per_epoch=-(-training // specification.training.batch_size),
        packs=packs,
        slices=max(packs, math.ceil(time.device_seconds / settings.slice_seconds)) + 1,
        seconds=round(time.seconds, 1),
        device_seconds=round(time.device_seconds, 1),
        seconds_basis=time.basis,
        workers=time.workers,
        step_memory_bytes=step_bytes(specification, data),
        kept_bytes=kept * cost.checkpoint_bytes(largest, data.dataset.neurons or 0)
        + epochs * _CURVE_POINT_BYTES,
        latents_bytes=cost.latents_bytes(largest, neurons, data.bins, len(data.lengths)),
        external_inputs=architecture.external_inputs(data.dataset.report),
        scored_on=scored_on(specification, data.dataset),
        specification=specification,
        warnings=warnings(specification, data, time) + warm_start.warnings(session, specification, data),
    )
