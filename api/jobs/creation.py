"""Create a job, or preview it: read the data set, check the specification once, then write the job or say what it would do."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

from cachetools import LRUCache
from fastapi import Response
from sqlalchemy.orm import Session

from api.caches import of_resources
from api.datasets.service import find_ready
from api.dependencies import Context
from api.errors import Invalid, NotFound, QuotaReached, WrongState
from api.jobs import warm_start
from api.jobs.schemas import JobPreview
from api.jobs.timing import read_workers
from api.limits.quotas import model_epochs
from domain import cost, feasibility
from domain.estimate import Estimate, estimate, expected_epochs
from domain.job_checks import JobData, problems_of
from domain.job_specification import JobSpecification, Training, scored_on
from domain.job_warnings import warnings
from domain.quotas import Use
from domain.sessions import neurons_per_trial
from domain.split_groups import Split, SplitGroups
from domain.states import JobState
from store import audit, events, outbox, quotas
from store.database import database_now
from store.datasets import given_splits
from store.identifiers import new_id
from store.settings import Settings
from store.tables import Dataset, Job, Tenant

_CURVE_POINT_BYTES = 200
_SplitData = tuple[SplitGroups, Sequence[Split], bool, bool]
_MOST_TRIALS = 500_000
_lock = Lock()
_splits: LRUCache[tuple[str, float, float, int], _SplitData] = of_resources(
    LRUCache(_MOST_TRIALS, getsizeof=lambda split: 1 + len(split[1])), _lock
)
"""Splits of jobs by data set and options. The trials of a data set that is ready never change."""


@dataclass(frozen=True)
class CheckedJob:
    """A job that passed every check that is possible before training.

    Parameters
    ----------
    specification
        The specification with everything that is chosen for the data set.
    data
        The data set, with the job's split.
    estimate
        How long the job takes.
    warm_models
        What the first models begin with: hyperparameters, and where their weights are stored. Empty without a warm start.
    warnings
        Settings that are allowed and probably not intended.
    """

    specification: JobSpecification
    data: JobData
    estimate: Estimate
    warm_models: list[dict[str, Any]]
    warnings: list[str]


def check(session: Session, tenant_id: str, given: JobSpecification, *, to_write: bool = False) -> CheckedJob:
    """Check a specification against its data set and its warm start. If the job is then written, neither may be deleted before.

    Raises
    ------
    NotFound, WrongState
        If the data set or the job of the warm start does not exist, or the data set is not ready.
    Invalid
        If the specification does not fit the data set, or the weights of the warm start do not fit.
    """
    dataset = find_ready(session, tenant_id, given.dataset_id, to_refer=to_write)
    data = _job_data(session, dataset, given.training)
    specification = given.for_trials(data.training_trials)
    if problems := problems_of(specification, data):
        raise Invalid.of(problems)
    warm_models = warm_start.find_models(session, tenant_id, specification, dataset, to_refer=to_write)
    time = estimate(specification, dataset, read_workers(session))
    found = warnings(specification, data, time) + warm_start.warnings(session, specification, dataset)
    return CheckedJob(specification, data, time, warm_models, found)


def is_split_known(given: JobSpecification) -> bool:
    """Return whether `check` reads and splits no trials."""
    with _lock:
        return _key(given.dataset_id, given.training) in _splits


def split_ahead(context: Context, given: JobSpecification) -> Response:
    """Read and split the trials of a data set, which takes 130 ms for 20,000 trials, so that `check` is quick."""
    with suppress(NotFound, WrongState), context.database.read() as session:  # `check` raises them
        _job_data(session, find_ready(session, context.tenant_id, given.dataset_id), given.training)
    return Response()


def _job_data(session: Session, dataset: Dataset, training: Training) -> JobData:
    key = _key(dataset.id, training)
    with _lock:
        split = _splits.get(key)
    if split is None:
        data = JobData.of(dataset, *given_splits(session, dataset.id), training)
        split = (data.groups, data.split, data.is_given, data.has_own_test)
        with _lock, suppress(ValueError):  # too large for the cache
            _splits[key] = split
    return JobData(dataset, *split)


def _key(dataset_id: str, training: Training) -> tuple[str, float, float, int]:
    return dataset_id, training.valid_fraction, training.test_fraction, training.evaluation_seed


def write(session: Session, settings: Settings, tenant_id: str, job: CheckedJob) -> Job:
    """Write a checked job and ask the scheduler to begin it.

    Raises
    ------
    QuotaReached
        If the job goes beyond a quota of the tenant.
    """
    quotas.lock_tenant(session, tenant_id)
    if refused := refused_by(session, settings, tenant_id, job):
        raise QuotaReached.of(*refused[0])
    row = _row(session, tenant_id, job)
    session.add(row)
    session.flush()
    audit.record(session, "job.created", row)
    events.record(session, row.id, "job.state", state=row.state)
    outbox.post(session, outbox.ADVANCE, row.id)
    session.flush()
    return row


def _row(session: Session, tenant_id: str, job: CheckedJob) -> Job:
    specification = job.specification
    return Job(
        id=new_id("job"),
        tenant_id=tenant_id,
        dataset_id=specification.dataset_id,
        name=specification.name,
        state=JobState.QUEUED,
        spec=specification.model_dump(mode="json"),
        priority=specification.priority,
        notes=specification.notes,
        tags=specification.tags,
        warm_models=job.warm_models or None,
        warnings=job.warnings,
        created_at=database_now(session),
    )


def refused_by(
    session: Session, settings: Settings, tenant_id: str, job: CheckedJob
) -> list[tuple[Use, float]]:
    """Return the quotas that refuse a job now, each with the amount that the job asks for."""
    uses = quotas.amounts_in_use(session, settings, tenant_id)
    budget, (kept, latents) = job.specification.budget, _kept_bytes(job)
    asked = (
        (uses["open_jobs"], 1),
        (uses["stored_bytes"], kept + latents),
        (uses["database_bytes"], _row(session, tenant_id, job).size_bytes_of_row()),
        model_epochs(session, settings, tenant_id, budget),
    )
    return [(use, more) for use, more in asked if use.refuses(more)]


def _kept_bytes(job: CheckedJob) -> tuple[int, int]:
    """Return the sizes of the kept weights and of the latents of a job."""
    data, budget = job.data, job.specification.budget
    largest = job.specification.architecture.largest().of_model({}, data.dataset.report)
    kept = min(budget.models, budget.top_k) * cost.checkpoint_bytes(largest, data.dataset.neurons or 0)
    return kept, cost.latents_bytes(largest, neurons_per_trial(data.dataset), data.bins, len(data.lengths))


def preview(session: Session, settings: Settings, tenant_id: str, job: CheckedJob) -> JobPreview:
    """Say what a checked job would do, the time, memory and storage that it would need, and which quotas refuse it."""
    specification, data, time = job.specification, job.data, job.estimate
    dataset, budget = data.dataset, specification.budget
    epochs = expected_epochs(specification)
    packs = max(min(budget.models, time.workers), -(-budget.models // settings.pack_models))
    kept, latents = _kept_bytes(job)
    return JobPreview(
        valid=True,
        models=budget.models,
        epochs=epochs,
        training_trials=data.training_trials,
        validation_trials=data.validation_trials,
        test_trials=data.test_trials,
        steps_per_epoch=specification.training.steps_per_epoch(data.training_trials),
        packs=packs,
        slices=max(packs, math.ceil(time.device_seconds / settings.slice_seconds)) + 1,
        seconds=round(time.seconds, 1),
        device_seconds=round(time.device_seconds, 1),
        seconds_basis=time.basis,
        workers=time.workers,
        step_memory_bytes=feasibility.step_bytes(specification, data.extent),
        kept_bytes=kept + epochs * _CURVE_POINT_BYTES,
        latents_bytes=latents,
        refused_by=[use.sentence(more) for use, more in refused_by(session, settings, tenant_id, job)],
        waits_for=quotas.why_work_waits(session, settings, session.get_one(Tenant, tenant_id)),
        external_inputs=specification.architecture.external_inputs(dataset.report),
        scored_on=scored_on(specification, dataset),
        specification=specification,
        warnings=job.warnings,
    )
