"""The last slice of a job: latents of the selected model for every trial, its scores, and the job's diagnostics."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.constant_outputs import constant_output_losses, sv_bits_per_spike
from store import events
from store.array_store import delete_objects
from store.database import database_now
from store.lineage import lineage
from store.states import JobState
from store.tables import CurvePoint, Decision, Job, Model, Slice
from worker.checkpoints import load_checkpoint
from worker.diagnostics import best_epoch, diagnose
from worker.latents import request_of, store_latents
from worker.slice_work import Progress, TrainingProcess, Work, finite


def infer(process: TrainingProcess, work: Work) -> None:
    """Store the latents of every trial, score them, and end the job with its diagnostics."""
    model = work.models[0]
    progress = Progress(process, work)
    state = load_checkpoint(process.arrays, model.checkpoint_key or "")
    models, kept = _job_so_far(process, work, best_epoch(state))
    path = f"models/{model.id}/latents/{work.lease.token}"
    scores = store_latents(process, request_of(work), state, path, progress.beat)
    training_data, architecture = process.training_data(work), work.architecture()
    if kept is not None and kept.sv_loss is not None:
        scores["bits_per_spike_sv"] = finite(sv_bits_per_spike(architecture, training_data, kept.sv_loss))
    progress.beat()
    reference = constant_output_losses(architecture, training_data)
    bits_per_spike = scores.get("bits_per_spike_sv")
    diagnostics = (
        diagnose(work, models, kept, reference, bits_per_spike) if reference.held_out_samples else None
    )

    replaced: list[str] = []

    def write(session: Session, job: Job, _piece: Slice) -> None:
        row = session.get_one(Model, model.id)
        replaced[:] = [old] if (old := row.latents_path) and old.startswith(f"models/{row.id}/") else []
        row.latents_path = path
        row.scores = {**row.scores, **scores}
        job.diagnostics = diagnostics
        if diagnostics is not None:
            events.record(session, job.id, "job.diagnostics", **diagnostics)
        job.state, job.ended_at = JobState.DONE, database_now(session)
        events.record(
            session, job.id, "job.state", state=job.state, selected_model_id=model.id, scores=row.scores
        )

    process.final_report(work, write)
    for old in replaced:
        delete_objects(process.arrays, old)


def _job_so_far(process: TrainingProcess, work: Work, epoch: int) -> tuple[list[Model], CurvePoint | None]:
    """The models of the search, by number, and the point of the learning curve at an epoch of what is inferred with."""
    with process.database.read() as session:
        of_search = (Model.job_id == work.job.id) & Model.final_fit_of.is_(None)
        of_job = select(Model).where(of_search).order_by(Model.number)
        return list(session.execute(of_job).scalars()), point_at(session, work.models[0], epoch)


def point_at(session: Session, model: Model, epoch: int) -> CurvePoint | None:
    """The point of an epoch that a model has trained, or that it took over from whom it copied."""
    of_job = select(Decision).where(Decision.job_id == model.job_id).order_by(Decision.id)
    trained_by = model.number
    for segment in lineage(session.execute(of_job).scalars().all(), model.number):
        if segment.from_epoch < epoch and (segment.to_epoch is None or epoch <= segment.to_epoch):
            trained_by = segment.model_number
    of_epoch = select(CurvePoint).join(Model, Model.id == CurvePoint.model_id)
    of_epoch = of_epoch.where(
        Model.job_id == model.job_id, Model.number == trained_by, CurvePoint.epoch == epoch
    )
    return session.execute(of_epoch).scalar_one_or_none()
