"""The verbs of jobs: pause, resume, stop, cancel, retry, extend.

Each verb is one transaction that locks the job's row. Workers learn of it with their next heartbeat, and claim no slices of a
paused or stopping job; the scheduler does the rest. `domain.states.JobState` draws the transitions.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.errors import Invalid, WrongState
from api.jobs.schemas import BudgetExtension
from domain.field_problem import FieldProblem
from domain.job_specification import MOST_EPOCHS, MOST_MODELS, JobSpecification
from domain.states import JobState, ModelState, SliceState
from store import audit, events, outbox
from store.budget import end_rest
from store.database import database_now
from store.quotas import add_device_seconds, seconds_since_claim
from store.retention import is_swept, why_gone
from store.tables import Job, Model, Slice


def pause(session: Session, job: Job) -> None:
    """Pause a job: models in training finish their epoch, and their weights are kept. A paused job stays paused."""
    if job.state == JobState.PAUSED:
        return
    _require(job, "paused", JobState.QUEUED, JobState.RUNNING)
    audit.record(session, "job.paused", job)
    job.paused_at = database_now(session)
    _become(session, job, JobState.PAUSED)
    outbox.post(session, outbox.ADVANCE, job.id)


def resume(session: Session, job: Job) -> None:
    """Resume a paused job. A queued or running job stays as it is."""
    if job.state in (JobState.QUEUED, JobState.RUNNING):
        return
    _require(job, "resumed", JobState.PAUSED)
    audit.record(session, "job.resumed", job)
    end_rest(job, database_now(session))
    _become(session, job, JobState.QUEUED)
    outbox.post(session, outbox.ADVANCE, job.id)


def stop(session: Session, job: Job) -> None:
    """End the training of a job: the best model so far is selected, and its latents are computed."""
    if job.state in (JobState.STOPPING, JobState.INFERRING, JobState.DONE):
        return
    _require(job, "stopped", JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)
    audit.record(session, "job.stopped", job)
    end_rest(job, database_now(session))
    _become(session, job, JobState.STOPPING)
    outbox.post(session, outbox.ADVANCE, job.id)


def cancel(session: Session, job: Job) -> None:
    """Cancel a job now: running slices lose their leases, and all results so far stay readable."""
    if job.state == JobState.CANCELLED:
        return
    _require(
        job,
        "cancelled",
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.PAUSED,
        JobState.STOPPING,
        JobState.INFERRING,
    )
    audit.record(session, "job.cancelled", job)
    now = database_now(session)
    device_seconds = 0.0
    for piece in session.execute(
        select(Slice).where(Slice.job_id == job.id, Slice.state.in_([SliceState.QUEUED, SliceState.LEASED]))
    ).scalars():
        if piece.state == SliceState.LEASED:
            device_seconds += seconds_since_claim(session, piece)
        piece.state, piece.ended_at = SliceState.CANCELLED, now
        piece.drop_lease()
    for model in _models(session, job, ModelState.QUEUED, ModelState.TRAINING):
        model.end_reason, model.ended_at = "the job was cancelled", now
        _set_state(session, model, ModelState.CANCELLED)
    job.ended_at = now
    _become(session, job, JobState.CANCELLED)
    session.flush()
    add_device_seconds(session, job.tenant_id, device_seconds)


def retry(session: Session, job: Job) -> None:
    """Continue a job that failed or was cancelled, from the last weights of its models."""
    _require(job, "retried", JobState.FAILED, JobState.CANCELLED)
    _require_weights(session, job, "retried")
    audit.record(session, "job.retried", job)
    for model in _models(session, job, ModelState.FAILED, ModelState.CANCELLED):
        _reopen(session, model)
    _begin_again(session, job)


def extend(session: Session, job: Job, more: BudgetExtension) -> None:
    """Add to the budget of a job that is done or has not ended: new models begin, and models without epochs left continue."""
    _require(
        job,
        "extended",
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.PAUSED,
        JobState.DONE,
    )
    _require_weights(session, job, "extended")
    specification = JobSpecification.model_validate(job.spec)
    budget = specification.budget
    _check_extension(specification, more)
    added = {"models": budget.models + more.models, "epochs": budget.epochs + more.epochs}
    for name in ("wall_seconds", "device_seconds"):
        limit, seconds = getattr(budget, name), getattr(more, name)
        added |= {name: limit + seconds} if limit is not None and seconds else {}
    job.spec = job.spec | {"budget": job.spec["budget"] | added}
    audit.record(session, "job.extended", job, **more.model_dump(exclude_defaults=True))
    events.record(session, job.id, "job.extended", budget=job.spec["budget"])
    for model in _models(session, job, ModelState.TRAINED):
        has_more = model.epochs_trained < added["epochs"]
        if has_more and model.checkpoint_key is not None and model.refit_of is None:
            _reopen(session, model)
            model.target_epochs = model.epochs_trained  # the strategy sets the next target
    for model in _models(session, job, ModelState.CANCELLED):
        if model.refit_of is None:
            _reopen(session, model)
    if job.state == JobState.DONE:
        _begin_again(session, job)
    else:
        outbox.post(session, outbox.ADVANCE, job.id)


def _check_extension(specification: JobSpecification, more: BudgetExtension) -> None:
    budget = specification.budget
    problems = [
        FieldProblem(
            pointer=f"/{name}",
            code="too_many",
            message=f"expected a total of at most {most}; it would be {total}",
        )
        for name, total, most in (
            ("models", budget.models + more.models, MOST_MODELS),
            ("epochs", budget.epochs + more.epochs, MOST_EPOCHS),
        )
        if total > most
    ]
    problems += [
        FieldProblem(
            pointer=f"/{name}",
            code="no_limit",
            message=f"the job has no budget.{name} that could be extended",
        )
        for name in ("wall_seconds", "device_seconds")
        if getattr(more, name) and getattr(budget, name) is None
    ]
    if not (more.models or more.epochs or more.wall_seconds or more.device_seconds):
        problems.append(
            FieldProblem(pointer="", code="nothing", message="expected something to add; got nothing")
        )
    if problems:
        raise Invalid.of(problems)


def _reopen(session: Session, model: Model) -> None:
    """Let a model that had ended continue from its last weights."""
    model.end_reason, model.ended_at, model.is_alone = None, None, False
    has_begun = model.checkpoint_key is not None
    _set_state(session, model, ModelState.TRAINING if has_begun else ModelState.QUEUED)


def _set_state(session: Session, model: Model, state: ModelState) -> None:
    model.state = state
    events.record_model_state(session, model)


def _begin_again(session: Session, job: Job) -> None:
    end_rest(job, database_now(session))
    job.error = None
    _become(session, job, JobState.QUEUED)
    outbox.post(session, outbox.ADVANCE, job.id)


def _models(session: Session, job: Job, *states: ModelState) -> list[Model]:
    of_job = select(Model).where(Model.job_id == job.id, Model.state.in_(states))
    return list(session.execute(of_job.order_by(Model.number)).scalars())


def _become(session: Session, job: Job, state: JobState) -> None:
    job.state = state
    events.record(session, job.id, "job.state", state=state)


def _require_weights(session: Session, job: Job, verb: str) -> None:
    if is_swept(session, job, "checkpoints"):
        raise WrongState(
            f"the job {job.id} cannot be {verb}: the weights of its models are gone, {why_gone('checkpoints')}",
            hint="start a new job with the same specification; if this one selected a model, its weights stay: "
            f'"warm_start": {{"job_id": "{job.id}"}} begins with them',
        )


def _require(job: Job, verb: str, *states: JobState) -> None:
    if job.state not in states:
        *first, last = [str(state) for state in states]
        expected = f"{', '.join(first)} or {last}" if first else last
        raise WrongState(f"the job {job.id} is {job.state}: only one that is {expected} can be {verb}")
