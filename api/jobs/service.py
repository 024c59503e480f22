"""The database operations of the routes of jobs."""

from collections.abc import Callable, Sequence

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from api.dependencies import Context
from api.errors import Gone, NotFound
from api.http.idempotency import fingerprint, store_answer, stored_answer
from api.http.pagination import Filters, Page, cut_page, decode_number, newest_page
from api.jobs import creation, lifecycle
from api.jobs.curves import best_curves
from api.jobs.progress import read_progress, running_on
from api.jobs.schemas import (
    BudgetExtension,
    EventDocument,
    JobChanges,
    JobDiagnostics,
    JobDocument,
    JobPreview,
    JobProgress,
)
from api.labels import change
from api.limits.quotas import check_amounts, check_budget, look_at_amounts
from api.models.schemas import ModelDocument
from api.models.service import document as model_document
from domain.job_specification import JobSpecification, scored_on
from domain.states import JobState
from store.database import LOCK
from store.identifiers import PATTERN
from store.retention import is_swept, why_gone
from store.settings import Settings
from store.tables import Dataset, Event, Job, Model


def document(session: Session, row: Job) -> JobDocument:
    """Return the document of a job."""
    return documents(session, [row])[0]


def documents(session: Session, rows: Sequence[Job], *, with_curves: bool = False) -> list[JobDocument]:
    """Return the documents of jobs. The number of queries does not depend on the number of jobs that have ended."""
    specifications = {row.id: JobSpecification.model_validate(row.spec) for row in rows}
    datasets = select(Dataset).where(Dataset.id.in_({row.dataset_id for row in rows}))
    held = {dataset.id: dataset for dataset in session.execute(datasets).scalars()}
    progress = read_progress(session, rows, specifications)
    sizes = _stored_bytes(session, [row.id for row in rows])
    running = running_on(session, [row.id for row in rows])
    found = [
        _document(row, specifications[row.id], held[row.dataset_id], progress[row.id], sizes[row.id])
        for row in rows
    ]
    best = {one.progress.best_model_id for one in found if one.progress.best_model_id} if with_curves else ()
    curves = best_curves(session, best) if best else {}
    for one in found:
        one.running_on = running.get(one.id, [])
        one.curve = curves.get(one.progress.best_model_id or "")
    return found


def _document(
    row: Job, specification: JobSpecification, dataset: Dataset, progress: JobProgress, stored_bytes: int
) -> JobDocument:
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
        progress=progress,
        selected_model_id=row.selected_model_id,
        final_model_id=row.final_model_id,
        warnings=row.warnings or [],
        trained_with=row.trained_with or [],
        precision=row.precision,
        scored_on=scored_on(specification, dataset),
        diagnostics=None if row.diagnostics is None else JobDiagnostics.model_validate(row.diagnostics),
        error=row.error,
        stored_bytes=stored_bytes,
        specification=specification,
        created_at=row.created_at,
        created_by=row.created_by,
        started_at=row.started_at,
        ended_at=row.ended_at,
        links=links,
    )


def _stored_bytes(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """Return the size of the weights and latents that each job keeps. A checkpoint that several models hold counts once."""
    of_jobs = Model.job_id.in_(job_ids)
    checkpoints = (
        select(Model.job_id, func.max(Model.checkpoint_bytes))
        .where(of_jobs, Model.checkpoint_bytes > 0)
        .group_by(Model.job_id, Model.checkpoint_key)
    )
    latents = (
        select(Model.job_id, func.sum(Model.latents_bytes))
        .where(of_jobs, Model.latents_bytes > 0)
        .group_by(Model.job_id)
    )
    sizes = dict.fromkeys(job_ids, 0)
    for query in (checkpoints, latents):
        for job_id, size in session.execute(query):
            sizes[job_id] += int(size or 0)
    return sizes


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


def preview(context: Context, specification: JobSpecification) -> JobPreview:
    """Check a job and say what it would do."""
    with context.database.read() as session:
        checked = creation.check(session, context.tenant_id, specification)
        return creation.preview(session, context.settings, context.tenant_id, checked)


def create(context: Context, specification: JobSpecification, idempotency_key: str | None) -> JobDocument:
    """Check and write a job; the same key again returns the answer of the first request."""
    tenant_id, request = context.tenant_id, fingerprint("POST /v1/jobs", specification.model_dump_json())
    if idempotency_key is None:  # else the answer may be stored, even if the quota is used up since
        with context.database.read() as session:
            look_at_amounts(session, context.settings, tenant_id, open_jobs=1)
    with context.database.write() as session:
        if (answer := stored_answer(session, tenant_id, idempotency_key, request)) is not None:
            return JobDocument.model_validate(answer)
        checked = creation.check(session, tenant_id, specification, to_write=True)
        row = creation.write(session, context.settings, tenant_id, checked)
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


def amend(
    session: Session, settings: Settings, tenant_id: str, job_id: str, changes: JobChanges
) -> JobDocument:
    """Change the name, the notes, the tags or the priority of a job."""
    job = find(session, tenant_id, job_id, lock=True)
    job.spec = job.spec | change(session, settings, job, changes, {"name": "", "priority": 0})
    session.flush()
    return document(session, job)


def list_page(
    session: Session,
    tenant_id: str,
    filters: Filters,
    *,
    state: Sequence[JobState],
    dataset_id: str | None,
    with_curves: bool = False,
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
    return Page(items=documents(session, rows, with_curves=with_curves), next_page_token=token)


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


def list_events(
    session: Session, job_id: str, page_size: int, page_token: str | None, *, newest_first: bool = False
) -> Page[EventDocument]:
    """Return a page of the events of a job, in order or in reverse order."""
    after = decode_number(page_token) or 0
    if newest_first:
        query = select(Event).where(Event.job_id == job_id).order_by(Event.id.desc()).limit(page_size + 1)
        found = _documents(session, query.where(Event.id < after) if after else query)
    else:
        found = events_after(session, job_id, after, page_size + 1)
    if not found and not after:
        require_events(session, session.get_one(Job, job_id))
    items, token = cut_page(found, page_size, [str(event.id) for event in found])
    return Page(items=items, next_page_token=token)


def last_event_id(session: Session, job_id: str) -> int:
    """Return the id of the newest event of a job; 0 if it has none."""
    return session.scalar(select(func.max(Event.id)).where(Event.job_id == job_id)) or 0


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
    return _documents(session, query)


def _documents(session: Session, query: Select[Event]) -> list[EventDocument]:
    return [EventDocument.model_validate(row, from_attributes=True) for row in session.scalars(query)]
