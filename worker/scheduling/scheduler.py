"""`advance(job)`: decide what a job does next, in a short, idempotent transaction under the lock of the job's row.

There is no long-lived driver. The end of each slice posts a message to advance the job, and the maintenance loop posts one for
jobs whose message was lost. `advance` reads the rows, asks the strategy, writes the decisions and queues slices.

Epochs have one name at each level: `budget.epochs` limits a job, `target_epochs` is where a model trains to next, `last_epoch` is
where a slice ends at the latest, and the epochs of a pack are those that its models train together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.job_specification import JobSpecification
from domain.states import JobState, ModelState, SliceState
from store import events, outbox
from store.budget import spent
from store.database import LOCK, Database, database_now
from store.identifiers import new_id
from store.lineage import selection_order
from store.settings import Settings
from store.tables import Job, Model, Slice
from worker.scheduling import refit
from worker.scheduling.decisions import carry_out
from worker.scheduling.model_rows import end_model, read_marks, read_models, record
from worker.scheduling.pack_planner import form_packs
from worker.scheduling.strategies import Decision, ModelRecord, Strategy, make_strategy

_ACTIVE = (SliceState.QUEUED, SliceState.LEASED)


@dataclass(frozen=True)
class Precomputed:
    """The decisions of a strategy, computed before any lock is held, and the history that they follow from."""

    history: list[ModelRecord]
    decisions: list[Decision]


def precompute(database: Database, job_id: str) -> Precomputed | None:
    """Compute the decisions before `advance` if that takes seconds, so that nobody waits for a lock; else return None."""
    with database.read() as session:
        job = session.get(Job, job_id)
        if job is None or job.state not in (JobState.QUEUED, JobState.RUNNING):
            return None
        specification = JobSpecification.model_validate(job.spec)
        strategy = make_strategy(specification)
        if not strategy.takes_seconds:
            return None
        history = _history(session, specification, strategy, read_models(session, job_id))
    return Precomputed(history, strategy.decide(history))


def advance(
    session: Session, job_id: str, settings: Settings, precomputed: Precomputed | None = None
) -> None:
    """Write what a job does next. A second run changes nothing more.

    Parameters
    ----------
    session
        A writing transaction; the caller commits it.
    job_id
        The job. If it has ended or does not exist, nothing happens.
    settings
        They limit the size of packs.
    precomputed
        Decisions that were computed before. If the history has changed since, the job is advanced again.
    """
    job = session.get(Job, job_id, with_for_update=LOCK)
    if job is None or JobState(job.state).is_final:
        return
    active = _active_slices(session, job_id)
    if job.state == JobState.PAUSED:
        _withdraw(session, active)  # a lost worker may have left some
        return
    specification = JobSpecification.model_validate(job.spec)
    if job.state == JobState.INFERRING:
        _end_if_inference_failed(session, job)
        return
    models = read_models(session, job_id)
    if (reason := _reason_to_end_all(session, job, specification)) is not None:
        # The budget does not end a refit; only stopping the job does.
        ending = models if job.state == JobState.STOPPING else [m for m in models if m.refit_of is None]
        _end_all(session, ending, active, reason)
    else:
        _end_models_out_of_epochs(session, specification, models, _busy(active))
        strategy = make_strategy(specification)
        history = _history(session, specification, strategy, models)
        if precomputed is not None and precomputed.history != history:
            outbox.post(session, outbox.ADVANCE, job_id)
            return
        decisions = strategy.decide(history) if precomputed is None else precomputed.decisions
        models += carry_out(session, job, specification, models, decisions)
    refit.continue_training(session, models, _busy(active))
    _queue_slices(session, job, models, _busy(active), settings)
    if all(ModelState(model.state).is_final for model in models):
        _select(session, job, specification, models)


def _active_slices(session: Session, job_id: str) -> list[Slice]:
    of_job = select(Slice).where(Slice.job_id == job_id, Slice.state.in_(_ACTIVE))
    return list(session.execute(of_job.order_by(Slice.id)).scalars())


def _busy(active: Sequence[Slice]) -> set[str]:
    """Return the ids of the models in queued or running slices."""
    return {model_id for piece in active if piece.state in _ACTIVE for model_id in piece.model_ids}


def _reason_to_end_all(session: Session, job: Job, specification: JobSpecification) -> str | None:
    if job.state == JobState.STOPPING:
        return "the job was stopped"
    budget = specification.budget
    if budget.wall_seconds is None and budget.device_seconds is None:
        return None
    return spent(session, job).reason_to_end(budget)


def _end_all(session: Session, models: Sequence[Model], active: Sequence[Slice], reason: str) -> None:
    """Cancel queued slices and end idle models. Running slices finish."""
    _withdraw(session, active)
    busy = _busy(active)
    for model in models:
        if ModelState(model.state).is_final or model.id in busy:
            continue
        if model.checkpoint_key is not None:
            end_model(session, model, ModelState.TRAINED, reason)
        else:
            end_model(session, model, ModelState.CANCELLED, f"{reason} before it had trained")


def _withdraw(session: Session, active: Sequence[Slice]) -> None:
    """Cancel the queued slices."""
    for piece in active:
        if piece.state == SliceState.QUEUED:
            piece.state, piece.ended_at = SliceState.CANCELLED, database_now(session)


def _history(
    session: Session, specification: JobSpecification, strategy: Strategy, models: Sequence[Model]
) -> list[ModelRecord]:
    """Return the models of a search as its strategy sees them."""
    searched = list(specification.searched_space())
    marks = read_marks(session, models[0].job_id) if strategy.reads_marks and models else {}
    return [
        record(model, searched, marks.get(model.number, ())) for model in models if model.refit_of is None
    ]


def _end_models_out_of_epochs(
    session: Session, specification: JobSpecification, models: Sequence[Model], busy: set[str]
) -> None:
    for model in models:
        is_idle = not ModelState(model.state).is_final and model.id not in busy
        if is_idle and model.refit_of is None and model.epochs_trained >= specification.budget.epochs:
            end_model(session, model, ModelState.TRAINED, "its budget of epochs is spent")


def _queue_slices(
    session: Session, job: Job, models: Sequence[Model], busy: set[str], settings: Settings
) -> None:
    """Queue the next slice of every idle pack that has epochs left."""
    idle = [
        model
        for model in models
        if not ModelState(model.state).is_final
        and model.id not in busy
        and model.epochs_trained < model.target_epochs
    ]
    if not idle:
        return
    for members in form_packs(session, idle, [model for model in models if model.id in busy], settings):
        _queue(session, job, "train", members, members[0].target_epochs)


def _queue(session: Session, job: Job, kind: str, members: Sequence[Model], last_epoch: int) -> None:
    session.add(
        Slice(
            id=new_id("sli"),
            tenant_id=job.tenant_id,
            job_id=job.id,
            kind=kind,
            pack=members[0].pack,
            model_ids=[model.id for model in members],
            first_epoch=members[0].epochs_trained,
            last_epoch=last_epoch,
            state=SliceState.QUEUED,
        )
    )
    outbox.post(session, outbox.RUN_SLICE)


def _select(session: Session, job: Job, specification: JobSpecification, models: Sequence[Model]) -> None:
    """Select the best model by `selection_order`, and queue its refit, or the inference of its latents."""
    candidates = [
        model
        for model in models
        if model.state in (ModelState.TRAINED, ModelState.STOPPED)
        and model.checkpoint_key is not None
        and model.smoothed_sv_loss is not None
        and model.refit_of is None
    ]
    if not candidates:
        reasons = sorted({f"{model.state}: {model.end_reason}" for model in models})
        _fail(
            session, job, "no_model_to_select", "no model was trained to select from: " + "; ".join(reasons)
        )
        return
    best = min(candidates, key=selection_order)
    job.selected_model_id, job.final_model_id = best.id, None
    if specification.inference.refit and job.state != JobState.STOPPING:
        final = refit.of(session, models, best)
        if final is None:
            final = refit.begin(session, job, models, best)
            _queue(session, job, "train", [final], final.target_epochs)
            return
        if final.state == ModelState.TRAINED:  # else the job stores the latents of the selected model
            job.final_model_id, best = final.id, final
    job.state = JobState.INFERRING
    _queue(session, job, "infer", [best], best.epochs_trained)
    events.record(session, job.id, "job.state", state=job.state, selected_model_id=job.selected_model_id)


def _end_if_inference_failed(session: Session, job: Job) -> None:
    of_job = select(Slice).where(Slice.job_id == job.id, Slice.kind == "infer")
    pieces = list(session.execute(of_job.order_by(Slice.ended_at)).scalars())
    if any(piece.state in _ACTIVE for piece in pieces):
        return
    failed = [piece for piece in pieces if piece.state == SliceState.FAILED]
    message = (failed[-1].error or {}).get("message", "unknown") if failed else "its slice is missing"
    _fail(
        session,
        job,
        "inference_failed",
        f"the latents of the selected model could not be computed: {message}",
    )


def _fail(session: Session, job: Job, code: str, message: str) -> None:
    job.state, job.ended_at = JobState.FAILED, database_now(session)
    job.error = {"code": code, "message": message}
    events.record(session, job.id, "job.state", state=job.state, error=job.error)
