"""What routes of jobs do in the database."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.datasets.service import find_ready
from api.errors import NotFound, WrongState
from api.idempotency import fingerprint, store_answer, stored_answer
from api.jobs.checks import JobData, check, step_bytes, warnings
from api.jobs.schemas import EventDocument, JobDiagnostics, JobDocument, JobPreview, JobProgress
from api.models.schemas import ModelDocument
from api.models.service import document as model_document
from api.pagination import Page, cut_page, decode_id, decode_number
from store import events, outbox
from store.database import LOCK, database_now
from store.identifiers import PATTERN, new_id
from store.specification import JobSpecification, split_trials
from store.states import JobState, ModelState, SliceState
from store.tables import CurvePoint, Event, Job, Model, Slice, Trial


def document(session: Session, row: Job) -> JobDocument:
    """A job as it is answered."""
    specification = JobSpecification.model_validate(row.spec)
    base = f"/v1/jobs/{row.id}"
    links = {
        "self": base,
        "dataset": f"/v1/datasets/{row.dataset_id}",
        "models": f"{base}/models",
        "events": f"{base}/events",
        "event_stream": f"{base}/events/stream",
    }
    if row.selected_model_id:
        links["selected_model"] = f"/v1/models/{row.selected_model_id}"
    return JobDocument(
        id=row.id,
        name=row.name,
        dataset_id=row.dataset_id,
        state=row.state,
        progress=_progress(session, row, specification),
        selected_model_id=row.selected_model_id,
        diagnostics=None if row.diagnostics is None else JobDiagnostics.model_validate(row.diagnostics),
        error=row.error,
        specification=specification,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        links=links,
    )


def _progress(session: Session, row: Job, specification: JobSpecification) -> JobProgress:
    budget = specification.budget.models * specification.budget.epochs
    of_job = Model.job_id == row.id
    ended = session.execute(
        select(func.count()).where(of_job, Model.state.not_in([ModelState.QUEUED, ModelState.TRAINING]))
    ).scalar_one()
    # The points are ahead of the models' rows, which change at the end of a slice.
    trained = session.execute(
        select(func.count())
        .select_from(CurvePoint)
        .join(Model, Model.id == CurvePoint.model_id)
        .where(of_job)
    ).scalar_one()
    best = session.execute(
        select(CurvePoint.model_id, CurvePoint.smoothed_sv_loss)
        .join(Model, Model.id == CurvePoint.model_id)
        .where(of_job, CurvePoint.smoothed_sv_loss.is_not(None))
        .order_by(CurvePoint.smoothed_sv_loss)
        .limit(1)
    ).first()
    state = JobState(row.state)
    fraction = 1.0 if state == JobState.DONE else min(1.0, trained / budget)
    elapsed = None
    if row.started_at is not None:
        elapsed = ((row.ended_at or database_now(session)) - row.started_at).total_seconds()
    left = None
    if elapsed is not None and trained and not state.is_final:
        left = elapsed * (1 - fraction) / fraction
        if specification.budget.wall_seconds is not None:
            left = min(left, max(0.0, specification.budget.wall_seconds - elapsed))
    return JobProgress(
        fraction=fraction,
        models=specification.budget.models,
        models_ended=ended,
        epochs_trained=trained,
        epochs_budget=budget,
        best_smoothed_sv_loss=best.smoothed_sv_loss if best else None,
        best_model_id=best.model_id if best else None,
        seconds_elapsed=elapsed,
        seconds_left=left,
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


def preview(session: Session, tenant_id: str, specification: JobSpecification) -> JobPreview:
    """Check a specification against its data set, and say what it would do.

    Raises
    ------
    NotFound, WrongState, Invalid
        Everything that can be known before training.
    """
    dataset = find_ready(session, tenant_id, specification.dataset_id)
    of_trials = (
        select(Trial.split, Trial.length_bins).where(Trial.dataset_id == dataset.id).order_by(Trial.trial)
    )
    rows = session.execute(of_trials).all()
    given = [row.split for row in rows]
    split = split_trials(given, specification.training.valid_fraction, specification.seed)
    data = JobData(dataset, [row.length_bins for row in rows], split, is_given="valid" in given)
    check(specification, data)
    training = data.training_trials
    steps = -(-training // min(specification.training.batch_size, training))
    return JobPreview(
        valid=True,
        models=specification.budget.models,
        epochs=specification.budget.models * specification.budget.epochs,
        training_trials=training,
        validation_trials=data.validation_trials,
        steps_per_epoch=steps,
        step_memory_bytes=step_bytes(specification, data),
        external_inputs=specification.architecture.of_data(dataset.report)["external_inputs"],
        specification=specification,
        warnings=warnings(specification, data),
    )


def create(
    session: Session, tenant_id: str, specification: JobSpecification, idempotency_key: str | None
) -> JobDocument:
    """Write a job and ask the scheduler to begin it."""
    request = fingerprint("POST /v1/jobs", specification.model_dump_json())
    if (answer := stored_answer(session, tenant_id, idempotency_key, request)) is not None:
        return JobDocument.model_validate(answer)
    preview(session, tenant_id, specification)
    row = Job(
        id=new_id("job"),
        tenant_id=tenant_id,
        dataset_id=specification.dataset_id,
        name=specification.name,
        state=JobState.QUEUED,
        spec=specification.model_dump(mode="json"),
        created_at=database_now(session),
    )
    session.add(row)
    session.flush()
    events.record(session, row.id, "job.state", state=row.state)
    outbox.post(session, outbox.ADVANCE, row.id)
    session.flush()
    created = document(session, row)
    store_answer(session, tenant_id, idempotency_key, request, created.model_dump(mode="json"))
    return created


def cancel(session: Session, tenant_id: str, job_id: str) -> JobDocument:
    """Drop a job now: what is under way loses its lease, and every result so far stays readable.

    Raises
    ------
    WrongState
        If it has ended already. One that is cancelled already stays so.
    """
    job = find(session, tenant_id, job_id, lock=True)
    state = JobState(job.state)
    if state == JobState.CANCELLED:
        return document(session, job)
    if state.is_final:
        raise WrongState(
            f"the job {job_id} is {state}: only one that is queued, running or inferring can be cancelled"
        )
    now = database_now(session)
    for piece in session.execute(
        select(Slice).where(Slice.job_id == job_id, Slice.state.in_([SliceState.QUEUED, SliceState.LEASED]))
    ).scalars():
        piece.state, piece.ended_at = SliceState.CANCELLED, now
        piece.lease_token = piece.lease_expires_at = None
    for model in session.execute(
        select(Model).where(Model.job_id == job_id, Model.state.in_([ModelState.QUEUED, ModelState.TRAINING]))
    ).scalars():
        model.state, model.end_reason, model.ended_at = ModelState.CANCELLED, "the job was cancelled", now
    job.state, job.ended_at = JobState.CANCELLED, now
    events.record(session, job_id, "job.state", state=job.state)
    session.flush()
    return document(session, job)


def list_page(
    session: Session, tenant_id: str, state: JobState | None, page_size: int, page_token: str | None
) -> Page[JobDocument]:
    """A page of the tenant's jobs, newest first."""
    query = select(Job).where(Job.tenant_id == tenant_id).order_by(Job.id.desc())
    if state is not None:
        query = query.where(Job.state == state)
    if (before := decode_id(page_token)) is not None:
        query = query.where(Job.id < before)
    rows = session.execute(query.limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [row.id for row in rows])
    return Page(items=[document(session, row) for row in rows], next_page_token=token)


def list_models(session: Session, job: Job, page_size: int, page_token: str | None) -> Page[ModelDocument]:
    """A page of the models of a job, by number."""
    query = select(Model).where(Model.job_id == job.id).order_by(Model.number)
    if (after := decode_number(page_token)) is not None:
        query = query.where(Model.number > after)
    rows = session.execute(query.limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [str(row.number) for row in rows])
    return Page(items=[model_document(row, job.selected_model_id) for row in rows], next_page_token=token)


def list_events(session: Session, job_id: str, page_size: int, page_token: str | None) -> Page[EventDocument]:
    """A page of what happened to a job, in order."""
    found = events_after(session, job_id, decode_number(page_token) or 0, page_size + 1)
    items, token = cut_page(found, page_size, [str(event.id) for event in found])
    return Page(items=items, next_page_token=token)


def events_after(session: Session, job_id: str, after: int, most: int) -> list[EventDocument]:
    """Events of a job with a larger id, in order."""
    rows = session.execute(
        select(Event).where(Event.job_id == job_id, Event.id > after).order_by(Event.id).limit(most)
    ).scalars()
    return [EventDocument.model_validate(row, from_attributes=True) for row in rows]
