"""`advance(job)`: what comes next. A short, idempotent transaction under the lock of the job's row.

There is no long-lived driver: whoever ends a slice asks for `advance`, and the maintenance loop asks again for jobs that
somebody forgot. It reads the rows, asks the strategy, writes the decisions and queues slices.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store import events, outbox
from store.database import LOCK, database_now
from store.identifiers import new_id
from store.settings import Settings
from store.specification import JobSpecification
from store.states import JobState, ModelState, SliceState
from store.tables import Dataset, Job, Model, Slice, Worker
from worker.strategies import Begin, ModelRecord, make_strategy

WORKER_SEEN_SECONDS = 30.0
"""A training process that was seen within this time counts as alive."""

_ACTIVE = (SliceState.QUEUED, SliceState.LEASED)


def advance(session: Session, job_id: str, settings: Settings) -> None:
    """Write what comes next for a job. Running it twice changes nothing more.

    Parameters
    ----------
    session
        A writing transaction; the caller commits it.
    job_id
        The job; one that ended, or is not there, is left alone.
    settings
        For the size of packs.
    """
    job = session.get(Job, job_id, with_for_update=LOCK)
    if job is None or JobState(job.state).is_final:
        return
    specification = JobSpecification.model_validate(job.spec)
    slices = _slices(session, job_id)
    if job.state == JobState.INFERRING:
        _end_if_inference_failed(session, job, slices)
        return
    models = _models(session, job_id)
    begun = make_strategy(specification).decide([_record(model) for model in models])
    models += _begin(session, job, specification, begun, settings)
    _end_models_of_failed_slices(session, job, models, slices)
    _end_models_out_of_budget(session, job, specification, models, slices)
    _queue_slices(session, job, specification, models, slices)
    if all(ModelState(model.state).is_final for model in models):
        _select(session, job, models)


def _models(session: Session, job_id: str) -> list[Model]:
    return list(session.execute(select(Model).where(Model.job_id == job_id).order_by(Model.number)).scalars())


def _slices(session: Session, job_id: str) -> list[Slice]:
    """Slices that say something about what comes next, oldest first: the newest of each pack, and all not yet ended."""
    newest = select(func.max(Slice.id)).where(Slice.job_id == job_id).group_by(Slice.pack)
    of_job = select(Slice).where(Slice.job_id == job_id, Slice.state.in_(_ACTIVE) | Slice.id.in_(newest))
    return list(session.execute(of_job.order_by(Slice.id)).scalars())


def _record(model: Model) -> ModelRecord:
    return ModelRecord(
        number=model.number,
        hyperparameters=model.hyperparameters,
        epochs_trained=model.epochs_trained,
        smoothed_sv_loss=model.smoothed_sv_loss,
        is_final=ModelState(model.state).is_final,
    )


def _begin(
    session: Session, job: Job, specification: JobSpecification, begun: Sequence[Begin], settings: Settings
) -> list[Model]:
    """Add the rows of new models, spread over as many packs as there are workers to train them."""
    if not begun:
        return []
    packs = -(-len(begun) // settings.pack_models)
    last = session.execute(select(func.max(Model.pack)).where(Model.job_id == job.id)).scalar_one()
    first = 0 if last is None else last + 1
    report = session.get_one(Dataset, job.dataset_id).report
    models = [
        Model(
            id=new_id("mod"),
            tenant_id=job.tenant_id,
            job_id=job.id,
            number=decision.number,
            pack=first + position % packs,
            state=ModelState.QUEUED,
            seed=decision.seed,
            architecture=specification.architecture.of_data(report),
            hyperparameters=decision.hyperparameters,
            epochs_trained=0,
            scores={},
        )
        for position, decision in enumerate(begun)
    ]
    session.add_all(models)
    session.flush()
    for model in models:
        events.record(
            session, job.id, "model.state", model_id=model.id, state=model.state, number=model.number
        )
    return models


def end_model(session: Session, model: Model, state: ModelState, reason: str) -> None:
    """Write that a model trains no more, and why."""
    model.state, model.end_reason, model.ended_at = state, reason, database_now(session)
    events.record(session, model.job_id, "model.state", model_id=model.id, state=state, reason=reason)


def _is_active(piece: Slice) -> bool:
    return piece.state in _ACTIVE


def _end_models_of_failed_slices(
    session: Session, job: Job, models: Sequence[Model], slices: Sequence[Slice]
) -> None:
    """After a slice failed: its models are tried again each alone; one that was alone has failed."""
    newest: dict[int, Slice] = {piece.pack: piece for piece in slices}
    next_pack = 1 + max((model.pack for model in models), default=0)
    for pack, piece in newest.items():
        if piece.state != SliceState.FAILED:
            continue
        members = [m for m in models if m.pack == pack and not ModelState(m.state).is_final]
        if len(members) == 1:
            message = (piece.error or {}).get("message", "its slice failed")
            end_model(session, members[0], ModelState.FAILED, f"failed alone after its attempts: {message}")
            continue
        for model in members:
            model.pack, next_pack = next_pack, next_pack + 1


def _end_models_out_of_budget(
    session: Session,
    job: Job,
    specification: JobSpecification,
    models: Sequence[Model],
    slices: Sequence[Slice],
) -> None:
    limit = specification.budget.wall_seconds
    over = (
        limit is not None
        and job.started_at is not None
        and database_now(session) >= job.started_at + timedelta(seconds=limit)
    )
    if over:  # a slice not yet begun never will be; one under way ends by its own clock
        for piece in slices:
            if piece.state == SliceState.QUEUED:
                piece.state, piece.ended_at = SliceState.CANCELLED, database_now(session)
    busy = {piece.pack for piece in slices if _is_active(piece)}
    for model in models:
        if ModelState(model.state).is_final or model.pack in busy:
            continue
        if model.epochs_trained >= specification.budget.epochs:
            end_model(session, model, ModelState.TRAINED, "its budget of epochs is spent")
        elif over and model.checkpoint_key is not None:
            end_model(session, model, ModelState.TRAINED, "the job's wall clock is over")
        elif over:
            end_model(session, model, ModelState.CANCELLED, "the job's wall clock was over before it began")


def _queue_slices(
    session: Session,
    job: Job,
    specification: JobSpecification,
    models: Sequence[Model],
    slices: Sequence[Slice],
) -> None:
    """Give every pack that trains on, and has no slice, its next one."""
    busy = {piece.pack for piece in slices if _is_active(piece)}
    packs: dict[int, list[Model]] = {}
    for model in models:
        if not ModelState(model.state).is_final and model.pack not in busy:
            packs.setdefault(model.pack, []).append(model)
    _spread(session, models, packs, len(busy))
    for pack, members in packs.items():
        session.add(
            Slice(
                id=new_id("sli"),
                tenant_id=job.tenant_id,
                job_id=job.id,
                kind="train",
                pack=pack,
                model_ids=[model.id for model in members],
                first_epoch=members[0].epochs_trained,
                last_epoch=specification.budget.epochs,
                state=SliceState.QUEUED,
            )
        )
        outbox.post(session, outbox.RUN_SLICE)


def _spread(session: Session, models: Sequence[Model], packs: dict[int, list[Model]], busy: int) -> None:
    """Halve the largest packs as long as a worker would stand idle and the job has less than its share of the workers.

    On a GPU a pack takes hardly longer than one model, so packs stay together where other jobs want the workers.

    Parameters
    ----------
    models
        Of the job.
    packs
        Members of each pack that is to be queued; new packs are added to it.
    busy
        Packs of the job that are queued or under way already.
    """
    if all(len(members) == 1 for members in packs.values()):
        return
    seen = database_now(session) - timedelta(seconds=WORKER_SEEN_SECONDS)
    workers = session.execute(select(func.count()).where(Worker.seen_at > seen)).scalar_one()
    active = session.execute(select(func.count()).where(Slice.state.in_(_ACTIVE))).scalar_one()
    training = Job.state.in_([JobState.QUEUED, JobState.RUNNING])
    jobs = session.execute(select(func.count()).where(training)).scalar_one()
    idle, share = workers - active - len(packs), -(-workers // max(1, jobs)) - busy - len(packs)
    next_pack = 1 + max(model.pack for model in models)
    for pack in range(next_pack, next_pack + min(idle, share)):
        largest = max(packs.values(), key=len)
        if len(largest) == 1:
            return
        packs[pack] = largest[len(largest) // 2 :]
        del largest[len(largest) // 2 :]
        for model in packs[pack]:
            model.pack = pack


def _select(session: Session, job: Job, models: Sequence[Model]) -> None:
    """Select the model with the lowest smoothed SV loss and queue the inference of its latents."""
    candidates = [
        model
        for model in models
        if model.state == ModelState.TRAINED
        and model.checkpoint_key is not None
        and model.smoothed_sv_loss is not None
    ]
    if not candidates:
        reasons = sorted({f"{model.state}: {model.end_reason}" for model in models})
        _fail(
            session, job, "no_model_to_select", "no model was trained to select from: " + "; ".join(reasons)
        )
        return
    best = min(candidates, key=lambda model: (model.smoothed_sv_loss, model.number))
    job.selected_model_id = best.id
    job.state = JobState.INFERRING
    session.add(
        Slice(
            id=new_id("sli"),
            tenant_id=job.tenant_id,
            job_id=job.id,
            kind="infer",
            pack=best.pack,
            model_ids=[best.id],
            first_epoch=best.epochs_trained,
            last_epoch=best.epochs_trained,
            state=SliceState.QUEUED,
        )
    )
    events.record(session, job.id, "job.state", state=job.state, selected_model_id=best.id)
    outbox.post(session, outbox.RUN_SLICE)


def _end_if_inference_failed(session: Session, job: Job, slices: Sequence[Slice]) -> None:
    failed = [piece for piece in slices if piece.kind == "infer" and piece.state == SliceState.FAILED]
    if failed:
        message = (failed[-1].error or {}).get("message", "unknown")
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
