"""The database operations of the routes of jobs."""

from collections.abc import Callable, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.errors import Gone, NotFound
from api.idempotency import fingerprint, store_answer, stored_answer
from api.jobs import creation, lifecycle
from api.jobs.schemas import (
    BudgetExtension,
    EventDocument,
    JobChanges,
    JobDiagnostics,
    JobDocument,
    JobProgress,
)
from api.jobs.timing import seconds_left
from api.labels import change
from api.models.schemas import ModelDocument
from api.models.service import document as model_document
from api.pagination import Filters, Page, cut_page, decode_number, newest_page
from api.quotas import check_amounts, check_budget
from domain.estimate import EpochCount
from domain.job_specification import JobSpecification, scored_on
from domain.states import WORKED_ON, JobState, ModelState
from store.budget import spent
from store.database import LOCK, database_now
from store.identifiers import PATTERN
from store.retention import is_swept, why_gone
from store.settings import Settings
from store.tables import CurvePoint, Dataset, Event, Job, Model, Slice, Tenant


def document(session: Session, row: Job) -> JobDocument:
    """Return the document of a job."""
    specification = JobSpecification.model_validate(row.spec)
    dataset = session.get_one(Dataset, row.dataset_id)
    base = f"/v1/jobs/{row.id}"
    links = {
        "self": base,
        "dataset": f"/v1/datasets/{row.dataset_id}",
        "inferences": f"/v1/inferences?job_id={row.id}",
        "models": f"{base}/models",
        "events": f"{base}/events",
        "decisions": f"{base}/decisions",
        "lineage": f"{base}/lineage",
        "lineage_picture": f"{base}/lineage.svg",
        "importance": f"{base}/importance",
        "event_stream": f"{base}/events/stream",
    }
    if row.selected_model_id:
        links["selected_model"] = f"/v1/models/{row.selected_model_id}"
    if row.final_model_id:
        links["final_model"] = f"/v1/models/{row.final_model_id}"
    return JobDocument(
        id=row.id,
        name=row.name,
        notes=row.notes,
        tags=row.tags,
        dataset_id=row.dataset_id,
        dataset_name=dataset.name,
        state=row.state,
        progress=_progress(session, row, specification),
        selected_model_id=row.selected_model_id,
        final_model_id=row.final_model_id,
        warnings=row.warnings or [],
        trained_with=row.trained_with or [],
        scored_on=scored_on(specification, dataset),
        diagnostics=None if row.diagnostics is None else JobDiagnostics.model_validate(row.diagnostics),
        error=row.error,
        stored_bytes=_stored_bytes(session, row),
        specification=specification,
        created_at=row.created_at,
        created_by=row.created_by,
        started_at=row.started_at,
        ended_at=row.ended_at,
        links=links,
    )


def _progress(session: Session, row: Job, specification: JobSpecification) -> JobProgress:
    budget, state = specification.budget, JobState(row.state)
    ended, count = _epochs(session, row, specification)
    fraction = 1.0 if state == JobState.DONE else count.trained / max(1, count.trained + count.to_do)
    best_loss, best_bits, best_id = _best(session, row)
    time_spent = spent(session, row)
    left = None
    if not state.is_final and state != JobState.PAUSED:
        left = seconds_left(session, row, specification, count, time_spent)
    return JobProgress(
        fraction=fraction,
        models=budget.models,
        models_ended=ended,
        epochs_trained=count.trained,
        epochs_budget=budget.models * budget.epochs,
        best_smoothed_sv_loss=best_loss,
        best_sv_bits_per_spike_valid=best_bits,
        best_model_id=best_id,
        seconds_elapsed=None if row.started_at is None else time_spent.wall_seconds,
        device_seconds=time_spent.device_seconds,
        seconds_left=left,
        waits_for=_reason_to_wait(session, row),
    )


def _reason_to_wait(session: Session, row: Job) -> str | None:
    """Return why a part of a job waits: for device time of the tenant, or for space on a full disk."""
    now, tenant = database_now(session), session.get_one(Tenant, row.tenant_id)
    if row.state in WORKED_ON and tenant.has_no_device_time(now):
        return (
            f"the device time of your tenant is spent; the job continues at {tenant.device_time_frees_at:%Y-%m-%dT%H:%M:%SZ}. "
            "GET /v1/usage shows what is used and allowed"
        )
    waits = select(Slice.error).where(Slice.job_id == row.id, Slice.not_before > now).limit(1)
    waiting = session.execute(waits).scalar_one_or_none()
    return None if waiting is None else str(waiting.get("message"))


def _stored_bytes(session: Session, row: Job) -> int:
    """Return the size of the weights and latents that a job keeps. A checkpoint that several models hold counts once."""
    of_job = Model.job_id == row.id
    checkpoints = (
        select(func.max(Model.checkpoint_bytes).label("size"))
        .where(of_job, Model.checkpoint_bytes > 0)
        .group_by(Model.checkpoint_key)
        .subquery()
    )
    sums = (
        select(func.coalesce(func.sum(checkpoints.c.size), 0)),
        select(func.coalesce(func.sum(Model.latents_bytes), 0)).where(of_job),
    )
    return sum(int(session.execute(query).scalar_one()) for query in sums)


