"""Read the progress of jobs: of a page of jobs with as many queries as of one."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from api.jobs.schemas import JobProgress, RunningOn
from api.jobs.timing import seconds_left
from domain.estimate import EpochCount
from domain.job_specification import JobSpecification
from domain.states import WORKED_ON, JobState, ModelState, SliceState
from store.budget import spent_by
from store.database import database_now
from store.tables import CurvePoint, Job, Model, Slice, Tenant, Worker

_OPEN = (ModelState.QUEUED, ModelState.TRAINING)
_INTERRUPTED = (ModelState.CANCELLED, ModelState.FAILED)
# The points of a slice are written before the models' rows, which change when the slice ends.
_IS_AHEAD = CurvePoint.epoch > Model.epochs_trained
_OF_MODEL = (CurvePoint.model_id == Model.id) & _IS_AHEAD


class _Best(NamedTuple):
    """The lowest smoothed SV loss of a job, and the model that has it."""

    loss: float | None = None
    bits_per_spike: float | None = None
    model_id: str | None = None


class _Epochs(NamedTuple):
    """Number of models in one state, the epochs that they trained, and the epochs that they were told to train."""

    models: int
    trained: int
    target: int


def read_progress(
    session: Session, jobs: Sequence[Job], specifications: Mapping[str, JobSpecification]
) -> dict[str, JobProgress]:
    """Return the progress of each job, by the id of the job. Only jobs that have not ended need further queries."""
    ids = [job.id for job in jobs]
    best, epochs, times = _best(session, ids), _epochs(session, ids), spent_by(session, jobs)
    waiting = _reasons_to_wait(session, jobs)
    found = {}
    for job in jobs:
        specification, state = specifications[job.id], JobState(job.state)
        budget, time_spent = specification.budget, times[job.id]
        ended, count = _count(job, specification, epochs[job.id])
        left = None
        if not state.is_final and state != JobState.PAUSED:
            left = seconds_left(session, job, specification, count, time_spent)
        fraction = count.trained / max(1, count.trained + count.to_do)
        loss, bits, model_id = best.get(job.id, _Best())
        found[job.id] = JobProgress(
            fraction=1.0 if state == JobState.DONE else fraction,
            models=budget.models,
            models_ended=ended,
            epochs_trained=count.trained,
            epochs_budget=budget.models * budget.epochs,
            best_smoothed_sv_loss=loss,
            best_sv_bits_per_spike_valid=bits,
            best_model_id=model_id,
            seconds_elapsed=None if job.started_at is None else time_spent.wall_seconds,
            device_seconds=time_spent.device_seconds,
            seconds_left=left,
            waits_for=waiting.get(job.id),
        )
    return found


def running_on(session: Session, job_ids: Sequence[str]) -> dict[str, list[RunningOn]]:
    """Return the training processes that work on jobs now, by the id of the job."""
    leased = (
        select(Slice.job_id, Slice.kind, Slice.model_ids, Slice.started_at, Worker.device)
        .outerjoin(Worker, Worker.name == Slice.leased_by)
        .where(Slice.job_id.in_(job_ids), Slice.state == SliceState.LEASED)
        .order_by(Slice.id)
    )
    found: dict[str, list[RunningOn]] = defaultdict(list)
    for job_id, kind, models, since, device in session.execute(leased):
        found[job_id].append(RunningOn(device=device, kind=kind, models=len(models), since=since))
    return found


def _reasons_to_wait(session: Session, jobs: Sequence[Job]) -> dict[str, str]:
    """Return why a part of a job waits, by the id of the job: for the operator, device time, or space on a disk."""
    now = database_now(session)
    waits = select(Slice.job_id, Slice.error).where(
        Slice.job_id.in_([job.id for job in jobs]), Slice.not_before > now
    )
    found = {
        job_id: str(error.get("message")) for job_id, error in session.execute(waits) if error is not None
    }
    for job in jobs:
        tenant = session.get_one(Tenant, job.tenant_id)  # all jobs are of one tenant, which is read once
        if job.state in WORKED_ON and tenant.pause_sentence is not None:
            found[job.id] = tenant.pause_sentence
        elif job.state in WORKED_ON and tenant.has_no_device_time(now):
            frees_at = f"{tenant.device_time_frees_at:%Y-%m-%dT%H:%M:%SZ}"
            found[job.id] = (
                f"the device time of your tenant is spent; the job continues at {frees_at}. "
                "GET /v1/usage shows what is used and allowed"
            )
    return found


def _best(session: Session, job_ids: Sequence[str]) -> dict[str, _Best]:
    """Return the lowest smoothed SV loss of the weights that the models of each job hold.

    A model that copied another does not hold the weights that it had before.
    """
    of_search = Model.job_id.in_(job_ids) & Model.refit_of.is_(None)
    is_copy = func.coalesce(Model.trained_by, Model.number) != Model.number
    order = (Model.smoothed_sv_loss, is_copy, Model.number)  # as `store.lineage.selection_order`
    held = (
        select(Model.id, _rank(order).label("rank"))
        .where(of_search, Model.smoothed_sv_loss.is_not(None))
        .subquery()
    )
    found = {
        job_id: _Best(loss, scores.get("sv_bits_per_spike_valid"), model_id)
        for job_id, loss, scores, model_id in session.execute(
            select(Model.job_id, Model.smoothed_sv_loss, Model.scores, Model.id)
            .join(held, held.c.id == Model.id)
            .where(held.c.rank == 1)
        )
    }
    # By model, so that PostgreSQL looks at the index for each of them and does not read the curves.
    loss = select(func.min(CurvePoint.smoothed_sv_loss)).where(_OF_MODEL).correlate(Model).scalar_subquery()
    trained = select(Model.id, Model.job_id, Model.number, Model.epochs_trained, loss.label("loss"))
    lowest = trained.where(of_search).subquery()
    place = func.row_number().over(partition_by=lowest.c.job_id, order_by=(lowest.c.loss, lowest.c.number))
    ahead = select(lowest, place.label("rank")).where(lowest.c.loss.is_not(None)).subquery()
    of_loss = (
        CurvePoint.model_id == ahead.c.id,
        CurvePoint.epoch > ahead.c.epochs_trained,
        CurvePoint.smoothed_sv_loss == ahead.c.loss,
    )
    point = select(CurvePoint.sv_bits_per_spike_valid).where(*of_loss).order_by(CurvePoint.epoch).limit(1)
    columns = (ahead.c.job_id, ahead.c.loss, point.scalar_subquery(), ahead.c.id)
    for job_id, *values in session.execute(select(*columns).where(ahead.c.rank == 1)):
        new = _Best(*values)
        if job_id not in found or (new.loss or 0.0) < (found[job_id].loss or 0.0):
            found[job_id] = new
    return found


def _rank(order: Sequence[Any]) -> ColumnElement[int]:
    """Return the rank of a row within its job."""
    return func.row_number().over(partition_by=Model.job_id, order_by=order)


def _epochs(session: Session, job_ids: Sequence[str]) -> dict[str, dict[ModelState, _Epochs]]:
    """Return the models and epochs of each job, by the state of the models."""
    of_jobs, groups = Model.job_id.in_(job_ids), (Model.job_id, Model.state)
    points = (
        select(*groups, func.count())
        .select_from(CurvePoint)
        .join(Model, Model.id == CurvePoint.model_id)
        .where(of_jobs, _IS_AHEAD)
        .group_by(*groups)
    )
    ahead = {(job_id, state): number for job_id, state, number in session.execute(points)}
    models = select(
        *groups, func.count(), func.sum(Model.epochs_trained), func.coalesce(func.sum(Model.target_epochs), 0)
    )
    found: dict[str, dict[ModelState, _Epochs]] = defaultdict(dict)
    for job_id, state, number, trained, target in session.execute(models.where(of_jobs).group_by(*groups)):
        found[job_id][ModelState(state)] = _Epochs(number, trained + ahead.get((job_id, state), 0), target)
    return found


def _count(
    job: Job, specification: JobSpecification, epochs: Mapping[ModelState, _Epochs]
) -> tuple[int, EpochCount]:
    """Return how many models ended, and the epochs of all models.

    A model that ended before its budget was spent has no epochs left. A model that ended because its job failed or was
    cancelled has the rest of its budget left.
    """
    budget = specification.budget
    is_interrupted = job.state in (JobState.CANCELLED, JobState.FAILED)
    all_models = _sum(epochs.values())
    open_models = _sum(epochs[state] for state in _OPEN if state in epochs)
    left_states = (*_OPEN, *_INTERRUPTED) if is_interrupted else _OPEN
    unfinished = _sum(epochs[state] for state in left_states if state in epochs)
    begins_more = job.state not in (JobState.STOPPING, JobState.INFERRING)
    to_come = max(0, budget.models - all_models.models) if begins_more else 0
    models_left = to_come + unfinished.models
    return all_models.models - open_models.models, EpochCount(
        trained=all_models.trained,
        to_do=max(0, models_left * budget.epochs - unfinished.trained),
        committed=max(0, open_models.target - open_models.trained),
        models_left=models_left,
    )


def _sum(parts: Iterable[_Epochs]) -> _Epochs:
    total = _Epochs(0, 0, 0)
    for part in parts:
        total = _Epochs(*(a + b for a, b in zip(total, part, strict=True)))
    return total