def _best(session: Session, row: Job) -> tuple[float | None, float | None, str | None]:
    """Return the lowest smoothed SV loss of the weights that the models hold, its bits per spike, and the id of the model.

    A model that copied another does not hold the weights that it had before.
    """
    of_search = (Model.job_id == row.id) & Model.refit_of.is_(None)
    is_copy = func.coalesce(Model.trained_by, Model.number) != Model.number
    held = (
        select(Model.smoothed_sv_loss, Model.scores, Model.id)
        .where(of_search, Model.smoothed_sv_loss.is_not(None))
        .order_by(Model.smoothed_sv_loss, is_copy, Model.number)  # as `store.lineage.selection_order`
    )
    # The points of a slice are written before the models' rows, which change when the slice ends.
    ahead = (
        select(CurvePoint.smoothed_sv_loss, CurvePoint.sv_bits_per_spike_valid, Model.id)
        .join(Model, Model.id == CurvePoint.model_id)
        .where(of_search, CurvePoint.smoothed_sv_loss.is_not(None), CurvePoint.epoch > Model.epochs_trained)
        .order_by(CurvePoint.smoothed_sv_loss, Model.number)
    )
    found = [one for query in (held, ahead) if (one := session.execute(query.limit(1)).first()) is not None]
    best = min(found, key=lambda one: float(one[0] or 0.0), default=None)
    if best is None:
        return None, None, None
    loss, bits, model_id = best
    return loss, bits.get("sv_bits_per_spike_valid") if isinstance(bits, dict) else bits, model_id


def _epochs(session: Session, row: Job, specification: JobSpecification) -> tuple[int, EpochCount]:
    """Return how many models ended, and the epochs of all models.

    A model that ended before its budget was spent has no epochs left. A model that ended because its job failed or was
    cancelled has the rest of its budget left.
    """
    budget, of_job = specification.budget, Model.job_id == row.id
    open_states = [ModelState.QUEUED, ModelState.TRAINING]
    left_states = open_states + (
        [ModelState.CANCELLED, ModelState.FAILED]
        if row.state in (JobState.CANCELLED, JobState.FAILED)
        else []
    )
    begun, ended, unfinished, target = session.execute(
        select(
            func.count(),
            func.count().filter(Model.state.not_in(open_states)),
            func.count().filter(Model.state.in_(left_states)),
            func.coalesce(func.sum(Model.target_epochs).filter(Model.state.in_(open_states)), 0),
        ).where(of_job)
    ).one()
    # The points of a slice are written before the models' rows, which change when the slice ends. Older points are not counted:
    # there are many, and old ones are removed.
    ahead = (
        select(Model.id.label("model_id"), func.count().label("number"))
        .join(CurvePoint, (CurvePoint.model_id == Model.id) & (CurvePoint.epoch > Model.epochs_trained))
        .where(of_job)
        .group_by(Model.id)
        .subquery("ahead")
    )
    epochs = Model.epochs_trained + func.coalesce(ahead.c.number, 0)
    of_models = (
        select(
            func.sum(epochs),
            func.sum(epochs).filter(Model.state.in_(left_states)),
            func.sum(epochs).filter(Model.state.in_(open_states)),
        )
        .outerjoin(ahead, ahead.c.model_id == Model.id)
        .where(of_job)
    )
    trained, trained_of_unfinished, trained_of_open = (
        int(number or 0) for number in session.execute(of_models).one()
    )
    begins_more = row.state not in (JobState.STOPPING, JobState.INFERRING)
    to_come = max(0, budget.models - begun) if begins_more else 0
    return ended, EpochCount(
        trained=trained,
        to_do=max(0, (to_come + unfinished) * budget.epochs - trained_of_unfinished),
        committed=max(0, target - trained_of_open),
        models_left=to_come + unfinished,
    )


def find(session: Session, tenant_id: str, job_id: str, *, lock: bool = False) -> Job:
    """Return the tenant's job, or raise `NotFound`."""
    row = (
        session.get(Job, job_id, with_for_update=LOCK if lock else None)
        if PATTERN.fullmatch(job_id)
        else None
    )
    if row is None or row.tenant_id != tenant_id:
        raise NotFound(f"there is no job {job_id}", hint="GET /v1/jobs lists yours")
    return row


def create(
    session: Session,
    settings: Settings,
    tenant_id: str,
    specification: JobSpecification,
    idempotency_key: str | None,
) -> JobDocument:
    """Check and write a job; the same key again returns the answer of the first request."""
    request = fingerprint("POST /v1/jobs", specification.model_dump_json())
    if (answer := stored_answer(session, tenant_id, idempotency_key, request)) is not None:
        return JobDocument.model_validate(answer)
    checked = creation.check(session, tenant_id, specification, to_write=True)
    row = creation.write(session, settings, tenant_id, checked)
    created = document(session, row)
    store_answer(session, tenant_id, idempotency_key, request, created.model_dump(mode="json"))
    return created


def change_state(
    session: Session, tenant_id: str, job_id: str, change: Callable[[Session, Job], None]
) -> JobDocument:
    """Carry out a verb of `api.jobs.lifecycle` and return the job.

    Raises
    ------
    NotFound, WrongState
        If the job does not exist, or the verb does not fit its state.
    """
    job = find(session, tenant_id, job_id, lock=True)
    change(session, job)
    session.flush()
    return document(session, job)


def retry(session: Session, settings: Settings, tenant_id: str, job_id: str) -> JobDocument:
    """Continue a job that failed or was cancelled, if the tenant may have one more open job."""
    retried = change_state(session, tenant_id, job_id, lifecycle.retry)
    check_amounts(session, settings, tenant_id, open_jobs=0)  # it is counted already
    return retried


def extend(
    session: Session,
    settings: Settings,
    tenant_id: str,
    job_id: str,
    more: BudgetExtension,
    idempotency_key: str | None,
) -> JobDocument:
    """Add to a job's budget; the same key again adds nothing."""
    request = fingerprint(f"POST /v1/jobs/{job_id}:extend", more.model_dump_json())
    if (answer := stored_answer(session, tenant_id, idempotency_key, request)) is not None:
        return JobDocument.model_validate(answer)
    extended = change_state(session, tenant_id, job_id, lambda _, job: lifecycle.extend(session, job, more))
    check_budget(session, settings, tenant_id, extended.specification.budget)
    check_amounts(session, settings, tenant_id, open_jobs=0)
    store_answer(session, tenant_id, idempotency_key, request, extended.model_dump(mode="json"))
    return extended


def amend(session: Session, tenant_id: str, job_id: str, changes: JobChanges) -> JobDocument:
    """Change the name, the notes, the tags or the priority of a job."""
    job = find(session, tenant_id, job_id, lock=True)
    job.spec = job.spec | change(session, job, changes, {"name": "", "priority": 0})
    session.flush()
    return document(session, job)


def list_page(
    session: Session,
    tenant_id: str,
    filters: Filters,
    *,
    state: Sequence[JobState],
    dataset_id: str | None,
    page_size: int,
    page_token: str | None,
) -> Page[JobDocument]:
    """Return a page of the tenant's jobs, newest first."""
    datasets = select(Dataset.id).where(Dataset.tenant_id == tenant_id, filters.has_text(Dataset))
    conditions = filters.conditions(Job, Job.dataset_id.in_(datasets))
    query = select(Job).where(Job.tenant_id == tenant_id, *conditions)
    query = query.where(Job.state.in_(state) if state else Job.state != JobState.DELETING)
    if dataset_id is not None:
        query = query.where(Job.dataset_id == dataset_id)
    rows, token = newest_page(session, query, Job, page_size, page_token)
    return Page(items=[document(session, row) for row in rows], next_page_token=token)


def list_models(session: Session, job: Job, page_size: int, page_token: str | None) -> Page[ModelDocument]:
    """Return a page of the models of a job, by number."""
    query = select(Model).where(Model.job_id == job.id).order_by(Model.number)
    if (after := decode_number(page_token)) is not None:
        query = query.where(Model.number > after)
    rows = session.execute(query.limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [str(row.number) for row in rows])
    dataset = session.get_one(Dataset, job.dataset_id)
    samples = scored_on(JobSpecification.model_validate(job.spec), dataset)
    items = [model_document(row, job.selected_model_id, samples) for row in rows]
    return Page(items=items, next_page_token=token)


def list_events(session: Session, job_id: str, page_size: int, page_token: str | None) -> Page[EventDocument]:
    """Return a page of the events of a job, in order."""
    after = decode_number(page_token) or 0
    found = events_after(session, job_id, after, page_size + 1)
    if not found and not after:
        require_events(session, session.get_one(Job, job_id))
    items, token = cut_page(found, page_size, [str(event.id) for event in found])
    return Page(items=items, next_page_token=token)


def require_events(session: Session, job: Job) -> None:
    """Raise `Gone` if the age of a job's events has removed them."""
    if is_swept(session, job, "events"):
        raise Gone(
            f"the job {job.id} has no events any more: {why_gone('events')}",
            hint=f"its times and its results stay: GET /v1/jobs/{job.id}",
        )


def events_after(
    session: Session, job_id: str, after: int, most: int, until: int | None = None
) -> list[EventDocument]:
    """Return at most `most` events of a job with an id above `after`, and up to `until`, in order."""
    query = select(Event).where(Event.job_id == job_id, Event.id > after).order_by(Event.id).limit(most)
    if until is not None:
        query = query.where(Event.id <= until)
    rows = session.execute(query).scalars()
    return [EventDocument.model_validate(row, from_attributes=True) for row in rows]
